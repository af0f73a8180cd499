"""A model of the Hugging Face hub as a source: downloads a snapshot, which is then opened as a directory.

It downloads safetensors, JSON and tokenizer files only, and keeps them in huggingface_hub's own cache.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from tpforge.errors import EnvironmentUnusable, InputRefused

_PATTERNS = (
    "*.json",
    "*.jinja",
    "*.safetensors",
    "tokenizer.model",
    "merges.txt",
    "README.md",
)
# Subfolders hold other formats (onnx/, original/), which are never read.
_IGNORED = ("*/*",)

_LOCAL_CAUSES = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


def download(repository: str, *, revision: str | None) -> Path:
    """The snapshot of ``org/name`` at a revision, by default the newest, downloaded or found in the cache.

    Raises:
        InputRefused: there is no such model or revision, or it needs a permission that is not there.
        EnvironmentUnusable: the hub cannot be reached and the cache does not hold it.
    """
    from huggingface_hub import errors, snapshot_download

    # The base of what its HTTP client raises is not an OSError where that client is httpx.
    http_error: type[Exception] = getattr(errors, "HTTPError", OSError)

    name = f"{repository}@{revision}" if revision else repository
    advice = "or download it elsewhere and give its directory instead, in the form ./path/to/model"
    try:
        folder = snapshot_download(
            repository,
            revision=revision,
            allow_patterns=list(_PATTERNS),
            ignore_patterns=list(_IGNORED),
        )
    except errors.GatedRepoError as error:
        raise InputRefused(
            f"{name}: is gated; accept its terms on its page and log in with `hf auth login`, {advice}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputRefused(f"{name}: the hub has the model, but not this revision; {advice}") from error
    except errors.RepositoryNotFoundError as error:
        raise InputRefused(
            f"{name}: the hub has no such model, or it is private (`hf auth login`); "
            f"there is no such directory either; check the name, {advice}"
        ) from error
    except errors.HFValidationError as error:
        raise InputRefused(f"{name}: not a name the hub can have; {advice}") from error
    except (OSError, http_error) as error:
        if isinstance(error, OSError) and error.errno in _LOCAL_CAUSES:
            raise EnvironmentUnusable(
                f"{error.filename or 'the cache of huggingface_hub'}: {os.strerror(error.errno)}; "
                "free space, or set HF_HOME to a folder that can be written"
            ) from error
        raise EnvironmentUnusable(
            f"{name}: is no directory here, the hub cannot be reached, and its cache does not hold it "
            f"({type(error).__name__}); connect to the network, {advice}"
        ) from error
    return Path(folder)
