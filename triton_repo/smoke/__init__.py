"""The smoke test: what a server must do to keep its contract, proven check by check, over each protocol."""

from triton_repo.smoke.check import CheckResult
from triton_repo.smoke.report import SmokeReport
from triton_repo.smoke.runner import SmokeOptions
from triton_repo.smoke.triton import run_smoke

__all__ = ["CheckResult", "SmokeOptions", "SmokeReport", "run_smoke"]
