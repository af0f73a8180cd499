"""What was learned of an installed TensorRT-LLM: a file a release in the user's data folder, with its hash.

It asks no installation: `tpforge.trtllm.probe` runs there, and `engines.learning` runs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.outputs.places import data_home
from tpforge.records import Record
from tpforge.trtllm.arguments import Argument, ArgumentTable
from tpforge.trtllm.schema_arguments import arguments_of
from tpforge.trtllm.typed_values import ArgumentType

NAME = "learned"
"""What the table of what was learned is called, where the shipped ones have a number."""
_NEEDED = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "max_batch_size",
    "max_input_len",
    "max_seq_len",
    "max_num_tokens",
)
"""What tpforge writes into every llm.yaml, or computes with."""
_TYPES: dict[str, ArgumentType] = {"int": "int", "float": "float", "flag": "flag", "list": "list"}


class Option(Record):
    """One option of a program of the release, as its own parser has it."""

    name: str
    flags: tuple[str, ...]
    type: str
    choices: tuple[str, ...] = ()
    default: Any = None


class Learned(Record):
    """One release as an installation of it says; `sha256` is that of everything else.

    `where` is what was asked, such as ``docker nvcr.io/...`` or ``python``: no path and no name of a person.
    """

    schema_version: Literal[1] = 1
    trtllm: str = Field(pattern=r"^\d+\.\d+[A-Za-z0-9.+-]*$")
    where: str
    schema_from: str
    python: str
    packages: dict[str, str] = Field(default_factory=dict)
    tags: dict[str, str] = Field(default_factory=dict)
    llm_arguments: tuple[Argument, ...]
    build_options: tuple[Option, ...] | None = None
    serve_options: dict[str, tuple[Option, ...]] | None = None
    architectures: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    sha256: str = ""

    @property
    def table(self) -> ArgumentTable:
        """The LLM API's arguments, as the shipped tables have them."""
        source = f"tensorrt_llm {self.trtllm}, {self.schema_from}, by {self.where}, {self.sha256[:12]}"
        rows = tuple(row.model_copy(update={"source": source, "group": NAME}) for row in self.llm_arguments)
        return ArgumentTable(name=NAME, source=source, arguments=rows, tags=self.tags)

    def build_table(self, shipped: tuple[Argument, ...]) -> tuple[Argument, ...]:
        """The arguments of trtllm-build: shipped rows with its own defaults, and those that are new."""
        own = {one.name: one for one in shipped}
        return tuple(_build_argument(option, own.get(option.name)) for option in self.build_options or ())


def learned_from(probed: Mapping[str, Any], *, where: str) -> Learned:
    """The record of what a probe printed.

    Raises:
        EnvironmentUnusable: there is no TensorRT-LLM.
        InputRefused: its version or its arguments cannot be told.
    """
    problems = tuple(str(one) for one in probed.get("problems", ()))
    if "version" not in probed:
        raise EnvironmentUnusable(
            f"{where}: {'; '.join(problems)}; give --python PATH of a Python that has TensorRT-LLM (the "
            "extra tensorrt-llm brings it to a GPU host), or --container docker"
        )
    if not probed.get("version") or probed.get("schema") is None:
        missing = "the LLM API's arguments" if probed["version"] else "its version"
        found = problems or ("it says nothing of why",)
        raise InputRefused.listing(f"{where}: {missing} cannot be learned from it:", found)
    arguments, tags = arguments_of(probed["schema"])
    if lacking := sorted(set(_NEEDED) - {one.name for one in arguments}):
        raise InputRefused(f"{where}: its schema is not that of the LLM API: it lacks {', '.join(lacking)}")
    serve = probed.get("serve_options")
    try:
        record = Learned(
            trtllm=probed["version"],
            where=where,
            schema_from=str(probed["schema_from"]),
            python=probed["python"],
            packages=probed["packages"],
            tags=tags,
            llm_arguments=arguments,
            build_options=probed.get("build_options"),
            serve_options=serve,
            architectures=tuple(probed["architectures"]),
            problems=problems,
        )
    except (KeyError, ValidationError) as error:
        raise InputRefused(f"{where}: what the probe found is not what was expected: {error}") from error
    return record.model_copy(update={"sha256": _digest(record)})


def to_text(learned: Learned) -> str:
    """The record as the text of its file."""
    return learned.model_dump_json(indent=1) + "\n"


def read_learned(path: Path) -> Learned:
    """The record in a file.

    Raises:
        InputRefused: it cannot be read, is of another version of tpforge, or was changed since.
    """
    try:
        found = Learned.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputRefused(f"{path}: cannot be read: {error.strerror}") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputRefused(
            f"{path}: is not what `tpforge versions --learn` writes ({str(error).splitlines()[0]}); "
            "learn it again, or remove it"
        ) from error
    if found.sha256 != _digest(found):
        raise InputRefused(
            f"{path}: was changed since it was learned: its SHA-256 is not {found.sha256[:12]}...; "
            "learn it again, or remove it"
        )
    return found


def learned_path(trtllm: str) -> Path:
    """Where what was learned of a release lies."""
    return data_home() / "trtllm" / f"{trtllm}.json"


def find_learned(trtllm: str) -> Learned | None:
    """What was learned of a release; None when nothing was.

    Raises:
        InputRefused: the file is there, and cannot be believed.
    """
    path = learned_path(trtllm)
    if "/" in trtllm or not path.is_file():
        return None
    found = read_learned(path)
    if found.trtllm != trtllm:
        raise InputRefused(f"{path}: is of TensorRT-LLM {found.trtllm}; expected {trtllm}; learn it again")
    return found


def learned_versions() -> tuple[str, ...]:
    """The releases of which something was learned, by the names of their files."""
    return tuple(sorted(path.stem for path in (data_home() / "trtllm").glob("*.json")))


def learned_with(architecture: str) -> tuple[str, ...]:
    """The learned releases that register an architecture; a file that cannot be believed counts for none."""
    found = []
    for trtllm in learned_versions():
        with suppress(InputRefused):
            learned = find_learned(trtllm)
            found += [trtllm] if learned is not None and architecture in learned.architectures else []
    return tuple(found)


def _digest(learned: Learned) -> str:
    """SHA-256 of everything but the digest itself."""
    values = learned.model_dump(mode="json", exclude={"sha256"})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def _build_argument(option: Option, shipped: Argument | None) -> Argument:
    if shipped is not None:
        choices = option.choices or shipped.choices
        kept = {"choices": () if shipped.type == "switch" else choices, "default": option.default}
        return shipped.model_copy(update=kept)
    kind = "choice" if option.choices else _TYPES.get(option.type, "str")
    return Argument(
        name=option.name,
        type=kind,
        choices=option.choices,
        default=option.default,
        nullable=option.default is None,
        meaning="learned from the installed release",
        group=NAME,
    )
