"""--header: NAME=VALUE, or NAME=@FILE for what must not be typed. It sends nothing."""

from __future__ import annotations

from pathlib import Path

from tpforge.errors import UsageError


def parse_headers(headers: tuple[str, ...]) -> dict[str, str]:
    """NAME=VALUE pairs; a VALUE that starts with ``@`` is the file that holds it, so that no secret is typed.

    Raises:
        UsageError: one is no such pair, or its file cannot be read.
    """
    pairs = {}
    for header in headers:
        name, equals, value = header.partition("=")
        if not name or not equals:
            raise UsageError(f"--header {header}: expected NAME=VALUE, or NAME=@FILE")
        if value.startswith("@"):
            try:
                value = Path(value[1:]).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise UsageError(f"--header {name}={value}: {error.strerror}") from error
        pairs[name] = value
    return pairs
