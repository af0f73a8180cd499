"""No advice leads in a circle: every refusal that names a runtime, a release or a format is followed.

The refusals are made from the tables of releases, architectures and formats, all of them; what a refusal
names is read from its text, as a person reads it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from builders.families.common.registry import known_architectures
from builders.llm_api.model import refuse_architecture
from tpforge.errors import InputRefused, TpforgeError, UsageError
from tpforge.quantization import formats, kv_formats
from tpforge.quantization_gate import Question, judge
from tpforge.runtime import Runtime
from tpforge.trtllm.architectures import architecture_support
from tpforge.trtllm.versions import DEFAULT_RELEASE, find_release, release_for, releases

RUNTIMES: tuple[Runtime, ...] = ("tensorrt", "pytorch", "reference")
SMS = (70, 80, 86, 89, 90, 100, 103, 120)
VERSION = r"\d+\.\d+\.\d+(?:rc\d+)?(?:\.post\d+)?"


@dataclass(frozen=True)
class Asked:
    """What a person asks for: a runtime of a release."""

    runtime: str
    trtllm: str


def advised(text: str, *, asked: Asked) -> list[Asked]:
    """What a refusal says to ask instead: each `--runtime X [--trtllm V]`, `--trtllm V`, `one of V, V`."""
    found = []
    pattern = rf"--runtime (\w+)(?: (--trtllm|with)(?: TensorRT-LLM)? ({VERSION}))?"
    for runtime, _, trtllm in re.findall(pattern, text):
        found.append(Asked(runtime, trtllm or asked.trtllm))
    for trtllm in re.findall(rf"(?:use|or) --trtllm ({VERSION})", text):
        found.append(Asked(asked.runtime, trtllm))
    for names in re.findall(rf"one of ({VERSION}(?:(?:,| to) {VERSION})*)", text):
        found += [Asked(asked.runtime, trtllm) for trtllm in re.findall(VERSION, names)]
    return found


def refusal_of_release(asked: Asked) -> str | None:
    if asked.runtime == "reference":
        return None
    try:
        release_for(asked.trtllm, runtime="tensorrt" if asked.runtime == "tensorrt" else "pytorch")
    except UsageError as error:
        return str(error)
    return None


def every_release() -> Iterator[str]:
    """Those of the table, and some beside them."""
    yield from (release.trtllm for release in releases())
    yield from ("1.2.2", "1.3.0rc3", "1.3.0rc16", "1.3.0", "1.4.0rc9", "1.4.0")


@pytest.mark.parametrize("trtllm", list(every_release()))
@pytest.mark.parametrize("runtime", ["tensorrt", "pytorch"])
def test_what_a_refused_release_names_is_not_refused(trtllm: str, runtime: str) -> None:
    asked = Asked(runtime, trtllm)
    said = refusal_of_release(asked)
    if said is None:
        return
    instead = advised(said, asked=asked)
    assert instead, said
    assert asked not in instead, said
    assert {one: refusal_of_release(one) for one in instead} == dict.fromkeys(instead), said


def test_a_release_of_no_known_line_names_learning_alone_which_needs_no_table() -> None:
    said = refusal_of_release(Asked("pytorch", "1.9.9"))
    assert said is not None
    assert advised(said, asked=Asked("pytorch", "1.9.9")) == []
    assert "tpforge versions --learn" in said


def refusal_of_architecture(architecture: str, asked: Asked) -> str | None:
    """Why a runtime of a release does not run an architecture of our families; None when it does."""
    if said := refusal_of_release(asked):
        return said
    try:
        if asked.runtime == "pytorch":
            refuse_architecture(architecture, find_release(asked.trtllm), where="model")
        elif asked.runtime == "tensorrt":
            known = [one for one in architecture_support(architecture) if one.runtime == "tensorrt"]
            return None if known else f"{architecture}: no runtime tensorrt"
    except InputRefused as error:
        return str(error)
    return None


@pytest.mark.parametrize("architecture", known_architectures())
def test_what_a_refused_architecture_names_runs_it(architecture: str) -> None:
    for release in releases():
        if "pytorch" not in release.runtimes:
            continue
        asked = Asked("pytorch", release.trtllm)
        said = refusal_of_architecture(architecture, asked)
        if said is None:
            continue
        instead = advised(said, asked=asked)
        assert instead, said
        refused = {one: refusal_of_architecture(architecture, one) for one in instead}
        assert refused == dict.fromkeys(instead), said


def test_some_architectures_of_our_families_are_refused_for_the_llm_api() -> None:
    asked = Asked("pytorch", DEFAULT_RELEASE)
    refused = [one for one in known_architectures() if refusal_of_architecture(one, asked)]
    assert "GPTJForCausalLM" in refused
    assert "LlamaForCausalLM" not in refused


def questions() -> Iterator[Question]:
    caches = [None, *(kv.name for kv in kv_formats())]
    for row in formats():
        for runtime in RUNTIMES:
            for version in (DEFAULT_RELEASE, "1.0.0", "1.3.0rc24", "1.4.0rc1"):
                for sm in SMS:
                    for kv in caches:
                        yield Question(row.name, runtime, kv_cache=kv, version=version, sm=sm)


def test_what_a_refused_format_names_works_for_the_same_question() -> None:
    refused = followed = 0
    for question in questions():
        verdict = judge(question)
        refused += not verdict.works
        if verdict.nearest is None:
            continue
        name, _, kv = verdict.nearest.partition(" --kv-cache ")
        instead = replace(question, format=name, kv_cache=kv or question.kv_cache, group_size=None)
        assert instead != question, question
        assert judge(instead).works, (question, verdict, judge(instead))
        followed += 1
    assert 0 < followed <= refused


def test_a_runtime_that_a_refused_format_names_has_the_release() -> None:
    for question in questions():
        assert question.version is not None
        asked = Asked(question.runtime, question.version)
        for problem in judge(question).problems:
            for one in advised(problem, asked=asked):
                assert refusal_of_release(one) is None, (question, problem, one)


def test_every_refusal_here_is_an_expected_failure() -> None:
    with pytest.raises(TpforgeError):
        release_for("latest", runtime="pytorch")
