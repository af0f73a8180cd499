"""Where an engine may be pulled from: known schemes, no secrets in files, a digest or a waiver by name."""

from __future__ import annotations

import pytest

from tests.support.deployments import deployment_of
from tpforge.errors import UsageError
from triton_repo.deploy.targets import target_files

DIGEST = "ab" * 32


@pytest.mark.parametrize("target", ["compose", "kubernetes"])
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://host/it", "ftp:// cannot be pulled by containers; expected one of s3://, gs://"),
        ("oci://registry/it", "oci:// cannot be pulled by containers"),
        ("models/it", "a place without scheme cannot be pulled"),
        ("https://user:hunter2@host/it", "holds a password"),
        ("s3://key:hunter2@bucket/it", "holds a password"),
        ("https://host/it?sv=1&sig=hunter2", "holds a password or a signature"),
        ("https://host/it?X-Amz-Signature=hunter2", "holds a password or a signature"),
    ],
)
def test_a_url_that_cannot_be_pulled_or_tells_a_secret_is_refused(target: str, url: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        deployment_of("llama70b-tensorrt", target, engine_url=url, digest=DIGEST)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("target", ["compose", "kubernetes", "helm"])
def test_a_digest_is_wanted_unless_it_is_waived_by_name(target: str) -> None:
    given = {"engine_url": "s3://models/it", "digest": None}
    with pytest.raises(UsageError, match=r"--digest is missing.*--any-digest"):
        deployment_of("llama70b-tensorrt", target, **given)
    files = target_files(target, deployment_of("llama70b-tensorrt", target, any_digest=True, **given))
    assert not any("--digest" in text for path, text in files.items() if path.endswith("prepare.sh"))
