"""How long the matrix products of a pipeline stage take on one of its ranks: dense ones, head, experts.

It knows no attention, no communication and no overheads.
"""

from __future__ import annotations

from tpforge.plan.hardware.gpus import Gpu
from tpforge.plan.speed.calibration import Fit
from tpforge.plan.speed.experts import busiest, tile_padding, touched
from tpforge.plan.speed.grouped import find_grouped
from tpforge.quantization import Activations, find_format
from tpforge.shards.weights import Elements, RankShapes, StageWork


def runs_on(weight_format: str | None, *, gpu: Gpu) -> Activations:
    """What products with weights of that format run on; None: floats."""
    return "float" if weight_format is None else find_format(weight_format).activations_on(gpu.sm)


class StageProducts:
    """Those of one stage, whose `work` is asked of every step.

    Each matrix goes at the rate of what its products run on; `weight_format` is that of most.
    """

    def __init__(
        self, work: StageWork, shapes: RankShapes, *, gpu: Gpu, weight_format: str | None, fit: Fit
    ) -> None:
        self._norm, share = fit.blend, fit.flops_share(gpu)
        self._bandwidth = gpu.bandwidth_gb_s * 1e9 * fit.bandwidth_share(gpu)
        self._dense = _seconds(work.dense, gpu=gpu) / share
        self._head = _seconds(((None, work.head_weights),), gpu=gpu) / share
        self._read = (work.dense_bytes + work.head_bytes) / self._bandwidth
        self._moe, self._mapping = shapes.model.moe, shapes.mapping
        held = next((name for name, _ in work.experts), weight_format)
        self._kernel = find_grouped(gpu, held)
        peak = 1.0 if self._kernel is not None else share
        rate = gpu.bandwidth_gb_s * 1e9 if self._kernel is not None else self._bandwidth
        self._routed, self._held = _seconds(work.experts, gpu=gpu) / peak, work.expert_bytes / rate
        self._padding = 1.0 if self._moe is None else tile_padding(self._moe, mapping=self._mapping)
        self._layers = shapes.num_expert_layers / shapes.mapping.pp_size

    @property
    def has_measured_experts(self) -> bool:
        """Whether what lies between the products of routed experts is in their time."""
        return self._kernel is not None

    def takes_at_most(self, other: StageProducts) -> bool:
        """Whether a step of any tokens takes no longer than in another stage of the same engine."""
        mine, others = self._parts, other._parts
        return self._kernel is other._kernel and all(
            one <= more for one, more in zip(mine, others, strict=True)
        )

    @property
    def _parts(self) -> tuple[float, ...]:
        """All that differs between stages of one engine: time grows with each."""
        return self._dense, self._head, self._read, self._routed, self._held

    def seconds(self, own: float, *, heads: float, everyones: float, passes: float) -> float:
        """Of a rank's `own` tokens, of which `heads` want logits, and of its experts of all ranks' tokens."""
        dense = self._joined(own * self._dense + heads * self._head, passes * self._read)
        return dense + self._experts(everyones, passes=passes)

    def _experts(self, tokens: float, *, passes: float) -> float:
        """The busiest rank's; in one kernel a layer where that was measured."""
        if self._moe is None:
            return 0.0
        each = tokens / passes
        uneven = busiest(self._moe, mapping=self._mapping, tokens=each) * self._padding
        arithmetic = tokens * uneven * self._routed
        reading = passes * touched(self._moe, tokens=each) * self._held
        if self._kernel is None:
            return self._joined(arithmetic, reading)
        held = self._moe.num_experts / self._mapping.moe_ep_size
        return self._kernel.seconds(arithmetic, reading, layers=passes * self._layers, experts=held)

    def _joined(self, arithmetic: float, reading: float) -> float:
        """The p-norm of both."""
        norm = self._norm
        return float((arithmetic**norm + reading**norm) ** (1 / norm))


def _seconds(elements: Elements, *, gpu: Gpu) -> float:
    """Of a token's products with so many elements, at the peaks."""
    return sum(2 * count / gpu.peak_flops(runs_on(name, gpu=gpu)) for name, count in elements)
