"""What holds for every test."""

import os

# Before torch is imported: see engines/reference/__init__.py.
os.environ.setdefault("GOMP_SPINCOUNT", "4000")
