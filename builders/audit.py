"""What is wrong with a checkpoint, found from its headers before anything is spent on it.

It reads no weights, but for one comparison: an LM head stored beside the embedding it is tied to.
"""

from __future__ import annotations

from builders.sources.base import Source
from tpforge.errors import InputRefused


def audit(source: Source) -> dict[str, str]:
    """The tensors that will be left out, with the reason for each.

    Raises:
        InputRefused: tensors are missing, unknown, or of a wrong shape or type; all are listed.
    """
    expected = source.family.expected_shapes(source.spec)
    dropped: dict[str, str] = {}
    problems: list[str] = []
    for name, shape in source.shapes.items():
        if name not in expected:
            reason = source.family.reason_to_drop(name) or _tied_head(source, name)
            if reason is None:
                problems.append(f"{name}: unknown to the {source.family.name} family")
            else:
                dropped[name] = reason
        elif shape != expected[name]:
            problems.append(f"{name}: found shape {list(shape)}, config.json implies {list(expected[name])}")
        elif name not in source.dtypes:
            problems.append(f"{name}: found a type that is not float32, float16 or bfloat16")
    missing = [name for name in expected if name not in source.shapes]
    problems += [f"{name}: missing" for name in missing]
    if problems:
        raise InputRefused.listing(
            f"{source.location}: the weights are not those of a {source.spec.architecture} "
            "with this config.json:",
            problems,
        )
    return dict(sorted(dropped.items()))


def _tied_head(source: Source, name: str) -> str | None:
    """The reason to drop an LM head that repeats a tied embedding; None for any other tensor."""
    embedding = "model.embed_tokens.weight"
    if name != "lm_head.weight" or not source.spec.tie_word_embeddings or embedding not in source.shapes:
        return None
    import torch

    if source.shapes[name] == source.shapes[embedding] and torch.equal(
        source.read(name), source.read(embedding)
    ):
        return f"the same as {embedding}, to which config.json ties it"
    raise InputRefused(
        f"{source.location}: lm_head.weight differs from {embedding}, "
        "but config.json says tie_word_embeddings=true; one of them is wrong"
    )
