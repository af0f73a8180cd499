"""Checks of the server itself: live, ready, all models, and the tensors they declare.

They send no prompt.
"""

from __future__ import annotations

from collections.abc import Iterator

from triton_repo.client.client import TensorMetadata
from triton_repo.render.contract import MODELS, TensorContract, expected_tensors
from triton_repo.smoke.check import Check, Failed, Target, expect


def check_live(target: Target) -> None:
    """The server answers."""
    expect(target.client.is_live(), "the server answers that it is not live")


def check_ready(target: Target) -> None:
    """The server calls itself ready."""
    expect(target.client.is_ready(), "the server answers that it is not ready")


def check_models_ready(target: Target) -> None:
    """Every model of the contract is in the server's index, READY."""
    found = {model.name: model for model in target.client.models()}
    problems = []
    for name in MODELS:
        if name not in found:
            problems.append(f"{name} is not in the server's repository ({', '.join(sorted(found))})")
        elif found[name].state != "READY" or not target.client.is_model_ready(name):
            problems.append(f"{name} is {found[name].state or 'not loaded'} {found[name].reason}".rstrip())
    if problems:
        raise Failed("; ".join(problems))


def check_contract(target: Target) -> None:
    """Names, types, shapes and optionality of all tensors are those of the contract, no more and no less."""
    problems: list[str] = []
    for model in MODELS:
        expected, found = expected_tensors(model), target.client.metadata(model)
        problems += _differences(f"{model} input", expected.inputs, found.inputs)
        problems += _differences(f"{model} output", expected.outputs, found.outputs)
    if problems:
        raise Failed("; ".join(sorted(problems)))


def _differences(
    place: str, expected: tuple[TensorContract, ...], found: tuple[TensorMetadata, ...]
) -> Iterator[str]:
    have = {tensor.name: tensor for tensor in found}
    want = {tensor.name: tensor for tensor in expected}
    for name in sorted(want.keys() - have.keys()):
        yield f"{place} {name}: missing"
    for name in sorted(have.keys() - want.keys()):
        yield f"{place} {name}: not in the contract"
    for name in sorted(want.keys() & have.keys()):
        shape = (-1, *want[name].dims)  # The wire's shape starts with the batch.
        if have[name].datatype != want[name].datatype:
            yield f"{place} {name}: {have[name].datatype}, expected {want[name].datatype}"
        if have[name].shape != shape:
            yield f"{place} {name}: shape {list(have[name].shape)}, expected {list(shape)}"
        if have[name].optional != want[name].optional:
            yield f"{place} {name}: optional is {have[name].optional}, expected {want[name].optional}"


HEALTH_CHECKS = (
    Check("live", "the server's process answers over gRPC", check_live),
    Check("ready", "the server calls itself ready", check_ready),
    Check("models", "every model of the contract is loaded and ready", check_models_ready),
    Check("contract", "tensor names, types and shapes are those clients are written for", check_contract),
)
