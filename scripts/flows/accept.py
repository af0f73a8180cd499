"""Every claim of this project about a host, tried there in order: what was claimed, what was seen, the log.

Each step is a command of tpforge in a process of its own, in a folder of its own. It compares nothing with
the plan and measures no release against another; `scripts.reports.acceptance` writes the page.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tpforge import __version__
from tpforge.errors import InputRefused
from tpforge.outputs.atomic import write_atomic
from tpforge.progress import Progress
from tpforge.records import Record
from triton_repo.serve.ports import find_free_base

RECORD, PAGE, LOGS, WORK = "accept.json", "accept.md", "logs", "work"
Verdict = Literal["held", "failed", "skipped"]
Run = Callable[[Sequence[str], Path], "Answer"]


@dataclass(frozen=True)
class Answer:
    """How a command ended, the JSON that it printed, and all that it said."""

    status: int
    value: dict[str, Any]
    said: str


class Tried(Record):
    """One claim as it was tried."""

    name: str
    claimed: str
    seen: str
    verdict: Verdict
    seconds: float
    command: tuple[str, ...]
    log: str | None = None


class Acceptance(Record):
    """All of it; `host` says what the host has, and nothing of who owns it."""

    schema_version: Literal[1] = 1
    tpforge: str
    model: str
    host: dict[str, Any]
    claims: tuple[Tried, ...]

    @property
    def failed(self) -> tuple[Tried, ...]:
        """The claims that did not hold."""
        return tuple(tried for tried in self.claims if tried.verdict == "failed")


@dataclass(frozen=True)
class Claim:
    """What is said of this host, the command that tries it, and what of its answer shows that it holds.

    `shows` gives what was seen; it raises KeyError, TypeError or AssertionError when that is not what was
    claimed. A claim is skipped when one of `after` did not hold.
    """

    name: str
    claimed: str
    words: tuple[str, ...]
    shows: Callable[[dict[str, Any]], str]
    after: tuple[str, ...] = ()


def accept(
    model: str, out: Path, *, sizes: Sequence[int], run: Run | None = None, progress: Progress
) -> Acceptance:
    """Try every claim in `out`, and keep what was seen after each; claims that held are not tried again.

    Raises:
        InputRefused: `out` holds the record of another model or version.
    """
    work, logs = out / WORK, out / LOGS
    work.mkdir(parents=True, exist_ok=True)
    logs.mkdir(exist_ok=True)
    kept = _kept(out, Path(model).name if Path(model).exists() else model)
    ask = run or run_tpforge
    host = ask(("doctor", "--json"), work).value
    place = Path(model)
    # Commands run elsewhere, and the record names no folder.
    located, shown = (str(place.resolve()), place.name) if place.exists() else (model, model)
    done: dict[str, Tried] = {}
    try:
        for claim in claims(located, sizes, host, port=find_free_base()):
            progress(f"{claim.name}: {claim.claimed}")
            before = kept.get(claim.name)
            is_kept = before is not None and before.verdict == "held" and not _must_run_again(claim)
            done[claim.name] = before if is_kept and before else _try(claim, done, work, logs, ask)
            _write(out, shown, host, done)
    finally:
        ask(("stop", "--all", "--json"), work)
    found = _write(out, shown, host, done)
    if not found.failed:
        shutil.rmtree(work)
    return found


def claims(model: str, sizes: Sequence[int], host: dict[str, Any], *, port: int = 8000) -> tuple[Claim, ...]:
    """The claims for engines of `sizes` ranks; the largest is served, from `port` on."""
    runtime = host["auto"]["runtime"]
    largest = f"accept-tp{max(sizes)}"
    found = [
        Claim("host", "doctor says what --runtime auto builds here, and why", ("doctor", "--json"), _auto)
    ]
    for size in sizes:
        name = f"accept-tp{size}"
        words = ("build", model, "--tp", str(size), "--name", name, "--force", "--json")
        found.append(Claim(f"build tp={size}", f"builds for runtime {runtime}", words, _built(runtime, size)))
        if runtime != "pytorch":
            claimed = "the rank files are the checkpoint bit for bit, and answer as transformers does"
            verify = ("verify", name, "--json")
            found.append(Claim(f"verify tp={size}", claimed, verify, _verified, (f"build tp={size}",)))
    is_openai = runtime == "pytorch"
    by = ("--server", "trtllm-serve") if is_openai else ()
    serve = ("serve", largest, *by, "--port-base", str(port), "--detach", "--json")
    found.append(
        Claim("serve", "is ready once it has generated a token", serve, _ready, (f"build tp={max(sizes)}",))
    )
    api = ("--api", "openai") if is_openai else ()
    smoke = ("smoke", *api, "--json")
    found.append(Claim("smoke", "keeps its contract, check by check", smoke, _smoked, ("serve",)))
    bench = ("bench", *api, "--concurrency", "1,4", "--repeats", "1", "--warmup", "1", "--duration", "5")
    if is_openai:
        bench += ("--model", _model_name(largest, host["auto"]["trtllm"]))
    claimed = "answers every request at 1 and 4 users"
    found.append(Claim("bench", claimed, (*bench, "--json"), _measured, ("serve",)))
    found.append(Claim("stop", "ends in order", ("stop", "--json"), _stopped, ("serve",)))
    found.append(Claim("nothing left", "no server runs afterwards", ("status", "--json"), _none_runs))
    return tuple(found)


def _model_name(engine: str, trtllm: str) -> str:
    """What trtllm-serve calls the model of an engine."""
    from triton_repo.trtllm_serve.command import TrtllmServe

    return TrtllmServe(Path(engine), engine, trtllm, port=0).model_name


def run_tpforge(words: Sequence[str], folder: Path) -> Answer:
    """Run a command of tpforge in `folder`."""
    command = [sys.executable, "-m", "tpforge", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    try:
        value = json.loads(done.stdout)
    except ValueError:
        value = {}
    return Answer(done.returncode, value if isinstance(value, dict) else {}, done.stderr + done.stdout)


def _try(claim: Claim, done: dict[str, Tried], work: Path, logs: Path, run: Run) -> Tried:
    def tried(seen: str, verdict: Verdict, *, seconds: float = 0.0, log: str | None = None) -> Tried:
        return Tried(
            name=claim.name,
            claimed=claim.claimed,
            seen=without_private(seen, work),
            verdict=verdict,
            seconds=seconds,
            command=tuple(without_private(word, work) for word in ("tpforge", *claim.words)),
            log=log,
        )

    lacking = [name for name in claim.after if done[name].verdict != "held"]
    if lacking:
        return tried(f"not tried: {', '.join(lacking)} did not hold", "skipped")
    begun = time.monotonic()
    answer = run(claim.words, work)
    seconds = round(time.monotonic() - begun, 1)
    log = logs / f"{re.sub(r'[^a-z0-9]+', '-', claim.name)}.log"
    log.write_text(without_private(answer.said, work), encoding="utf-8")
    verdict: Verdict = "held"
    try:
        assert answer.status == 0, f"exit status {answer.status}: {_last_line(answer.said)}"
        seen = claim.shows(answer.value)
    except (AssertionError, KeyError, TypeError, IndexError) as error:
        verdict, seen = "failed", str(error) if isinstance(error, AssertionError) else f"no {error} in it"
    return tried(seen, verdict, seconds=seconds, log=f"{LOGS}/{log.name}")


def without_private(text: str, work: Path) -> str:
    """The text without the folders, home and host of whoever ran it."""
    import platform

    words = {str(work.resolve()): "WORK", str(work): "WORK", str(Path.home()): "HOME"}
    words[platform.node() or "localhost"] = "HOST"
    for word, instead in sorted(words.items(), key=lambda pair: -len(pair[0])):
        if len(word) > 1:
            text = text.replace(word, instead)
    return text


def _must_run_again(claim: Claim) -> bool:
    """A server that was seen ready in an earlier run is gone, and with it all that asks it."""
    return claim.name in ("host", "nothing left") or "serve" in (claim.name, *claim.after)


def _kept(out: Path, model: str) -> dict[str, Tried]:
    file = out / RECORD
    if not file.is_file():
        return {}
    found = Acceptance.model_validate_json(file.read_text(encoding="utf-8"))
    if (found.model, found.tpforge) != (model, __version__):
        raise InputRefused(
            f"{file}: is of {found.model} with tpforge {found.tpforge}; give another --out, or remove it"
        )
    return {tried.name: tried for tried in found.claims}


def _write(out: Path, model: str, host: dict[str, Any], done: dict[str, Tried]) -> Acceptance:
    from scripts.reports.acceptance import acceptance_page

    seen = host["host"]
    known = {
        "gpus": [f"{gpu['name']}, SM {gpu['sm']}" for gpu in seen["gpus"]],
        "driver": seen["driver"],
        "cuda": seen["cuda"],
        "packages": dict(seen["packages"]),
        "auto": host["auto"],
    }
    found = Acceptance(tpforge=__version__, model=model, host=known, claims=tuple(done.values()))
    write_atomic(out / RECORD, found.model_dump_json(indent=2) + "\n")
    write_atomic(out / PAGE, acceptance_page(found.model_dump(mode="json")))
    return found


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _auto(value: dict[str, Any]) -> str:
    return f"{value['auto']['runtime']}: {value['auto']['because']}"


def _built(runtime: str, size: int) -> Callable[[dict[str, Any]], str]:
    def shows(value: dict[str, Any]) -> str:
        engine = value["engine"]
        found = (engine["runtime"], engine["mapping"]["tp_size"])
        assert found == (runtime, size), f"an engine of {found[0]} with tp={found[1]}"
        return f"{engine['runtime']}, tp={size}, {len(engine['files'])} files"

    return shows


def _verified(value: dict[str, Any]) -> str:
    parity = value["parity"]
    assert parity["passed"], "; ".join(parity["problems"])
    equal = parity["num_tensors"] - parity["num_unequal_tensors"]
    greedy = f"{parity['num_greedy_equal']} of {parity['num_greedy_tokens']} greedy tokens"
    return f"{equal} of {parity['num_tensors']} tensors equal, {greedy}"


def _ready(value: dict[str, Any]) -> str:
    return f"{value['api']}, ready after {value['seconds_to_ready']} s"


def _smoked(value: dict[str, Any]) -> str:
    assert value["passed"], f"{value['num_failed']} checks failed"
    return f"{value['num_passed']} passed, {value['num_skipped']} skipped"


def _measured(value: dict[str, Any]) -> str:
    levels = value["run"]["levels"]
    failed = sum(sum(level["errors"].values()) for level in levels)
    assert levels and not failed, f"{failed} requests got no whole answer"
    count = sum(repeat["num_requests"] for level in levels for repeat in level["repeats"])
    return f"{count} requests at {len(levels)} levels, none failed"


def _stopped(value: dict[str, Any]) -> str:
    assert [one["was"] for one in value["stopped"]] == ["ready"], f"it was {value['stopped']}"
    return "was ready, ended"


def _none_runs(value: dict[str, Any]) -> str:
    assert value["servers"] == [], f"{len(value['servers'])} servers are left"
    return "none"
