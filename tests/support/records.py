"""Records with plausible values, for tests that need one and do not care which."""

from __future__ import annotations

from typing import Any

from tpforge.dtypes import DType
from tpforge.manifest import FileRecord, Limits, Manifest, Parity, SourceRecord
from tpforge.model import AttentionSpec, MlpSpec, ModelSpec, NormSpec, RopeSpec, SpecialTokens
from tpforge.shards.mapping import Mapping
from tpforge.shards.padding import plan_padding


def model_of(**fields: Any) -> ModelSpec:
    """A small llama with 4 heads, 2 KV heads and 512 positions."""
    values: dict[str, Any] = {
        "architecture": "LlamaForCausalLM",
        "vocab_size": 320,
        "hidden_size": 64,
        "num_layers": 2,
        "max_position_embeddings": 512,
        "dtype": DType.BFLOAT16,
        "tie_word_embeddings": False,
        "attention": AttentionSpec(num_heads=4, num_kv_heads=2, head_size=16),
        "mlp": MlpSpec(intermediate_size=128, activation="silu"),
        "rope": RopeSpec(base=10000.0),
        "norm": NormSpec(epsilon=1e-5),
        "special_tokens": SpecialTokens(begin_id=257, end_ids=(256,), pad_id=258),
    }
    return ModelSpec(**(values | fields))


def manifest_of(**fields: Any) -> Manifest:
    """The manifest of a tp=2 engine of that llama."""
    model = model_of()
    values: dict[str, Any] = {
        "name": "tiny-tp2",
        "tpforge_version": "0.1.0",
        "runtime": "reference",
        "source": SourceRecord(
            kind="huggingface",
            location="/models/tiny",
            files=(FileRecord(path="config.json", size=2, sha256="ab" * 32),),
        ),
        "model": model,
        "mapping": Mapping(tp_size=2),
        "padding": plan_padding(model, tp_size=2),
        "dtype": DType.BFLOAT16,
        "limits": Limits(max_batch_size=4, max_input_len=256, max_seq_len=512),
        "files": (),
        "command": ("tpforge", "build", "/models/tiny", "--tp", "2"),
    }
    return Manifest(**(values | fields))


def parity_of(**fields: Any) -> Parity:
    """A proof that passed."""
    values: dict[str, Any] = {
        "passed": True,
        "num_tensors": 10,
        "num_unequal_tensors": 0,
        "num_prompts": 1,
        "num_positions": 8,
        "max_abs_logit_error": 1e-4,
        "mean_kl_divergence": 1e-9,
        "top1_agreement": 1.0,
        "num_greedy_tokens": 4,
        "num_greedy_equal": 4,
        "logit_tolerance": 2e-3,
        "versions": {},
    }
    return Parity(**(values | fields))
