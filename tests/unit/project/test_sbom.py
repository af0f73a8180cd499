"""The bill of materials names what the lock installs, as pip's own parser of requirements reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from packaging.requirements import Requirement

from scripts.dev.sbom import main

LOCK = Path(__file__).parents[3] / "requirements.lock"


def test_every_package_of_the_lock_is_a_component_with_its_version_and_hashes(tmp_path: Path) -> None:
    assert main([str(LOCK), str(tmp_path / "out" / "sbom.json")]) == 0
    bill = json.loads((tmp_path / "out" / "sbom.json").read_text())
    logical = re.sub(r"\\\n\s*", " ", LOCK.read_text()).splitlines()
    lines = [line for line in logical if line and not line.startswith("#")]
    wanted = {}
    for line in lines:
        text, *hashes = line.split("--hash=sha256:")
        requirement = Requirement(text.strip())
        (version,) = requirement.specifier
        wanted[requirement.name] = (version.version, [value.strip() for value in hashes])
    found = {
        one["name"]: (
            one["version"],
            [value["content"] for value in one["externalReferences"][0]["hashes"]],
        )
        for one in bill["components"]
    }
    assert found == wanted and len(found) > 50
    assert len({one["purl"] for one in bill["components"]}) == len(found)
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")


def test_equal_locks_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        main([str(LOCK), str(tmp_path / name)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
