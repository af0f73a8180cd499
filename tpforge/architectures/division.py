"""Over how many ranks a declared model divides without padding, and what keeps other numbers from it.

It knows the tensors' cuts, no GPUs. TensorRT-LLM's PyTorch backend pads the vocabulary itself.
"""

from __future__ import annotations

from collections.abc import Iterator

from tpforge.architectures.declared import Declared, Tensor
from tpforge.errors import PlanError

MOST = 64


def division_problems(model: Declared, *, tp_size: int, moe_ep_size: int = 1) -> tuple[str, ...]:
    """Why a model does not divide over that many ranks, each reason once; none when it does."""
    moe_tp_size = tp_size // moe_ep_size
    found = (_problem(one, tp_size, moe_ep_size, moe_tp_size) for one in _distinct(model))
    return tuple(dict.fromkeys(one for one in found if one is not None))


def require_division(model: Declared, *, tp_size: int, moe_ep_size: int = 1) -> None:
    """Refuse numbers of ranks over which the model does not divide.

    Raises:
        PlanError: with the reasons, and the sizes that work.
    """
    if not (problems := division_problems(model, tp_size=tp_size, moe_ep_size=moe_ep_size)):
        return
    sizes = ", ".join(str(one) for one in tp_sizes(model))
    experts = f" moe-ep={moe_ep_size}" if moe_ep_size > 1 else ""
    raise PlanError(
        f"tp={tp_size}{experts} does not divide {model.class_name} ({'; '.join(problems)}), and it is "
        f"not padded; use tp={sizes}"
    )


def tp_sizes(model: Declared) -> tuple[int, ...]:
    """The sizes up to MOST that divide the model."""
    tensors = _distinct(model)
    return tuple(
        size for size in range(1, MOST + 1) if not any(_problem(one, size, 1, size) for one in tensors)
    )


def ep_sizes(model: Declared) -> tuple[int, ...]:
    """The numbers of groups up to MOST that the experts divide over; none without experts."""
    counts = {
        one.shape[0]
        for layer in model.layers
        for one in layer.tensors
        if one.cut in ("experts", "experts in")
    }
    return tuple(size for size in range(1, MOST + 1) if counts and not any(count % size for count in counts))


def _distinct(model: Declared) -> tuple[Tensor, ...]:
    """One of the tensors of the layers that are divided alike, each."""
    return tuple({_alike(tensor): tensor for layer in model.layers for tensor in layer.tensors}.values())


def _alike(tensor: Tensor) -> tuple[object, ...]:
    return tensor.cut, tensor.shape, tensor.heads


def _problem(tensor: Tensor, tp_size: int, moe_ep_size: int, moe_tp_size: int) -> str | None:
    heads, kv_heads = tensor.heads
    match tensor.cut:
        case "heads" | "heads in" if heads % tp_size:
            return f"{heads} attention heads"
        case "kv" if kv_heads % tp_size and tp_size % kv_heads:
            return f"{kv_heads} KV heads can be neither split nor duplicated"
        case "width" if tensor.shape[0] % tp_size:
            return f"{_last(tensor)} has {tensor.shape[0]} rows"
        case "width in" if tensor.shape[-1] % tp_size:
            return f"{_last(tensor)} has {tensor.shape[-1]} columns"
        case "experts" | "experts in":
            return next(_of_experts(tensor, moe_ep_size, moe_tp_size), None)
    return None


def _of_experts(tensor: Tensor, moe_ep_size: int, moe_tp_size: int) -> Iterator[str]:
    if tensor.shape[0] % moe_ep_size:
        yield f"{tensor.shape[0]} experts over {moe_ep_size} groups"
    width = tensor.shape[1 if tensor.cut == "experts" else 2]
    if width % moe_tp_size:
        yield f"experts {width} wide"


def _last(tensor: Tensor) -> str:
    return tensor.name.rpartition(".layers.")[2].partition(".")[2] or tensor.name
