"""The images of what watches a server, by digest.

Digests are of the images' indexes, for all processors, as many public repositories pin these releases.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Image:
    """An image of a release; the compose specification takes a tag or a digest, not both."""

    name: str
    release: str
    digest: str

    @property
    def pinned(self) -> str:
        """Its name as a registry takes it."""
        return f"{self.name}@sha256:{self.digest}"


PROMETHEUS = Image(
    "prom/prometheus", "v3.15.0", "efd719c99d83b060d9daefdcf00360461adf279f45ef5391f8d111892118753e"
)
ALERTMANAGER = Image(
    "prom/alertmanager", "v0.34.1", "e9733bafb1bdef9b00e25a21f8f99dc26a22224bf16641ad754d1649f4c3357a"
)
GRAFANA = Image(
    "grafana/grafana", "13.2.3", "b28bae15e219c998fb0e0424ed724930cc61b1f61fb404d47c862f9a23f9e572"
)
