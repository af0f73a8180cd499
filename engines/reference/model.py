"""One rank of the model: it reads its own rank file and yields where ranks must exchange tensors.

It is written once for every executor: ``forward`` is a generator that yields an exchange and is sent
the result, so that ranks may live in one process (lockstep) or in one process each. What a layer computes
is in `attention`, `latent`, `mlp` and `experts`; here is how layers are put together.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .architectures import Residual
from .batches import Batch, Logits, Prefill
from .cache import KvCache, LayerCache
from .config import EngineConfig
from .exchanges import AllGather, AllReduce, Forward, Receive, Send, Step
from .layers.attention import Attention
from .layers.experts import Experts
from .layers.latent import LatentAttention
from .layers.mlp import DenseMlp, read_dense_mlp
from .layers.norms import Norm
from .loading import RankFile
from .places import Place, Places


@dataclass(frozen=True)
class _Layer:
    """The blocks and norms of one layer; `mlp_norm` None: the MLP reads what attention reads."""

    input_norm: Norm
    attention: Attention | LatentAttention
    mlp: DenseMlp | Experts
    mlp_norm: Norm | None
    after_attention: Norm | None = None
    after_mlp: Norm | None = None


class RankModel:
    """The layers, embedding and LM head that one rank holds, with its KV cache.

    Raises:
        EngineError: a tensor is missing from the rank file or has a wrong shape.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        rank: int,
        num_slots: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.config = config
        self.rank = rank
        self.tp_rank = rank % config.tp_size
        self.is_first = rank // config.tp_size == 0
        self.is_last = rank // config.tp_size == config.pp_size - 1
        self.device, self.dtype = device, dtype
        self._num_slots = num_slots
        self._places = Places(config, tp_rank=self.tp_rank, device=device, dtype=dtype)
        self._add_blocks = {
            Residual.SEQUENTIAL: self._sequential,
            Residual.PARALLEL: self._parallel,
            Residual.SANDWICH: self._sandwich,
        }[config.form.residual]
        self._load()

    def forward(self, batch: Batch) -> Forward:
        """Run the rank's stage; the last stage returns logits [positions asked for, vocab], float32.

        Every rank of the last stage returns the same logits; the others return None.
        """
        place = self._places.find(batch)
        if self.is_first:
            hidden = yield from self._embed(torch.tensor(batch.tokens, device=self.device), place)
        else:
            hidden = yield Receive(num_tokens=len(batch.tokens))
        for layer in self.layers:
            hidden = yield from self._add_blocks(layer, hidden, batch, place)
        if not self.is_last:
            yield Send(hidden)
            return None
        if isinstance(batch, Prefill) and batch.logits is Logits.NONE:
            return None
        if isinstance(batch, Prefill) and batch.logits is Logits.LAST:
            hidden = hidden[-1:]
        # In float32 whatever the dtype: a step of bfloat16 at 25 is 0.125, more than parts likely tokens.
        logits = functional.linear(self._final_norm(hidden).float(), self._lm_head, self._lm_bias)
        logits = yield AllGather(logits)
        return self._scaled(logits[:, : self.config.vocab_size])

    def _sequential(self, layer: _Layer, hidden: Tensor, batch: Batch, place: Place) -> Step:
        assert layer.mlp_norm is not None, "sequential blocks have a norm each"
        part = layer.attention(layer.input_norm(hidden), batch, place)
        hidden = self._add(hidden, (yield AllReduce(part)), layer.attention.dense_bias)
        part = layer.mlp(layer.mlp_norm(hidden))
        return self._add(hidden, (yield AllReduce(part)), layer.mlp.proj_bias)

    def _parallel(self, layer: _Layer, hidden: Tensor, batch: Batch, place: Place) -> Step:
        normed = layer.input_norm(hidden)
        part = layer.attention(normed, batch, place)
        part = part + layer.mlp(normed if layer.mlp_norm is None else layer.mlp_norm(hidden))
        part = _biased((yield AllReduce(part)), layer.mlp.proj_bias)
        return self._add(hidden, part, layer.attention.dense_bias)

    def _sandwich(self, layer: _Layer, hidden: Tensor, batch: Batch, place: Place) -> Step:
        assert layer.mlp_norm and layer.after_attention and layer.after_mlp, "a sandwich has four norms"
        part = yield AllReduce(layer.attention(layer.input_norm(hidden), batch, place))
        hidden = hidden + layer.after_attention(_biased(part, layer.attention.dense_bias))
        part = yield AllReduce(layer.mlp(layer.mlp_norm(hidden)))
        return hidden + layer.after_mlp(_biased(part, layer.mlp.proj_bias))

    def _add(self, hidden: Tensor, part: Tensor, bias: Tensor | None) -> Tensor:
        part = _biased(part, bias)
        multiplier = self.config.multipliers.residual
        return hidden + part if multiplier == 1.0 else hidden + part * multiplier

    def _scaled(self, logits: Tensor) -> Tensor:
        multipliers = self.config.multipliers
        if multipliers.logits != 1.0:
            logits = logits * multipliers.logits
        if multipliers.logit_softcap is not None:
            logits = torch.tanh(logits / multipliers.logit_softcap) * multipliers.logit_softcap
        return logits

    def _embed(self, tokens: Tensor, place: Place) -> Step:
        hidden = yield from self._look_up(tokens)
        if self.config.multipliers.embedding != 1.0:
            hidden = hidden * self.config.multipliers.embedding
        if self._position_embedding is not None:
            hidden = hidden + functional.embedding(place.positions, self._position_embedding)
        return hidden if self._embedding_norm is None else self._embedding_norm(hidden)

    def _look_up(self, tokens: Tensor) -> Step:
        table = self._embedding
        if self.config.parallel_embedding_dim is None:
            return functional.embedding(tokens, table).to(self.dtype)
        if self.config.parallel_embedding_dim == 1:
            return (yield AllGather(functional.embedding(tokens, table).to(self.dtype)))
        local = tokens - self.tp_rank * table.shape[0]
        held = (local >= 0) & (local < table.shape[0])
        rows = functional.embedding(local.clamp(0, table.shape[0] - 1), table).to(self.dtype)
        return (yield AllReduce(rows * held[:, None]))

    def _load(self) -> None:
        config = self.config
        hidden, vocab = config.hidden_size, -(-config.vocab_size // config.tp_size)
        file = RankFile(
            config.rank_file(self.rank), device=self.device, dtype=self.dtype, quantized=config.quantized
        )
        caches = [self._new_cache() for _ in config.layers(self.rank)]
        self.cache = KvCache(caches)
        self.layers = [
            self._load_layer(file, f"transformer.layers.{local}.", layer=layer, cache=caches[local])
            for local, layer in enumerate(config.layers(self.rank))
        ]
        if self.is_first:
            self._load_embedding(file, vocab_part=vocab)
        if self.is_last:
            self._final_norm = self._load_norm(file, "transformer.ln_f")
            self._lm_head = file.read("lm_head.weight", (vocab, hidden), dtype=torch.float32)
            self._lm_bias = file.read_if("lm_head.bias", (vocab,), dtype=torch.float32)
        file.refuse_unread()

    def _load_embedding(self, file: RankFile, *, vocab_part: int) -> None:
        config, hidden = self.config, self.config.hidden_size
        shapes = {None: (config.vocab_size, hidden), 0: (vocab_part, hidden)}
        split_hidden = (config.vocab_size, hidden // config.tp_size)
        # The table stays in its own dtype: only the rows that are looked up are converted.
        self._embedding = file.read_unconverted(
            "transformer.vocab_embedding.weight", shapes.get(config.parallel_embedding_dim, split_hidden)
        ).to(self.device)
        self._position_embedding: Tensor | None = None
        if config.position == "learned_absolute":
            self._position_embedding = file.read(
                "transformer.position_embedding.weight", (config.max_position_embeddings, hidden)
            )
        name = config.form.embedding_norm
        self._embedding_norm = None if name is None else self._load_norm(file, f"transformer.{name}")

    def _load_layer(self, file: RankFile, prefix: str, *, layer: int, cache: LayerCache) -> _Layer:
        form = self.config.form
        names = {"mlp_norm": form.mlp_norm}
        if form.residual is Residual.SANDWICH:
            names = {
                "after_attention": "post_layernorm",
                "mlp_norm": "pre_feedforward_layernorm",
                "after_mlp": "post_feedforward_layernorm",
            }
        norms = {key: self._load_norm(file, prefix + name) if name else None for key, name in names.items()}
        return _Layer(
            input_norm=self._load_norm(file, f"{prefix}input_layernorm"),
            attention=self._load_attention(file, prefix, layer=layer, cache=cache),
            mlp=self._load_mlp(file, f"{prefix}mlp"),
            **norms,
        )

    def _load_attention(
        self, file: RankFile, prefix: str, *, layer: int, cache: LayerCache
    ) -> Attention | LatentAttention:
        config = self.config
        if config.latent is not None:
            return LatentAttention(file, prefix, config, sizes=config.latent, cache=cache)
        return Attention(file, prefix, config, window=config.windows[layer], cache=cache)

    def _load_mlp(self, file: RankFile, name: str) -> DenseMlp | Experts:
        """Some layers of a model with experts have a dense block; the router tells."""
        if file.holds(f"{name}.router.weight") and self.config.experts is not None:
            return Experts(file, name, self.config, experts=self.config.experts, tp_rank=self.tp_rank)
        return read_dense_mlp(file, name, self.config)

    def _load_norm(self, file: RankFile, name: str) -> Norm:
        config, form = self.config, self.config.form
        return file.read_norm(
            name, (config.hidden_size,), kind=form.norm, bias=form.norm_bias, epsilon=config.norm_epsilon
        )

    def _new_cache(self) -> LayerCache:
        config, latent = self.config, self.config.latent
        heads, size = max(1, config.num_kv_heads // config.tp_size), config.head_size
        if latent is not None:
            heads, size = 1, latent.kv_lora_rank + latent.qk_rope_head_dim
        return LayerCache(
            (self._num_slots, heads, config.limits.max_seq_len, size),
            value_size=latent.kv_lora_rank if latent else None,
            dtype=self.dtype,
            device=self.device,
        )


def _biased(part: Tensor, bias: Tensor | None) -> Tensor:
    return part if bias is None else part + bias
