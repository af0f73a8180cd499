"""What is wrong with a checkpoint, found from its headers before anything is spent on it.

It reads no weights, but for one comparison: an LM head stored beside the embedding it is tied to.
"""

from __future__ import annotations

from builders.audit.tensors import check_tensors, grouped
from builders.audit.tokenizer import FoundTokenizer, find_tokenizer, vocabulary_problem
from builders.sources.base import Source, WeightReader
from tpforge.errors import InputRefused


def audit(source: Source) -> dict[str, str]:
    """The tensors that will be left out, with the reason for each.

    Raises:
        InputRefused: tensors are missing, unknown, or of a wrong shape or type, or the tokenizer has more
            tokens than the embedding has rows; all are listed.
    """
    found = check_tensors(source.family, source.spec, shapes=source.shapes, dtypes=source.dtypes)
    problems = grouped(found.problems)
    if source.path.is_dir():
        problem = vocabulary_problem(find_tokenizer(source.path), vocab_size=source.spec.vocab_size)
        problems += [problem] if problem else []
    elif isinstance(found_tokenizer := getattr(source, "tokenizer", None), FoundTokenizer):
        problems += found_tokenizer.problems
    problems += tied_problems(source, found.ties)
    zeros, others = judge_biases(source, found.biases)
    problems += others
    if problems:
        raise InputRefused.listing(
            f"{source.location}: the weights are not those of a {source.spec.architecture} "
            "with this config.json:",
            problems,
        )
    return dict(sorted({**found.dropped, **tied_reasons(found.ties), **zeros}.items()))


def judge_biases(source: WeightReader, names: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """Biases that the model computes without: zeros are left out, others are problems; reads them."""
    zeros: dict[str, str] = {}
    problems: list[str] = []
    for name in names:
        if bool(source.read(name).any()):
            problems.append(f"{name}: has values, but the model of this config.json has no bias there")
        else:
            zeros[name] = "a bias of zeros (AutoGPTQ writes them), which changes nothing"
    return zeros, problems


def tied_problems(source: WeightReader, ties: dict[str, str]) -> list[str]:
    """The heads that do not repeat the embedding to which config.json ties them; reads both."""
    if not ties:
        return []
    import torch

    return [
        f"{head} differs from {embedding}, but config.json says tie_word_embeddings=true; one is wrong"
        for head, embedding in ties.items()
        if not torch.equal(source.read(head), source.read(embedding))
    ]


def tied_reasons(ties: dict[str, str]) -> dict[str, str]:
    """Why heads that repeat a tied embedding are left out."""
    return {head: f"the same as {one}, to which config.json ties it" for head, one in ties.items()}
