"""Which rows of a fused source tensor belong to one of the matrices that were fused into it.

It gives spans and touches no tensor. Families fuse q, k, v (or gate and up) in few ways; each has a name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from tpforge.errors import PlanError
from tpforge.model import AttentionSpec, ModelSpec


@dataclass(frozen=True)
class Span:
    """`length` consecutive rows (or columns): from the source at `start`, or zeros when it is None."""

    start: int | None
    length: int


class Section(Enum):
    """A matrix within a fused source tensor, along the dim that is cut."""

    WHOLE = "whole"
    """The tensor is not fused."""
    STACKED_QUERY = "stacked query"
    """[q; k; v], each whole: the query rows (Phi-3, GPT-2, Baichuan, MPT, DBRX, ChatGLM)."""
    STACKED_KEY = "stacked key"
    STACKED_VALUE = "stacked value"
    GROUPED_QUERY = "grouped query"
    """For each KV head its queries, its key, its value (GPT-NeoX, BLOOM, Falcon, InternLM2)."""
    GROUPED_KEY = "grouped key"
    GROUPED_VALUE = "grouped value"
    FIRST_HALF = "first half"
    """[gate; up]: the gate (Phi-3, ChatGLM)."""
    SECOND_HALF = "second half"
    AFTER_TWO = "after two"
    """All but the first two rows (the position table of OPT)."""
    HEAD_KEY = "head key"
    """Of each head's rows the first qk_nope_head_size (latent attention)."""
    HEAD_VALUE = "head value"
    """Of each head's rows the last v_head_size (latent attention)."""
    EXPERT = "expert"
    """One of num_experts equal pieces (DBRX)."""


def section_spans(section: Section, size: int, *, model: ModelSpec, expert: int = 0) -> tuple[Span, ...]:
    """The spans of a source dim of `size` that belong to `section`; `expert` counts from 0.

    Raises:
        PlanError: `size` cannot be divided so.
    """
    if section is Section.WHOLE:
        return (Span(0, size),)
    if section in _STACKED:
        return (_stacked(section, size, model.attention),)
    if section in _GROUPED:
        return _grouped(section, size, model.attention)
    if section is Section.AFTER_TWO:
        return (Span(2, size - 2),)
    if section in (Section.HEAD_KEY, Section.HEAD_VALUE):
        return _of_each_head(section, size, model.attention)
    if section is Section.EXPERT:
        assert model.moe is not None, "a section of experts in a model without experts"
        count, index = model.moe.num_experts, expert
    else:
        count, index = 2, 0 if section is Section.FIRST_HALF else 1
    if size % count:
        raise PlanError(f"found size {size}, expected a multiple of {count}")
    return (Span(index * (size // count), size // count),)


_STACKED = (Section.STACKED_QUERY, Section.STACKED_KEY, Section.STACKED_VALUE)
_GROUPED = (Section.GROUPED_QUERY, Section.GROUPED_KEY, Section.GROUPED_VALUE)


def _head_size(size: int, attention: AttentionSpec) -> int:
    heads = attention.num_heads + 2 * attention.num_kv_heads
    if size % heads:
        fused = f"{attention.num_heads} + 2 x {attention.num_kv_heads} heads"
        raise PlanError(f"found size {size}, expected a multiple of {fused}")
    return size // heads


def _stacked(section: Section, size: int, attention: AttentionSpec) -> Span:
    head_size = _head_size(size, attention)
    query, kv = attention.num_heads * head_size, attention.num_kv_heads * head_size
    if section is Section.STACKED_QUERY:
        return Span(0, query)
    return Span(query if section is Section.STACKED_KEY else query + kv, kv)


def _grouped(section: Section, size: int, attention: AttentionSpec) -> tuple[Span, ...]:
    head_size = _head_size(size, attention)
    group = attention.num_heads // attention.num_kv_heads
    offset, count = {
        Section.GROUPED_QUERY: (0, group),
        Section.GROUPED_KEY: (group, 1),
        Section.GROUPED_VALUE: (group + 1, 1),
    }[section]
    return tuple(
        Span((kv_head * (group + 2) + offset) * head_size, count * head_size)
        for kv_head in range(attention.num_kv_heads)
    )


def _of_each_head(section: Section, size: int, attention: AttentionSpec) -> tuple[Span, ...]:
    assert attention.latent is not None, "a section of latent heads in a model without them"
    key, value = attention.latent.qk_nope_head_size, attention.latent.v_head_size
    if size != attention.num_heads * (key + value):
        raise PlanError(f"found size {size}, expected {attention.num_heads} heads x ({key} + {value})")
    offset, length = (0, key) if section is Section.HEAD_KEY else (key, value)
    return tuple(Span(head * (key + value) + offset, length) for head in range(attention.num_heads))


def compose(outer: tuple[Span, ...], inner: tuple[Span, ...]) -> tuple[Span, ...]:
    """`inner` spans, given within the rows that `outer` selects, as spans of the source itself."""
    result: list[Span] = []
    for piece in inner:
        result += [piece] if piece.start is None else _within(outer, piece.start, piece.length)
    return merge(result)


def _within(outer: tuple[Span, ...], start: int, length: int) -> list[Span]:
    found: list[Span] = []
    for span in outer:
        assert span.start is not None, "a section has no zeros"
        if length and start < span.length:
            taken = min(span.length - start, length)
            found.append(Span(span.start + start, taken))
            start, length = start + taken, length - taken
        start -= span.length
    return found


def merge(pieces: list[Span]) -> tuple[Span, ...]:
    """Neighbouring spans joined, empty ones dropped, so that each span is one contiguous copy."""
    merged: list[Span] = []
    for piece in pieces:
        if piece.length == 0:
            continue
        last = merged[-1] if merged else None
        if last is not None and last.start is None and piece.start is None:
            merged[-1] = Span(None, last.length + piece.length)
        elif last is not None and last.start is not None and piece.start == last.start + last.length:
            merged[-1] = Span(last.start, last.length + piece.length)
        else:
            merged.append(piece)
    return tuple(merged)


def cut_problem(spans: Sequence[Span], size: int, *, length: int) -> str | None:
    """Why a dim of `length` in groups of `size` cannot be cut into `spans`; None when it can."""
    if size <= 1:
        return None
    for span in spans:
        ends = (span.length,) if span.start is None else (span.start, span.start + span.length)
        for end in ends:
            if end % size and end != length:
                return f"a cut at {end} goes through a group of {size}"
    return None
