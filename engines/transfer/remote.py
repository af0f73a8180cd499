"""Folders elsewhere, as transport needs them: sizes, bytes from an offset on, whole files written.

``http://`` and ``https://`` are opened by `tpforge.system.opener`; every other scheme is fsspec's (file, s3,
gs, az, ...), whose driver is a package of its own. It knows nothing of engines.
"""

from __future__ import annotations

import http.client
import re
import shutil
import urllib.error
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from tpforge.errors import EnvironmentUnusable, UsageError
from tpforge.extras import install_packages
from tpforge.system.opener import Readable, RedirectRefused, open_url

CHUNK = 1 << 20
_DRIVERS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
SCHEMES = "file:///DIR, http(s)://, s3://, gs:// or az://"
"""What is commonly asked for; any other that fsspec drives will do."""
_TIMEOUT_S = 60.0


class Remote(Protocol):
    """A folder elsewhere; names are relative, with ``/``. Failures are EnvironmentUnusable."""

    url: str

    def size(self, name: str) -> int | None:
        """Bytes of a file, None when there is none."""

    def read(self, name: str, *, start: int = 0) -> Iterator[bytes]:
        """The bytes of a file from `start` on; from the beginning when `start` cannot be had is refused."""

    def write(self, name: str, source: Readable, *, size: int) -> None:
        """Put what `source` yields there, `size` bytes."""

    def write_bytes(self, name: str, data: bytes) -> None:
        """Put a small file there."""


def open_remote(url: str, *, headers: Mapping[str, str] | None = None) -> Remote:
    """The folder at `url`; nothing is connected yet.

    Raises:
        UsageError: no such scheme, or headers for one that has none.
        EnvironmentUnusable: the scheme's driver is not installed.
    """
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme in ("http", "https"):
        return HttpRemote(url, headers=headers)
    if not scheme:
        raise UsageError(f"{url}: has no scheme; expected {SCHEMES}")
    if headers:
        raise UsageError(f"{url}: --header is for http(s); the driver of {scheme} has its own credentials")
    return FsspecRemote(url)


class FsspecRemote:
    """A folder of any file system that fsspec drives."""

    def __init__(self, url: str) -> None:
        import fsspec  # type: ignore[import-untyped,unused-ignore]

        self.url = url.rstrip("/")
        scheme = urllib.parse.urlsplit(url).scheme
        try:
            self._files: Any
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except ImportError as error:
            package = _DRIVERS.get(scheme)
            how = f"; install it with: {install_packages([package])}" if package else f": {error}"
            raise EnvironmentUnusable(f"{url}: the driver of {scheme}:// is not installed{how}") from error
        except ValueError as error:
            raise UsageError(f"{url}: {error}; expected {SCHEMES}") from error

    def size(self, name: str) -> int | None:
        """Bytes of a file, None when there is none."""
        with self._told(name):
            try:
                return int(self._files.size(self._path(name)))
            except FileNotFoundError:
                return None

    def read(self, name: str, *, start: int = 0) -> Iterator[bytes]:
        """The bytes of a file from `start` on."""
        with self._told(name), self._files.open(self._path(name), "rb") as file:
            file.seek(start)
            while chunk := file.read(CHUNK):
                yield chunk

    def write(self, name: str, source: Readable, *, size: int) -> None:
        """Put what `source` yields there; a file system with renames shows it only when it is whole."""

        def copy(path: str) -> None:
            with self._files.open(path, "wb") as file:
                shutil.copyfileobj(source, file, CHUNK)

        self._put(name, copy)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Put a small file there."""
        self._put(name, lambda path: self._files.pipe_file(path, data))

    def _put(self, name: str, put: Callable[[str], None]) -> None:
        path = self._path(name)
        with self._told(name):
            if not _renames(self._files):
                put(path)  # An object needs no folder, and asking for one would make a mistyped bucket.
                return
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            put(f"{path}.part")
            self._files.mv(f"{path}.part", path)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise EnvironmentUnusable(f"{self.url}/{name}: is not there") from error
        except OSError as error:
            raise EnvironmentUnusable(f"{self.url}/{name}: {error.strerror or error}") from error


class HttpRemote:
    """A folder of a web server that answers HEAD, GET with Range, and, to be written, PUT.

    `headers` are taken for credentials: they go to the URL's own origin, not to where it redirects.
    """

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None) -> None:
        self.url, self._credentials = url.rstrip("/"), dict(headers or {})

    def size(self, name: str) -> int | None:
        """Bytes of a file, None when there is none."""
        with self._ask(name, method="HEAD", missing_is_none=True) as answer:
            if answer is None:
                return None
            length = _length(answer.headers.get("Content-Length"))
        if length is None:
            raise EnvironmentUnusable(f"{self.url}/{name}: the server does not say how large it is")
        return length

    def read(self, name: str, *, start: int = 0) -> Iterator[bytes]:
        """The bytes of a file from `start` on; a server without Range is read from the beginning and cut."""
        extra = {"Range": f"bytes={start}-"} if start else {}
        with self._ask(name, headers=extra) as answer:
            assert answer is not None
            skip = start if answer.status == http.HTTPStatus.OK else 0
            left = _length(answer.headers.get("Content-Length")) or 0
            while chunk := answer.read1(CHUNK):  # What is there: a server that drips is noticed.
                left -= len(chunk)
                if skip >= len(chunk):
                    skip -= len(chunk)
                    continue
                yield chunk[skip:]
                skip = 0
            if left > 0:  # http.client takes a connection that ended early for the end of the file.
                raise http.client.IncompleteRead(b"", left)

    def write(self, name: str, source: Readable, *, size: int) -> None:
        """Put what `source` yields there."""
        with self._ask(name, method="PUT", body=source, headers={"Content-Length": str(size)}):
            pass

    def write_bytes(self, name: str, data: bytes) -> None:
        """Put a small file there."""
        with self._ask(name, method="PUT", body=data):
            pass

    @contextmanager
    def _ask(
        self,
        name: str,
        *,
        method: str = "GET",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        missing_is_none: bool = False,
    ) -> Iterator[Any]:
        url = f"{self.url}/{urllib.parse.quote(name)}"
        try:
            with open_url(
                url,
                timeout_s=_TIMEOUT_S,
                method=method,
                body=body,
                headers=headers,
                credentials=self._credentials,
                proxies="environment",
            ) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            with error:
                if error.code == http.HTTPStatus.NOT_FOUND and missing_is_none:
                    yield None
                    return
                raise EnvironmentUnusable(f"{url}: {method} gave {error.code} {error.reason}") from error
        except RedirectRefused as error:
            raise EnvironmentUnusable(str(error)) from error
        except (OSError, http.client.HTTPException) as error:
            raise EnvironmentUnusable(f"{url}: {method} broke off: {error}") from error
        except ValueError as error:  # Such as a port that is no number, where it leads.
            raise EnvironmentUnusable(f"{url}: {method}: its answer cannot be read: {error}") from error


def _length(text: str | None) -> int | None:
    """A Content-Length; None when there is none.

    Raises:
        ValueError: it is no number of bytes.
    """
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ValueError(f"Content-Length: {text[:40]!r}, expected a number of bytes")
    return int(text)


def _renames(files: Any) -> bool:
    """Whether it is a real file system: an object store shows an object only when it is whole."""
    protocol = files.protocol
    return "file" in ((protocol,) if isinstance(protocol, str) else protocol)
