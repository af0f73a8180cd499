"""Writes a software bill of materials, CycloneDX 1.6 JSON, of the packages that requirements.lock installs.

It looks nothing up, and holds no time: equal locks give equal bytes. ``python -m scripts.dev.sbom LOCK OUT``.
Source: CycloneDX, schema/bom-1.6.schema.json.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from tpforge import __version__
from tpforge.outputs.atomic import write_atomic

_PACKAGE = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?==(?P<version>[^\s;\\\\]+)")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def bill_of(lock: str) -> dict[str, object]:
    """The bill of a lock's text: a component a package, with the SHA-256 of each of its files in the lock."""
    components = []
    for entry in re.split(r"\n(?=[A-Za-z0-9])", lock):
        if (match := _PACKAGE.match(entry)) is None:
            continue
        name, version = match["name"], match["version"]
        address = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
        hashes = [{"alg": "SHA-256", "content": found} for found in _HASH.findall(entry)]
        # A release has several files, of which one is installed: the hashes are not the component's own.
        reference = {"type": "distribution", "url": address}
        components.append(
            {
                "type": "library",
                "bom-ref": address,
                "name": name,
                "version": version,
                "purl": address,
                "externalReferences": [{**reference, "hashes": hashes}],
            }
        )
    product = {"type": "application", "bom-ref": "tpforge", "name": "tpforge", "version": __version__}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": product},
        "components": components,
        "dependencies": [{"ref": "tpforge", "dependsOn": [one["bom-ref"] for one in components]}],
    }


def main(arguments: list[str]) -> int:
    """Write the bill."""
    lock, out = map(Path, arguments)
    write_atomic(out, json.dumps(bill_of(lock.read_text(encoding="utf-8")), indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
