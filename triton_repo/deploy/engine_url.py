"""Where a deployment may get its engine from: a URL that can be pulled, without secrets, and a digest.

It pulls nothing; the URL ends up in files that people commit, and in the command lines of containers.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from tpforge.errors import UsageError

DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"}
"""fsspec's packages by the scheme of a URL; tpforge itself needs none of them."""
SCHEMES = (*DRIVERS, "http", "https")
"""What containers on another host can pull; a file:// of this one they do not have."""
STORAGE_SCHEMES = ("s3", "gs", "pvc", "oci")
"""What KServe brings to /mnt/models as a folder; an https URL is one archive or file to it.

Source: kserve/website, docs/model-serving/storage/overview.md (0.16).
"""
_SIGNED = re.compile(r"(^|[&?])(sig|signature|token|password|x-(amz|goog)-signature)=", re.IGNORECASE)


def refuse_engine_url(url: str | None, *, digest: str | None, any_digest: bool) -> None:
    """Raise when the URL cannot be pulled, or says what it must not, or nothing holds what comes from it.

    Raises:
        UsageError: names what was found and what to do.
    """
    if url is None:
        return
    try:
        place = urlsplit(url)
    except ValueError as error:
        raise UsageError(f"--engine-url: is no URL: {error}") from error
    if place.scheme not in SCHEMES:
        raise UsageError(
            f"--engine-url: {f'{place.scheme}:// ' if place.scheme else 'a place without scheme '}"
            "cannot be pulled by containers; "
            f"expected one of {', '.join(f'{scheme}://' for scheme in SCHEMES)}"
        )
    # The URL itself is not repeated: it would be in the log.
    if place.password is not None or _SIGNED.search(place.query):
        raise UsageError(
            "--engine-url: holds a password or a signature, which would stand in the files; put it "
            "into the secret NAME-credentials (credentials.env for compose), and leave it out of the URL"
        )
    if digest is None and not any_digest:
        raise UsageError(
            "--digest is missing: give what `tpforge engines push` printed, or --any-digest to start "
            "whatever engine lies at the URL"
        )


def refuse_storage_uri(uri: str) -> None:
    """Raise when KServe cannot mount what lies there, or the URI says what it must not.

    Raises:
        UsageError: names what was found and what to do.
    """
    try:
        place = urlsplit(uri)
    except ValueError as error:
        raise UsageError(f"--storage-uri: is no URI: {error}") from error
    if place.scheme not in STORAGE_SCHEMES or not place.netloc:
        expected = ", ".join(f"{scheme}://" for scheme in STORAGE_SCHEMES)
        raise UsageError(
            f"--storage-uri: expected {expected} and a place, the scheme is {place.scheme or 'missing'}"
        )
    if place.password is not None or _SIGNED.search(place.query):
        raise UsageError(
            "--storage-uri: holds a password or a signature, which would stand in the files; give it to "
            "KServe by a secret of the service account, and leave it out of the URI"
        )
