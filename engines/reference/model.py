"""One rank of the model: it reads its own rank file and yields where ranks must exchange tensors.

It is written once for every executor: ``forward`` is a generator that yields an exchange and is sent
the result, so that ranks may live in one process (lockstep) or in one process each.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional

from .batches import Batch, Logits, Prefill
from .cache import KvCache
from .config import EngineConfig, EngineError
from .layers import ACTIVATIONS, rms_norm, rotary_tables, rotate


@dataclass(frozen=True)
class AllReduce:
    """Sum the tensors of the stage's ranks; each is sent the sum."""

    tensor: Tensor


@dataclass(frozen=True)
class AllGather:
    """Join the tensors of the stage's ranks on the last dim, in rank order."""

    tensor: Tensor


@dataclass(frozen=True)
class Receive:
    """Take the hidden states [tokens, hidden] of the same tp rank of the stage before."""

    num_tokens: int


@dataclass(frozen=True)
class Send:
    """Hand the hidden states to the same tp rank of the stage after."""

    tensor: Tensor


Exchange = AllReduce | AllGather | Receive | Send
Forward = Generator[Exchange, Tensor, Tensor | None]


@dataclass(frozen=True)
class _Layer:
    """The weights of one layer on one rank; fc and gate are joined, to be one product."""

    input_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    dense: Tensor
    dense_bias: Tensor | None
    post_norm: Tensor
    fc_gate: Tensor
    proj: Tensor


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
        self.num_heads = config.num_heads // config.tp_size
        self.num_kv_heads = max(1, config.num_kv_heads // config.tp_size)
        self.is_first = rank // config.tp_size == 0
        self.is_last = rank // config.tp_size == config.pp_size - 1
        self.device, self.dtype = device, dtype
        self._activation = ACTIVATIONS[config.activation]
        self._load()
        cosine, sine = rotary_tables(config, num_positions=config.limits.max_seq_len)
        self._cosine = cosine.to(device, dtype)[:, None, :]
        self._sine = sine.to(device, dtype)[:, None, :]
        self.cache = KvCache(
            num_layers=len(self.layers),
            num_slots=num_slots,
            num_kv_heads=self.num_kv_heads,
            num_positions=config.limits.max_seq_len,
            head_size=config.head_size,
            dtype=dtype,
            device=device,
        )

    def forward(self, batch: Batch) -> Forward:
        """Run the rank's stage; the last stage returns logits [positions asked for, vocab], float32.

        Every rank of the last stage returns the same logits; the others return None.
        """
        tokens = torch.tensor(batch.tokens, device=self.device)
        if self.is_first:
            hidden = yield from self._embed(tokens)
        else:
            hidden = yield Receive(num_tokens=len(batch.tokens))
        place = _place(batch, self.config, self.device)
        rotary = self._cosine[place.positions], self._sine[place.positions]
        for index, layer in enumerate(self.layers):
            normed = rms_norm(hidden, layer.input_norm, self.config.norm_epsilon)
            attended = yield AllReduce(self._attention(index, normed, batch, place, rotary))
            hidden = hidden + attended if layer.dense_bias is None else hidden + attended + layer.dense_bias
            normed = rms_norm(hidden, layer.post_norm, self.config.norm_epsilon)
            hidden = hidden + (yield AllReduce(self._mlp(layer, normed)))
        if not self.is_last:
            yield Send(hidden)
            return None
        if isinstance(batch, Prefill) and batch.logits is Logits.NONE:
            return None
        if isinstance(batch, Prefill) and batch.logits is Logits.LAST:
            hidden = hidden[-1:]
        normed = rms_norm(hidden, self._final_norm, self.config.norm_epsilon)
        logits = yield AllGather(functional.linear(normed, self._lm_head))
        return logits[:, : self.config.vocab_size].float()

    def _embed(self, tokens: Tensor) -> Generator[Exchange, Tensor, Tensor]:
        table = self._embedding
        if self.config.parallel_embedding_dim is None:
            return functional.embedding(tokens, table).to(self.dtype)
        if self.config.parallel_embedding_dim == 1:
            return (yield AllGather(functional.embedding(tokens, table).to(self.dtype)))
        local = tokens - self.tp_rank * table.shape[0]
        held = (local >= 0) & (local < table.shape[0])
        rows = functional.embedding(local.clamp(0, table.shape[0] - 1), table).to(self.dtype)
        return (yield AllReduce(rows * held[:, None]))

    def _attention(
        self, index: int, hidden: Tensor, batch: Batch, place: _Place, rotary: tuple[Tensor, Tensor]
    ) -> Tensor:
        """The rank's part of attention and output projection, [tokens, hidden], without its bias."""
        layer, head_size = self.layers[index], self.config.head_size
        heads = functional.linear(hidden, layer.qkv, layer.qkv_bias)
        heads = heads.view(hidden.shape[0], self.num_heads + 2 * self.num_kv_heads, head_size)
        turned = rotate(heads[:, : self.num_heads + self.num_kv_heads], *rotary)
        queries, keys = turned[:, : self.num_heads], turned[:, self.num_heads :]
        values = heads[:, self.num_heads + self.num_kv_heads :]
        if isinstance(batch, Prefill):
            attended = self._attend_chunk(index, batch, place, queries, keys, values)
        else:
            attended = self._attend_tokens(index, place, queries, keys, values)
        return functional.linear(attended, layer.dense)

    def _attend_chunk(
        self, index: int, batch: Prefill, place: _Place, queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        cache, stop = self.cache, batch.start + len(batch.tokens)
        cache.write_chunk(index, batch.slot, batch.start, keys.transpose(0, 1), values.transpose(0, 1))
        group = self.num_heads // self.num_kv_heads
        past_keys = cache.keys[index][batch.slot, :, :stop].repeat_interleave(group, dim=0)
        past_values = cache.values[index][batch.slot, :, :stop].repeat_interleave(group, dim=0)
        attended = functional.scaled_dot_product_attention(
            queries.transpose(0, 1)[None],
            past_keys[None],
            past_values[None],
            attn_mask=place.mask,
            is_causal=place.mask is None,
        )
        return attended[0].transpose(0, 1).reshape(len(batch.tokens), -1)

    def _attend_tokens(
        self, index: int, place: _Place, queries: Tensor, keys: Tensor, values: Tensor
    ) -> Tensor:
        """The heads of a KV group stand as query positions, so that K and V are not repeated."""
        cache, count = self.cache, queries.shape[0]
        cache.write_tokens(index, place.positions, keys, values)
        attended = functional.scaled_dot_product_attention(
            queries.reshape(count, self.num_kv_heads, -1, self.config.head_size),
            cache.keys[index][:count, :, : place.length],
            cache.values[index][:count, :, : place.length],
            attn_mask=place.mask,
        )
        return attended.reshape(count, -1)

    def _mlp(self, layer: _Layer, hidden: Tensor) -> Tensor:
        # TensorRT-LLM calls Hugging Face's gate_proj "fc" and its up_proj "gate".
        fc, gate = functional.linear(hidden, layer.fc_gate).chunk(2, dim=-1)
        return functional.linear(self._activation(fc) * gate, layer.proj)

    def _load(self) -> None:
        config = self.config
        hidden, vocab = config.hidden_size, -(-config.vocab_size // config.tp_size)
        file = _RankFile(config.rank_file(self.rank), device=self.device, dtype=self.dtype)
        self.layers = [
            self._load_layer(file, f"transformer.layers.{local}.")
            for local in range(len(config.layers(self.rank)))
        ]
        if self.is_first:
            shapes = {None: (config.vocab_size, hidden), 0: (vocab, hidden)}
            split_hidden = (config.vocab_size, hidden // config.tp_size)
            # The table stays in its own dtype: only the rows that are looked up are converted.
            self._embedding = file.read_unconverted(
                "transformer.vocab_embedding.weight", shapes.get(config.parallel_embedding_dim, split_hidden)
            ).to(self.device)
        if self.is_last:
            self._final_norm = file.read("transformer.ln_f.weight", (hidden,))
            self._lm_head = file.read("lm_head.weight", (vocab, hidden))
        file.refuse_unread()

    def _load_layer(self, file: _RankFile, prefix: str) -> _Layer:
        config, hidden = self.config, self.config.hidden_size
        width = config.intermediate_size // config.tp_size
        q_width = self.num_heads * config.head_size
        qkv_width = q_width + 2 * self.num_kv_heads * config.head_size
        fc = file.read(f"{prefix}mlp.fc.weight", (width, hidden))
        gate = file.read(f"{prefix}mlp.gate.weight", (width, hidden))
        return _Layer(
            input_norm=file.read(f"{prefix}input_layernorm.weight", (hidden,)),
            qkv=file.read(f"{prefix}attention.qkv.weight", (qkv_width, hidden)),
            qkv_bias=file.read_if(f"{prefix}attention.qkv.bias", (qkv_width,)),
            dense=file.read(f"{prefix}attention.dense.weight", (hidden, q_width)),
            dense_bias=file.read_if(f"{prefix}attention.dense.bias", (hidden,)),
            post_norm=file.read(f"{prefix}post_layernorm.weight", (hidden,)),
            fc_gate=torch.cat((fc, gate)),
            proj=file.read(f"{prefix}mlp.proj.weight", (hidden, width)),
        )


class _RankFile:
    """A rank file that is read by name and expected shape, and remembers what was not read."""

    def __init__(self, path: Path, *, device: torch.device, dtype: torch.dtype) -> None:
        self._path, self._device, self._dtype = path, device, dtype
        try:
            self._file = safe_open(path, framework="pt")
        except (OSError, SafetensorError) as error:
            raise EngineError(f"{path}: cannot be read: {error}") from error
        self._unread: set[str] = set(self._file.keys())  # type: ignore[no-untyped-call]

    def read(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor in the dtype and on the device of the rank."""
        return self.read_unconverted(name, shape).to(self._device, self._dtype)

    def read_if(self, name: str, shape: tuple[int, ...]) -> Tensor | None:
        """As `read`, or None when the file does not hold it."""
        return self.read(name, shape) if name in self._unread else None

    def read_unconverted(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor as it is in the file, on the CPU."""
        if name not in self._unread:
            raise EngineError(f"{self._path}: {name} is missing")
        self._unread.remove(name)
        tensor: Tensor = self._file.get_tensor(name)  # type: ignore[no-untyped-call]
        if tuple(tensor.shape) != shape:
            found, expected = list(tensor.shape), list(shape)
            raise EngineError(f"{self._path}: {name}: found shape {found}, expected {expected}")
        return tensor

    def refuse_unread(self) -> None:
        """Raise EngineError when a tensor was not read: it would be silently missing from the result."""
        if self._unread:
            raise EngineError(f"{self._path}: not understood: {', '.join(sorted(self._unread))}")


@dataclass(frozen=True)
class _Place:
    """Where a batch stands in its sequences: positions [tokens], cache length, attention mask."""

    positions: Tensor
    length: int
    mask: Tensor | None


def _place(batch: Batch, config: EngineConfig, device: torch.device) -> _Place:
    window = config.sliding_window
    if isinstance(batch, Prefill):
        stop = batch.start + len(batch.tokens)
        positions = torch.arange(batch.start, stop, device=device)
        needs_mask = batch.start > 0 or (window is not None and stop > window)
    else:
        positions = torch.tensor(batch.positions, device=device)
        stop = max(batch.positions) + 1
        ragged = min(batch.positions) + 1 != stop
        needs_mask = ragged or (window is not None and stop > window)
    if not needs_mask:
        return _Place(positions, stop, None)
    keys = torch.arange(stop, device=device)
    mask = keys[None, :] <= positions[:, None]
    if window is not None:
        mask &= keys[None, :] > positions[:, None] - window
    if not isinstance(batch, Prefill):
        mask = mask[:, None, None, :]
    return _Place(positions, stop, mask)
