"""Asks a server of trtllm-serve's gRPC for one token: exit status 0, or 1 with the reason, 2 unreached.

It is the heartbeat's, in a process of its own; where nothing counts steps, a token has to come.
"""

from __future__ import annotations

import sys

from tpforge.errors import TpforgeError
from triton_repo.client.channel import ServerUnreachable
from triton_repo.trtllm_serve.readiness import generate_token_id

UNREACHED = 2


def main(url: str, timeout_s: str) -> int:
    """The exit status."""
    try:
        generate_token_id(url, deadline_s=float(timeout_s))
    except ServerUnreachable as error:
        print(f"canary: {error}", file=sys.stderr)
        return UNREACHED
    except TpforgeError as error:
        print(f"canary: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
