"""How many requests a server is working on, by its Prometheus metrics.

It reads one number of one family; it keeps no history.
"""

from __future__ import annotations

import re
import urllib.error
import urllib.request

from tpforge.errors import EnvironmentUnusable

FAMILY = "nv_trt_llm_request_metrics"
_SAMPLE = re.compile(rf"^{FAMILY}\{{([^}}]*)\}}\s+(\S+)", re.MULTILINE)


class ActiveRequests:
    """The gauge of requests that hold a slot."""

    def __init__(self, url: str, *, deadline_s: float = 5.0) -> None:
        self.url = url
        self._deadline_s = deadline_s

    def read(self) -> int | None:
        """Requests active now; None when the server has no such metric.

        Raises:
            EnvironmentUnusable: nothing answers at the URL.
        """
        # No proxy: the metrics port is the server's own.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(self.url, timeout=self._deadline_s) as answer:
                return parse_active(answer.read().decode("utf-8", errors="replace"))
        except (urllib.error.URLError, OSError) as error:
            raise EnvironmentUnusable(f"{self.url}: no metrics there: {error}") from error


def parse_active(text: str) -> int | None:
    """The number of active requests in Prometheus text; None when it is not there."""
    counts = [float(value) for labels, value in _SAMPLE.findall(text) if 'request_type="active"' in labels]
    return int(sum(counts)) if counts else None
