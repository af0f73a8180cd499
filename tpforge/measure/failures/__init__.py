"""Why a deployment fails or is slow: logs, metrics and runs against known signs."""
