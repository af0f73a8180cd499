"""Takes off what training and packaging put before or into names of tensors: _orig_mod., module., any other.

It renames, and reads nothing. What else a checkpoint holds (a vision tower) keeps its name, and is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Wrapper:
    """What was put before names, who puts it there, and the name without it."""

    prefix: str
    origin: str
    is_there: Callable[[str], bool]
    without: Callable[[str], str]


def _leading(prefix: str, origin: str, *, instead: str = "") -> Wrapper:
    return Wrapper(
        prefix,
        origin,
        lambda name: name.startswith(prefix),
        lambda name: instead + name.removeprefix(prefix),
    )


def _anywhere(part: str, origin: str) -> Wrapper:
    return Wrapper(
        part,
        origin,
        lambda name: part in name,
        lambda name: re.sub(rf"(^|(?<=\.)){re.escape(part)}", "", name),
    )


WRAPPERS = (
    _anywhere("_orig_mod.", "torch.compile"),
    _anywhere("_fsdp_wrapped_module.", "FullyShardedDataParallel"),
    _anywhere("_checkpoint_wrapped_module.", "torch's activation checkpointing"),
    _anywhere("_forward_module.", "Lightning Fabric"),
    _leading("module.", "DistributedDataParallel"),
    _leading("model.language_model.", "a multimodal model of transformers 5", instead="model."),
    _leading("language_model.", "a multimodal model of transformers 4"),
)
"""In this order; each is looked for once more after another was taken off."""


def unwrapped(
    names: Iterable[str], *, embedding: str | None = None
) -> tuple[dict[str, str], tuple[Wrapper, ...]]:
    """The names without wrappers, each with the name in the file; and which wrappers there were.

    Nothing is taken off where two names would become one. What stands before `embedding`, a tensor that
    every checkpoint of the model has, is taken off too, whatever it is.
    """
    found, taken = _without_known(names)
    if embedding is None or embedding in found:
        return found, taken
    prefixes = [name.removesuffix(embedding) for name in found if name.endswith(f".{embedding}")]
    if len(prefixes) != 1:
        return found, taken
    wrapper = _leading(prefixes[0], "a model of which it is a part")
    bare = {wrapper.without(name) if wrapper.is_there(name) else name: given for name, given in found.items()}
    return (bare, (*taken, wrapper)) if len(bare) == len(found) else (found, taken)


def _without_known(names: Iterable[str]) -> tuple[dict[str, str], tuple[Wrapper, ...]]:
    """The names without the wrappers that are known by name."""
    found = {name: name for name in names}
    taken: list[Wrapper] = []
    for _ in WRAPPERS:
        before = found
        for wrapper in WRAPPERS:
            if not any(map(wrapper.is_there, found)):
                continue
            bare = {
                wrapper.without(name) if wrapper.is_there(name) else name: given
                for name, given in found.items()
            }
            if len(bare) == len(found):
                found = bare
                taken += [] if wrapper in taken else [wrapper]
        if found is before:
            break
    return found, tuple(taken)
