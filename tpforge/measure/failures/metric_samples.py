"""One sample of a server's Prometheus metrics: its name, its labels, its value.

It parses no text: `triton_repo.client.metrics` does, by prometheus_client.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

MetricKind = Literal["counter", "gauge", "histogram", "summary", "untyped"]

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


@dataclass(frozen=True)
class MetricSample:
    """A sample by the name that the server writes; `kind` is that of its family, as its TYPE line says."""

    name: str
    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    kind: MetricKind = "untyped"

    @property
    def key(self) -> str:
        """The name with its labels, in Prometheus' own notation and the server's order."""
        if not self.labels:
            return self.name
        pairs = (f'{name}="{value.translate(_ESCAPES)}"' for name, value in self.labels.items())
        return f"{self.name}{{{','.join(pairs)}}}"
