"""A file as records of folders name it: path, size, SHA-256.

It looks at no file. It lies apart from the manifest, so that who only writes folders imports no model.
"""

from __future__ import annotations

from tpforge.records import Record


class FileRecord(Record):
    """A file by its path relative to its folder (POSIX separators), size in bytes and SHA-256."""

    path: str
    size: int
    sha256: str
