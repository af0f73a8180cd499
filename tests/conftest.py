"""What holds for every test."""

import os
import signal

# A shell without job control makes background processes, and their children, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Before torch is imported: see engines/reference/__init__.py.
os.environ.setdefault("GOMP_SPINCOUNT", "4000")
