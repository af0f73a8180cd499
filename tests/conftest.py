"""What holds for every test."""

import signal

from engines.reference.process import spin_briefly

# A shell without job control makes background processes, and their children, deaf to Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

spin_briefly()
