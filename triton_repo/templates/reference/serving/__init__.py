"""What the Python models of the repository share; copied whole beside each ``1/model.py``.

It imports numpy, tokenizers and Triton's own module, relatively, and nothing of the checkout it came from.
"""

import faulthandler

# A process that is aborted because it hangs, or that crashes, writes where it was to the server's log.
faulthandler.enable(file=2)
