"""`tpforge accept` by a scripted tpforge: what holds, fails, follows from it, is kept, and is hidden."""

from __future__ import annotations

import getpass
import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scripts.flows.accept import accept
from scripts.flows.accepting.private import Private
from scripts.flows.accepting.records import Acceptance, Answer
from scripts.flows.accepting.running import run_tpforge
from tpforge.errors import EnvironmentUnusable, InputRefused

AUTO = {
    "runtime": "reference", "because": "this host has no NVIDIA GPU", "otherwise": "", "trtllm": None,
    "container": "none",
}  # fmt: skip
HOST = {"gpus": [], "driver": None, "cuda": None, "packages": [["torch", "2.13.0"]]}
DOCTOR: dict[str, Any] = {"auto": AUTO, "host": HOST, "findings": []}
PARITY = {
    "passed": True, "problems": [], "num_tensors": 9, "num_unequal_tensors": 0, "num_greedy_equal": 64,
    "num_greedy_tokens": 64,
}  # fmt: skip
LEVEL: dict[str, Any] = {
    "name": "concurrency 4", "errors": {}, "repeats": [{"num_requests": 20}],
    "metrics": {"output_token_throughput": {"avg": 81.25}},
}  # fmt: skip


class Scripted:
    """Answers each command as a sound host would, but for those in `wrong`; each takes `takes_s`."""

    def __init__(
        self, wrong: dict[str, Answer] | None = None, *, doctor: dict[str, Any] = DOCTOR, takes_s: float = 1.0
    ) -> None:
        self.wrong, self.doctor, self.takes_s = wrong or {}, doctor, takes_s
        self.asked, self.limits, self.time_s = list[str](), list[float](), 0.0

    def now(self) -> float:
        return self.time_s

    def __call__(self, words: Sequence[str], folder: Path, limit_s: float) -> Answer:
        self.asked.append(" ".join(words))
        self.limits.append(limit_s)
        in_time = words[0] in ("stop", "status") or limit_s >= self.takes_s
        self.time_s += self.takes_s if in_time else limit_s
        if not in_time:
            return Answer(143, {}, "terminated", in_time=False)
        found = self.wrong.get(words[0])
        return found or Answer(0, self._value(words), f"said in {folder.resolve()} by {Path.home()}")

    def _value(self, words: Sequence[str]) -> dict[str, Any]:
        if words[0] == "build":
            size = int(words[words.index("--tp") + 1])
            return {"engine": {"runtime": "reference", "mapping": {"tp_size": size}, "files": ["a"]}}
        return {
            "doctor": self.doctor,
            "verify": {"parity": PARITY, "computed_on": "cpu"},
            "serve": {"api": "triton", "seconds_to_ready": 3.5},
            "smoke": {"passed": True, "num_passed": 33, "num_failed": 0, "num_skipped": 7},
            "bench": {"run": {"levels": [LEVEL, LEVEL]}},
            "stop": {"stopped": [{"was": "ready"}]},
            "status": {"servers": []},
        }[words[0]]


def tried(found: Acceptance) -> dict[str, tuple[str, str]]:
    return {one.name: (one.verdict, one.seen) for one in found.claims}


def run(out: Path, host: Scripted, *, model: str = "demo", budget_min: float = 60.0) -> Acceptance:
    return accept(model, out, budget_min=budget_min, run=host, now=host.now, progress=lambda _message: None)


def test_a_sound_host_holds_every_claim_that_it_can_be_asked_and_nothing_is_left(tmp_path: Path) -> None:
    found = run(tmp_path, Scripted())
    seen = tried(found)
    assert {name: text for name, (verdict, text) in seen.items() if verdict != "held"} == {
        "learn": "not tried: no TensorRT-LLM can be asked: this host has no NVIDIA GPU",
        "quantize on CUDA": "not tried: this host has no NVIDIA GPU",
        "build fp8": "not tried: quantize on CUDA did not hold",
        "verify fp8": "not tried: build fp8 did not hold",
        "as planned": "not tried: the plan estimates TensorRT-LLM, and it is the reference runtime that was "
        "served",
    }
    assert seen["verify tp=2"] == ("held", "9 of 9 tensors equal, 64 of 64 greedy tokens, on cpu")
    assert seen["bench"] == ("held", "40 requests at 2 levels, none failed; 81.25 tokens/s at concurrency 4")
    assert not (tmp_path / "work").exists()
    page = (tmp_path / "accept.md").read_text()
    assert "10 of 15 claims held, 0 failed, 5 not tried; 0.2 min of at most 60." in page
    assert all(one.claimed in page and one.seen in page for one in found.claims)


def test_record_page_and_logs_name_no_folder_of_whoever_ran_it(tmp_path: Path) -> None:
    model = tmp_path / "secret-project" / "model"
    model.mkdir(parents=True)
    found = run(tmp_path / "out", Scripted(), model=str(model))
    written = [tmp_path / "out" / name for name in ("accept.json", "accept.md")]
    for path in (*written, *(tmp_path / "out" / "logs").iterdir()):
        text = path.read_text()
        assert str(tmp_path) not in text and str(Path.home()) not in text and "secret-project" not in text
    assert (tmp_path / "out" / "logs" / "build-tp-1.log").read_text() == "said in WORK by HOME"
    build = next(one for one in found.claims if one.name == "build tp=1")
    assert build.command[:3] == ("tpforge", "build", "MODELS/model")


def test_names_are_left_out_as_words_and_gpus_by_their_numbers() -> None:
    private = Private({"/home/ada": "HOME"}, {"vm": "HOST", "ada": "USER"})
    said = "/home/ada/x ran on vm:8000 as ada; vmstat, a-vm and GPU-01234567-89ab-cdef-0123-456789abcdef"
    assert private.without(said) == "HOME/x ran on HOST:8000 as USER; vmstat, a-vm and GPU-UUID"


def test_the_words_of_this_host_are_left_out(tmp_path: Path) -> None:
    from scripts.flows.accepting.private import private_of

    private = private_of(tmp_path, model=None)
    assert private.without(f"{tmp_path}/log of {platform.node()}") == "WORK/log of HOST"
    if getpass.getuser() == "root":
        assert private.without("user root, / root") == "user root, / root"


@pytest.mark.parametrize(
    ("command", "answer", "failed", "seen"),
    [
        ("smoke", Answer(6, {}, "error: the smoke test failed"), "smoke", "exit status 6: error: the smoke"),
        ("verify", Answer(0, {"parity": {**PARITY, "passed": False, "problems": ["q.weight differs"]},
                              "computed_on": "cpu"}, ""),
         "verify tp=1", "q.weight differs"),
        ("status", Answer(0, {"servers": [{}]}, ""), "nothing left", "1 servers are left"),
        ("bench", Answer(0, {"run": {"levels": [{**LEVEL, "errors": {"refused": 2}}]}}, ""), "bench",
         "2 requests got no whole answer"),
        ("bench", Answer(0, {}, ""), "bench", "no 'run' in its answer"),
        ("build", Answer(3, {}, "error: the disk is full"), "build tp=1", "exit status 3: error: the disk"),
    ],
)  # fmt: skip
def test_what_does_not_hold_fails_with_what_was_seen(
    command: str, answer: Answer, failed: str, seen: str, tmp_path: Path
) -> None:
    found = tried(run(tmp_path, Scripted({command: answer})))
    assert found[failed][0] == "failed"
    assert seen in found[failed][1]
    assert (tmp_path / "work").exists()


def test_a_proof_that_lacks_a_package_is_not_tried_and_says_which(tmp_path: Path) -> None:
    lacking = Answer(3, {}, "error: proving an engine needs transformers: pip install tpforge[convert]")
    found = run(tmp_path, Scripted({"verify": lacking}))
    assert tried(found)["verify tp=1"] == (
        "skipped", "this machine cannot: error: proving an engine needs transformers: pip install "
        "tpforge[convert]",
    )  # fmt: skip
    assert not found.failed


def test_a_host_without_tritonserver_serves_nothing_and_says_what_is_missing(tmp_path: Path) -> None:
    finding = {"part": "tritonserver", "found": "not found", "verdict": "missing", "advice": "pip install it"}
    found = run(tmp_path, Scripted(doctor={**DOCTOR, "findings": [finding]}))
    seen = tried(found)
    assert seen["serve"] == ("skipped", "not tried: tritonserver is not found: pip install it")
    assert seen["smoke"] == ("skipped", "not tried: serve did not hold")
    assert seen["verify tp=2"][0] == "held"


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


def test_a_run_after_one_in_which_all_held_begins_anew(tmp_path: Path) -> None:
    """Its engines are gone."""
    run(tmp_path, Scripted())
    host = Scripted()
    run(tmp_path, host)
    assert len([words for words in host.asked if words.startswith("build")]) == 2


def test_a_budget_that_is_over_ends_what_runs_stops_the_server_and_leaves_the_rest(tmp_path: Path) -> None:
    """Commands of 60 s and 9 min: doctor twice, build and verify twice, serve, smoke, half a bench."""
    host = Scripted(takes_s=60)
    found = run(tmp_path, host, budget_min=8.5)
    seen = tried(found)
    assert seen["smoke"][0] == "held"
    assert seen["bench"] == ("skipped", "ended: the 8.5 min were over; the same command goes on")
    assert seen["stop"][0] == seen["nothing left"][0] == "held"
    assert not found.is_over and not found.failed
    limit = host.limits[next(n for n, words in enumerate(host.asked) if words.startswith("bench"))]
    assert limit == 30.0
    assert "The time was over before all was tried" in (tmp_path / "accept.md").read_text()

    again = Scripted(takes_s=60)
    assert run(tmp_path, again, budget_min=8.5).is_over
    assert not any(words.startswith(("build", "verify")) for words in again.asked)
    assert not (tmp_path / "work").exists()


def test_the_record_of_another_model_is_not_gone_on_with(tmp_path: Path) -> None:
    run(tmp_path, Scripted())
    with pytest.raises(InputRefused, match="is of demo with tpforge"):
        run(tmp_path, Scripted(), model="other")
    assert json.loads((tmp_path / "accept.json").read_text())["model"] == "demo"


def test_without_doctor_nothing_is_tried(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnusable, match="tpforge doctor: exit status 1: error: broken"):
        run(tmp_path, Scripted({"doctor": Answer(1, {}, "error: broken")}))


def test_a_command_runs_apart_from_the_user_s_settings_servers_and_what_was_learned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TPFORGE_OUT", "/data/of/the/user")
    answer = run_tpforge(("config", "--json"), tmp_path, 60)
    assert (answer.status, answer.in_time) == (0, True)
    assert answer.value["settings"]["out"]["value"] == "out"
    answer = run_tpforge(("engines", "shw"), tmp_path, 60)
    assert (answer.status, answer.value) == (2, {})
    assert "did you mean show?" in answer.said
    answer = run_tpforge(("verify", "nothing", "--json"), tmp_path, 60)
    assert (answer.status, answer.value["kind"]) == (4, "error")
    assert answer.said.splitlines()[-1].startswith("error: nothing: no such engine folder")


def test_a_command_that_outlasts_its_time_is_ended(tmp_path: Path) -> None:
    answer = run_tpforge(("status", "--watch"), tmp_path, 1.5)
    assert not answer.in_time
    assert answer.status != 0
