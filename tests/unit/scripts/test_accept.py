"""`tpforge accept` by a scripted tpforge: what holds, fails, follows from it, is kept, and is hidden."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scripts.flows.accept import Acceptance, Answer, accept, claims
from tpforge.errors import InputRefused

AUTO = {"runtime": "reference", "because": "this host has no NVIDIA GPU", "otherwise": "", "trtllm": None}
HOST = {"gpus": [], "driver": None, "cuda": None, "packages": [["torch", "2.13.0"]]}
PARITY = {
    "passed": True, "problems": [], "num_tensors": 9, "num_unequal_tensors": 0, "num_greedy_equal": 64,
    "num_greedy_tokens": 64,
}  # fmt: skip
LEVEL: dict[str, Any] = {"errors": {}, "repeats": [{"num_requests": 20}]}


class Scripted:
    """Answers each command as a sound host would, but for those in `wrong`."""

    def __init__(self, wrong: dict[str, Answer] | None = None) -> None:
        self.wrong, self.asked = wrong or {}, list[str]()

    def __call__(self, words: Sequence[str], folder: Path) -> Answer:
        self.asked.append(" ".join(words))
        found = self.wrong.get(words[0])
        return found or Answer(0, self._value(words), f"said in {folder.resolve()} by {Path.home()}")

    def _value(self, words: Sequence[str]) -> dict[str, Any]:
        if words[0] == "build":
            size = int(words[words.index("--tp") + 1])
            return {"engine": {"runtime": "reference", "mapping": {"tp_size": size}, "files": ["a"]}}
        return {
            "doctor": {"auto": AUTO, "host": HOST},
            "verify": {"parity": PARITY},
            "serve": {"api": "triton", "seconds_to_ready": 3.5},
            "smoke": {"passed": True, "num_passed": 33, "num_failed": 0, "num_skipped": 7},
            "bench": {"run": {"levels": [LEVEL, LEVEL]}},
            "stop": {"stopped": [{"was": "ready"}]},
            "status": {"servers": []},
        }[words[0]]


def tried(found: Acceptance) -> dict[str, tuple[str, str]]:
    return {one.name: (one.verdict, one.seen) for one in found.claims}


def run(out: Path, host: Scripted) -> Acceptance:
    return accept("demo", out, sizes=(1, 2), run=host, progress=lambda _message: None)


def test_a_sound_host_holds_every_claim_and_nothing_is_left(tmp_path: Path) -> None:
    found = run(tmp_path, Scripted())
    seen = tried(found)
    assert {verdict for verdict, _ in seen.values()} == {"held"}
    assert seen["verify tp=2"] == ("held", "9 of 9 tensors equal, 64 of 64 greedy tokens")
    assert seen["bench"] == ("held", "40 requests at 2 levels, none failed")
    assert not (tmp_path / "work").exists()
    page = (tmp_path / "accept.md").read_text()
    assert "10 of 10 claims held" in page
    assert all(one.claimed in page and one.seen in page for one in found.claims)


def test_a_host_with_tensorrt_llm_is_tried_by_trtllm_serve_under_its_own_model_name() -> None:
    for trtllm, model in (("1.4.0rc1", "accept-tp2"), ("1.2.1", "model")):
        auto = {**AUTO, "runtime": "pytorch", "trtllm": trtllm}
        words = {claim.name: claim.words for claim in claims("demo", (1, 2), {"auto": auto}, port=9000)}
        assert words["serve"][:4] == ("serve", "accept-tp2", "--server", "trtllm-serve")
        assert words["smoke"] == ("smoke", "--api", "openai", "--json")
        assert words["bench"][words["bench"].index("--model") + 1] == model
        assert not any(name.startswith("verify") for name in words)


def test_record_page_and_logs_name_no_folder_of_whoever_ran_it(tmp_path: Path) -> None:
    run(tmp_path, Scripted())
    for path in (tmp_path / "accept.json", tmp_path / "accept.md", *(tmp_path / "logs").iterdir()):
        text = path.read_text()
        assert str(tmp_path) not in text and str(Path.home()) not in text
    assert (tmp_path / "logs" / "build-tp-1.log").read_text() == "said in WORK by HOME"


@pytest.mark.parametrize(
    ("command", "answer", "failed", "seen"),
    [
        ("smoke", Answer(6, {}, "error: the smoke test failed"), "smoke", "exit status 6: error: the smoke"),
        ("verify", Answer(0, {"parity": {**PARITY, "passed": False, "problems": ["q.weight differs"]}}, ""),
         "verify tp=1", "q.weight differs"),
        ("status", Answer(0, {"servers": [{}]}, ""), "nothing left", "1 servers are left"),
        ("bench", Answer(0, {"run": {"levels": [{**LEVEL, "errors": {"refused": 2}}]}}, ""), "bench",
         "2 requests got no whole answer"),
        ("bench", Answer(0, {}, ""), "bench", "no 'run' in it"),
    ],
)  # fmt: skip
def test_what_does_not_hold_fails_with_what_was_seen(
    command: str, answer: Answer, failed: str, seen: str, tmp_path: Path
) -> None:
    found = tried(run(tmp_path, Scripted({command: answer})))
    assert found[failed][0] == "failed"
    assert seen in found[failed][1]
    assert (tmp_path / "work").exists()


def test_what_follows_from_a_claim_that_failed_is_not_tried_and_the_server_is_stopped(
    tmp_path: Path,
) -> None:
    host = Scripted({"serve": Answer(3, {}, "error: no GPU")})
    found = tried(run(tmp_path, host))
    assert found["serve"] == ("failed", "exit status 3: error: no GPU")
    assert found["smoke"] == ("skipped", "not tried: serve did not hold")
    assert [words for words in host.asked if words.startswith(("smoke", "bench"))] == []
    assert host.asked[-1] == "stop --all --json"


def test_a_second_run_goes_on_with_what_has_not_held(tmp_path: Path) -> None:
    run(tmp_path, Scripted({"bench": Answer(1, {}, "error: broken")}))
    host = Scripted()
    assert not run(tmp_path, host).failed
    assert [words for words in host.asked if words.startswith(("build", "verify"))] == []
    assert any(words.startswith("bench") for words in host.asked)


def test_the_record_of_another_model_is_not_gone_on_with(tmp_path: Path) -> None:
    run(tmp_path, Scripted())
    with pytest.raises(InputRefused, match="is of demo with tpforge"):
        accept("other", tmp_path, sizes=(1,), run=Scripted(), progress=lambda _message: None)
    assert json.loads((tmp_path / "accept.json").read_text())["model"] == "demo"
