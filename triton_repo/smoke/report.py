"""The result of a smoke test: JSON for programs, JUnit XML for CI, lines for people, and its refusal.

It runs no check.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from xml.etree import ElementTree

from tpforge.errors import VerificationFailed
from tpforge.units import format_seconds
from triton_repo.smoke.check import CheckResult

SCHEMA_VERSION = 1
# What XML 1.0 cannot hold, escaped or not.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class SmokeReport:
    """Every check of one run, in order."""

    url: str
    engine: str | None
    results: tuple[CheckResult, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed, and at least one passed."""
        return self.count("fail") == 0 and self.count("pass") > 0

    def count(self, status: str) -> int:
        """How many checks ended so."""
        return sum(result.status == status for result in self.results)

    @property
    def seconds(self) -> float:
        """Time of all checks."""
        return sum(result.seconds for result in self.results)

    def to_json(self) -> str:
        """One object with a schema version."""
        content = {
            "schema_version": SCHEMA_VERSION,
            "url": self.url,
            "engine": self.engine,
            "passed": self.passed,
            "num_passed": self.count("pass"),
            "num_failed": self.count("fail"),
            "num_skipped": self.count("skip"),
            "seconds": round(self.seconds, 3),
            "checks": [{**asdict(result), "seconds": round(result.seconds, 3)} for result in self.results],
        }
        return json.dumps(content, indent=2, ensure_ascii=False)

    def to_junit(self) -> str:
        """A test suite with a case for each check; what it proves is the case's property."""
        suite = ElementTree.Element(
            "testsuite",
            name="tpforge smoke",
            tests=str(len(self.results)),
            failures=str(self.count("fail")),
            errors="0",
            skipped=str(self.count("skip")),
            time=f"{self.seconds:.3f}",
        )
        for result in self.results:
            group, _, name = result.name.rpartition(".")
            case = ElementTree.SubElement(
                suite,
                "testcase",
                classname=f"smoke.{group}" if group else "smoke",
                name=name,
                time=f"{result.seconds:.3f}",
            )
            properties = ElementTree.SubElement(case, "properties")
            ElementTree.SubElement(properties, "property", name="proves", value=result.proves)
            if result.status != "pass":
                kind = "failure" if result.status == "fail" else "skipped"
                ElementTree.SubElement(case, kind, message=_NOT_XML.sub("\ufffd", result.reason))
        ElementTree.indent(suite)
        text = ElementTree.tostring(suite, encoding="unicode")
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def line_of(check: CheckResult) -> str:
    """One check as a line: status, name, time, and what it proves or why not."""
    said = check.proves if check.status == "pass" else check.reason
    return f"{check.status.upper():4}  {check.name:28}  {format_seconds(check.seconds):>8}  {said}"


def summary(report: SmokeReport) -> str:
    """How many checks passed, failed and were skipped."""
    return f"{report.count('pass')} passed, {report.count('fail')} failed, {report.count('skip')} skipped"


def refuse_failed(report: SmokeReport) -> None:
    """Raise when a check failed.

    Raises:
        VerificationFailed: names every failed check with its reason.
    """
    failed = [f"{result.name}: {result.reason}" for result in report.results if result.status == "fail"]
    if failed:
        raise VerificationFailed("\n  ".join([f"the smoke test failed ({summary(report)}):", *failed]))
