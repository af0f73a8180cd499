"""What holds for every test."""

import os
import signal

# A shell without job control makes what it puts into the background deaf to Ctrl-C, and children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before torch is imported: see engines/reference/__init__.py.
os.environ.setdefault("GOMP_SPINCOUNT", "4000")
