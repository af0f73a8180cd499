"""What the Python models of the repository share; copied whole beside each ``1/model.py``.

It imports numpy, tokenizers and Triton's own module, relatively, and nothing of the checkout it came from.
"""

import faulthandler
import signal

# A process that hangs is ended by this signal, and first writes where it was to the server's log.
faulthandler.register(signal.SIGQUIT, file=2, chain=True)
