"""Which TensorRT-LLM runtimes and versions run a Hugging Face architecture, from architectures.toml.

It does not know which architectures tpforge converts: `builders.families` does.
"""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import Literal

from tpforge.records import Record
from tpforge.runtime import Runtime
from tpforge.trtllm.learned import learned_with
from tpforge.trtllm.versions import version_key

Backend = Literal["pytorch", "_autodeploy"]


class Support(Record):
    """A runtime and the versions of TensorRT-LLM in which it runs an architecture; `last` None: goes on.

    `backend` is the LLM API's that has it, of runtime pytorch. `min_sm` is the least compute capability,
    where not all will do; `generates` is False of what scores, classifies, embeds or drafts, and answers no
    prompt.
    """

    runtime: Literal["tensorrt", "pytorch"]
    backend: Backend = "pytorch"
    first: str
    last: str | None = None
    note: str | None = None
    min_sm: int | None = None
    generates: bool = True
    source: str

    @property
    def versions(self) -> str:
        """``1.2.0 to 1.2.1``, or ``1.0.0 and later``, with the note."""
        span = f"{self.first} and later" if self.last is None else f"{self.first} to {self.last}"
        return span if self.note is None else f"{span}, {self.note}"


class _Block(Support):
    architectures: tuple[str, ...]


def architecture_support(architecture: str) -> tuple[Support, ...]:
    """Every runtime of TensorRT-LLM that is known to run `architecture`; none when it is unknown there.

    Where the table has no row, the releases that were learned on this host say whether they register it.
    """
    known = _table().get(architecture)
    return known if known is not None else _learned(architecture)


def supported_architectures(runtime: Runtime) -> tuple[str, ...]:
    """Every architecture that `runtime` is known to run, sorted without regard to case."""
    names = (name for name, held in _table().items() if any(one.runtime == runtime for one in held))
    return tuple(sorted(names, key=str.lower))


def pytorch_only(architecture: str) -> str | None:
    """For an architecture that no TensorRT-LLM checkpoint format holds: what to use in place of one.

    None when the tensorrt runtime knows it, or neither does.
    """
    found = architecture_support(architecture)
    if not found or any(one.runtime == "tensorrt" for one in found):
        return None
    return (
        f"no TensorRT-LLM checkpoint format holds {architecture}; the pytorch runtime "
        f"(TensorRT-LLM's LLM API, {found[0].versions}) loads the Hugging Face checkpoint as it is"
    )


def architecture_problems(
    architecture: str, *, runtime: Runtime, version: str | None, sm: int | None
) -> tuple[str, ...]:
    """Why a release or a GPU does not run an architecture; what is not known of them refuses nothing."""
    problems = []
    for one in architecture_support(architecture):
        if one.runtime != runtime:
            continue
        if version is not None and version_key(version) < version_key(one.first):
            problems.append(f"{architecture} runs in TensorRT-LLM {one.versions}, not in {version}")
        if one.min_sm is not None and sm is not None and sm < one.min_sm:
            problems.append(f"{architecture} runs on SM{one.min_sm} and later, not on SM{sm}")
    return tuple(problems)


def llm_backend(architecture: str) -> Backend:
    """The backend of the LLM API that runs an architecture; the PyTorch one where that is not known."""
    found = (one.backend for one in architecture_support(architecture) if one.runtime == "pytorch")
    return next(found, "pytorch")


def advice_on_unknown(architecture: str) -> str:
    """What to do about an architecture whose sizes tpforge does not know."""
    found = architecture_support(architecture)
    if not found:
        return (
            "TensorRT-LLM lists it for no runtime; give a model of an architecture of docs/models.md, or let "
            "`tpforge versions --learn` read from an installed release that it registers it"
        )
    own = next((one for one in found if one.runtime == "pytorch"), None)
    if own is None:
        return (
            f"TensorRT-LLM runs it by the tensorrt runtime alone ({found[0].versions}), from a conversion of "
            "its own that tpforge does not have; give a model of an architecture of docs/models.md"
        )
    if not own.generates:
        return f"TensorRT-LLM runs it {own.note}, and to generate text is what tpforge plans and serves for"
    runs = f"TensorRT-LLM runs it by the pytorch runtime ({own.versions})"
    return f"{runs}: state its sizes in a file for --describe"


def _learned(architecture: str) -> tuple[Support, ...]:
    versions = sorted(learned_with(architecture), key=version_key)
    if not versions:
        return ()
    note = "by what was learned from it"
    return (Support(runtime="pytorch", first=versions[0], note=note, source="tpforge versions --learn"),)


@cache
def _table() -> dict[str, tuple[Support, ...]]:
    text = files("tpforge.trtllm").joinpath("architectures.toml").read_text(encoding="utf-8")
    table: dict[str, tuple[Support, ...]] = {}
    for value in tomllib.loads(text)["support"]:
        block = _Block.model_validate(value)
        support = Support(**block.model_dump(exclude={"architectures"}))
        for name in block.architectures:
            held = table.get(name, ())
            assert all(one.runtime != support.runtime for one in held), f"{name} given twice"
            table[name] = (*held, support)
    return table
