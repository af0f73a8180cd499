"""What an output was made of: inputs, options, the code that decided; and in what two of them differ.

It keeps and reads no file (`stages` and engine.json do) and decides nothing: a step that finds a difference
makes its output again, or refuses.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tpforge import __version__
from tpforge.manifest import FileRecord, Manifest
from tpforge.quantization import Quantization
from tpforge.records import Record


class Input(Record):
    """Something that was read: where it lay, and what must be equal for it to be the same.

    That is a SHA-256, or size and time of a file where hashing it would cost as much as the work it saves.
    """

    location: str
    identity: str


class Provenance(Record):
    """What an output was made of. `code` None: it was made before the code was kept."""

    version: str = __version__
    inputs: dict[str, Input]
    options: dict[str, Any]
    code: str | None

    @property
    def identity(self) -> str:
        """SHA-256 of all that `differences` compares."""
        value = self.model_dump(mode="json", exclude={"inputs"})
        value["inputs"] = {name: found.identity for name, found in self.inputs.items()}
        return hash_text(json.dumps(value, sort_keys=True))


def made_of(
    *, inputs: Mapping[str, Input], options: Mapping[str, Any], code: str | None, version: str = __version__
) -> Provenance:
    """The record, its options as JSON has them, so that one that was kept compares equal."""
    return Provenance(
        version=version,
        inputs=dict(inputs),
        options=json.loads(json.dumps(dict(options))),
        code=code,
    )


def differences(kept: Provenance, asked: Provenance) -> list[str]:
    """In what an output that was kept is not what would be made now; empty: in nothing.

    Values that are no single word are named when nothing plainer differs: they follow from what does.
    """
    plain, nested = [], []
    for name in dict.fromkeys([*asked.options, *kept.options]):
        has, wanted = kept.options.get(name), asked.options.get(name)
        if has == wanted:
            continue
        if isinstance(has, dict | list) or isinstance(wanted, dict | list):
            nested.append(f"its {name} is another one")
        else:
            plain.append(f"{name} is {has}, asked for {wanted}")
    if kept.version != asked.version:
        plain.insert(0, f"tpforge version is {kept.version}, asked for {asked.version}")
    plain += _input_differences(kept, asked)
    if found := plain or nested:
        return found
    if kept.code is not None and kept.code != asked.code:
        return ["it was made by other code of this version of tpforge"]
    return []


def _input_differences(kept: Provenance, asked: Provenance) -> Iterator[str]:
    for name in dict.fromkeys([*asked.inputs, *kept.inputs]):
        has, wanted = kept.inputs.get(name), asked.inputs.get(name)
        if has is None or wanted is None:
            where = (has or wanted or Input(location="", identity="")).location
            yield f"{name} is {'not ' if has is None else ''}among what it was made of, {where}"
        elif has.identity != wanted.identity:
            yield f"it was made of other files, {has.location}"


def engine_provenance(manifest: Manifest) -> Provenance:
    """What the engine of a manifest was made of; of one that is only planned, what it would be made of.

    Where the model lies decides nothing, its files do.
    """
    options: dict[str, Any] = {
        "runtime": manifest.runtime,
        "tp": manifest.mapping.tp_size,
        "pp": manifest.mapping.pp_size,
        "moe-ep": manifest.mapping.moe_ep_size,
        "parallel embedding": manifest.parallel_embedding_dim,
        "dtype": manifest.dtype.value,
        "quantization": _spelled(manifest.quantization),
        **manifest.limits.model_dump(mode="json"),
        "padding": manifest.padding.model_dump(mode="json"),
        "model": manifest.model.model_dump(mode="json"),
    }
    if manifest.runtime != "reference":
        # `tpforge build MODEL`, then the options; those of the other runtime are all in the record above.
        options["command"] = manifest.command[3:]
        settings = manifest.engine_build or manifest.llm_api
        options["arguments"] = settings.arguments if settings is not None else None
    return made_of(
        version=manifest.tpforge_version,
        inputs={
            "model": Input(location=manifest.source.location, identity=hash_files(manifest.source.files))
        },
        options=options,
        code=manifest.code,
    )


def engine_input(manifest: Manifest, *, location: str) -> Input:
    """An engine as the input of what is made of it: all but what was proven of it, and why it was chosen."""
    left_out = {"parity": None, "quality": None, "golden": (), "runtime_because": None}
    unproven = manifest.model_copy(update=left_out)
    return Input(location=location, identity=hash_text(unproven.model_dump_json()))


def hash_files(files: Iterable[FileRecord]) -> str:
    """One SHA-256 for names, sizes and content of files."""
    return hash_text(json.dumps([file.model_dump() for file in files]))


def hash_text(text: str) -> str:
    """SHA-256 of a text."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _spelled(quantization: Quantization | None) -> str:
    if quantization is None:
        return "none"
    order = None if quantization.order == "plain" else quantization.order
    group = quantization.group_size or None
    words = (quantization.format, quantization.form, group, order, quantization.kv_cache)
    return " ".join(str(word) for word in words if word is not None)
