"""The runner of a Dockerfile's steps: it reads what ours says, and refuses what it does not know."""

import os
import shutil
from pathlib import Path

import pytest

from scripts.dev.run_dockerfile import instructions, run
from tests.support.deployments import deployment_of
from tpforge.errors import InputRefused, VerificationFailed
from triton_repo.deploy.files import dockerfile

ROOT = Path(__file__).parents[3]


def test_comments_are_left_out_and_continued_lines_joined() -> None:
    text = "# why\nFROM debian\nRUN a \\\n  # in between\n && b\nUSER 1000\n"
    found = [(name, " ".join(rest.split())) for name, rest in instructions(text)]
    assert found == [("FROM", "debian"), ("RUN", "a && b"), ("USER", "1000")]


def test_an_unknown_instruction_is_refused_by_name() -> None:
    with pytest.raises(InputRefused, match="HEALTHCHECK: is not an instruction"):
        list(instructions("FROM x\nHEALTHCHECK NONE\n"))


def test_our_dockerfile_copies_what_is_there_and_ends_as_an_ordinary_user() -> None:
    steps = list(instructions(dockerfile(deployment_of("smollm2-reference", "compose"))))
    copied = [rest.split()[:-1] for name, rest in steps if name == "COPY"]
    sources = [source for words in copied if not words[0].startswith("--from=") for source in words]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert {"tpforge", "builders", "engines", "triton_repo", "scripts", "requirements.lock"} <= set(sources)
    assert [rest for name, rest in steps if name == "USER"][-1] == "1000"


def test_a_file_of_another_image_comes_from_the_folder_given_for_it(tmp_path: Path) -> None:
    file, root, other = tmp_path / "Dockerfile", tmp_path / "root", tmp_path / "kubectl"
    image = "registry.example:5000/a/kubectl:v1@sha256:ab"
    file.write_text(f"FROM x\nCOPY --from={image} /bin/kubectl /usr/bin/k\n")
    (other / "bin").mkdir(parents=True)
    (other / "bin" / "kubectl").write_text("it")
    with pytest.raises(InputRefused, match=r"--from registry\.example:5000/a/kubectl=FOLDER"):
        run(file, root, context=tmp_path, environment={}, command=())
    images = {"registry.example:5000/a/kubectl": other}
    run(file, root, context=tmp_path, environment={}, command=(), images=images)
    assert (root / "usr" / "bin" / "k").read_text() == "it"


def test_a_failed_step_ends_the_run_and_later_ones_are_not_done(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("chroot") is None:
        pytest.skip("chroot wants root")
    busybox = shutil.which("busybox")
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    if busybox is None:
        pytest.skip("busybox is not installed: the root needs a static shell")
    shutil.copy2(busybox, root / "bin" / "sh")
    file = tmp_path / "Dockerfile"
    file.write_text("FROM x\nRUN echo one > /one\nRUN exit 3\nRUN echo two > /two\n")
    with pytest.raises(VerificationFailed, match="exit status 3"):
        run(file, root, context=tmp_path, environment={}, command=())
    assert (root / "one").is_file() and not (root / "two").exists()
