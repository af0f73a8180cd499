"""Mixture of experts of one layer on one rank: routing, the rank's experts, shared experts.

A rank holds some experts whole or all of them in part; either way its output is a part of a sum. It does
not add up the ranks.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..config import EngineConfig
from ..fields import ExpertsConfig, Routing
from ..loading import RankFile
from .mlp import GatedMlp, activation_of


class Experts:
    """The experts of a rank, their router, and the shared experts where there are any.

    Raises:
        EngineError: a tensor is missing or has another shape.
    """

    proj_bias = None

    def __init__(
        self, file: RankFile, name: str, config: EngineConfig, *, experts: ExpertsConfig, tp_rank: int
    ) -> None:
        self._config, hidden = experts, config.hidden_size
        self._activation = activation_of(config)
        self._held = experts.held(tp_rank)
        width, count = experts.intermediate_size // experts.tp_size, len(self._held)
        self._router = file.read_float32(f"{name}.router.weight", (experts.num_experts, hidden))
        self._up_gate = file.read(f"{name}.fc.weight", (count, 2 * width, hidden))
        self._proj = file.read(f"{name}.proj.weight", (count, hidden, width))
        self._shared: GatedMlp | None = None
        self._shared_gate: Tensor | None = None
        if experts.shared_intermediate_size:
            width = experts.shared_intermediate_size // config.tp_size
            self._shared = GatedMlp(file, f"{name}.shared_expert", config, width=width, is_fused=True)
            self._shared_gate = file.read_if(f"{name}.shared_expert_gate.weight", (1, hidden))

    def __call__(self, hidden: Tensor) -> Tensor:
        """The rank's part of the block, [tokens, hidden]."""
        weights, chosen = route(functional.linear(hidden.float(), self._router), self._config)
        weights = weights.to(hidden.dtype)
        output = self._shared_part(hidden)
        for expert in sorted(set(chosen.flatten().tolist())):
            if expert not in self._held:
                continue
            rows, places = (chosen == expert).nonzero(as_tuple=True)
            part = self._run(expert - self._held.start, hidden[rows])
            output.index_add_(0, rows, part * weights[rows, places, None])
        return output

    def _run(self, index: int, hidden: Tensor) -> Tensor:
        up, gate = functional.linear(hidden, self._up_gate[index]).chunk(2, dim=-1)
        return functional.linear(self._activation(gate) * up, self._proj[index])

    def _shared_part(self, hidden: Tensor) -> Tensor:
        if self._shared is None:
            return torch.zeros_like(hidden)
        part = self._shared(hidden)
        if self._shared_gate is None:
            return part
        return part * functional.linear(hidden, self._shared_gate).sigmoid()


def route(logits: Tensor, experts: ExpertsConfig) -> tuple[Tensor, Tensor]:
    """Weights and indices of the chosen experts, each [tokens, top_k], from float32 logits [tokens, experts].

    Source: TensorRT-LLM 1.2, layers/moe.py.
    """
    routing = experts.routing
    if routing is Routing.SPARSE_MIXER:
        return _sparse_mixer(logits, epsilon=experts.sparse_mixer_epsilon)
    if routing is Routing.RENORMALIZE:
        best = logits.topk(experts.top_k, dim=-1)
        return best.values.softmax(-1), best.indices
    scores = logits.softmax(-1)
    if routing is not Routing.NONE:
        scores = _limit_to_groups(scores, experts) * experts.routed_scaling
    best = scores.topk(experts.top_k, dim=-1)
    if routing is Routing.DEVICE_LIMITED_RENORM:
        return best.values / best.values.sum(-1, keepdim=True), best.indices
    return best.values, best.indices


def _limit_to_groups(scores: Tensor, experts: ExpertsConfig) -> Tensor:
    """Zero the scores of all groups of experts but those whose best expert is best. Source: DeepSeek-V2."""
    grouped = scores.view(scores.shape[0], experts.num_groups, -1)
    best_groups = grouped.amax(-1).topk(experts.top_groups, dim=-1).indices
    kept = torch.zeros(grouped.shape[:2], dtype=torch.bool, device=scores.device).scatter(
        1, best_groups, True
    )
    return (grouped * kept[..., None]).flatten(1)


def _sparse_mixer(logits: Tensor, *, epsilon: float) -> tuple[Tensor, Tensor]:
    """Twice the best expert, weighted among those within 2 epsilon of it. Source: SparseMixer; PhiMoE."""
    weights, indices, rest = [], [], logits
    for _ in range(2):
        best = rest.amax(-1, keepdim=True)
        far = (best - logits) / torch.maximum(logits.abs(), best) > 2 * epsilon
        index = rest.argmax(-1, keepdim=True)
        weights.append(rest.masked_fill(far, -torch.inf).softmax(-1).gather(1, index))
        indices.append(index)
        rest = rest.scatter(1, index, -torch.inf)
    return torch.cat(weights, dim=1), torch.cat(indices, dim=1)
