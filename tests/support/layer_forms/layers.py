"""The tensors of one layer under TensorRT-LLM's names, out of transformers' tensors, a function a form.

Fused tensors are tuples of their parts; how ranks cut them is `rank_files`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tests.support.checkpoints.rank_files import Whole
from tests.support.layer_forms.case import HEADS, KV_HEADS, SIZE, State, norms


def linear(state: State, target: str, *sources: str, transpose: bool = False) -> Whole:
    """One linear module, fused of several."""
    found: Whole = {}
    for part in ("weight", "bias"):
        if f"{sources[0]}.{part}" in state:
            parts = [state[f"{source}.{part}"] for source in sources]
            found[f"{target}.{part}"] = tuple(one.T if transpose and one.ndim == 2 else one for one in parts)
    return found


def split_qkv(whole: Tensor, kv_heads: int, *, size: int = SIZE) -> tuple[Tensor, ...]:
    """[q; k; v] in its three parts."""
    kv_rows = kv_heads * size
    return whole.tensor_split((whole.shape[0] - 2 * kv_rows, whole.shape[0] - kv_rows))


def grouped_qkv(whole: Tensor, kv_heads: int) -> tuple[Tensor, ...]:
    """For each KV head its queries, its key, its value: in three parts."""
    groups = whole.reshape(kv_heads, -1, SIZE, *whole.shape[1:])
    return groups[:, :-2].flatten(0, 2), groups[:, -2].flatten(0, 1), groups[:, -1].flatten(0, 1)


def llama_attention(state: State, *, dense: str = "self_attn.o_proj") -> Whole:
    names = [f"self_attn.{name}_proj" for name in ("q", "k", "v")]
    return linear(state, "attention.qkv", *names) | linear(state, "attention.dense", dense)


def gated(state: State) -> Whole:
    return (
        linear(state, "mlp.fc", "mlp.gate_proj")
        | linear(state, "mlp.gate", "mlp.up_proj")
        | linear(state, "mlp.proj", "mlp.down_proj")
    )


def plain(state: State, fc: str, proj: str, *, transpose: bool = False) -> Whole:
    return linear(state, "mlp.fc", fc, transpose=transpose) | linear(
        state, "mlp.proj", proj, transpose=transpose
    )


def gpt2_layer(state: State, *, kv_heads: int = HEADS, transpose: bool = True) -> Whole:
    attention = linear(state, "attention.qkv", "attn.c_attn", transpose=transpose)
    for name, (fused,) in list(attention.items()):
        attention[name] = split_qkv(fused, kv_heads)
    return (
        norms(state, input_layernorm="ln_1", post_layernorm="ln_2")
        | attention
        | linear(state, "attention.dense", "attn.c_proj", transpose=transpose)
        | plain(state, "mlp.c_fc", "mlp.c_proj", transpose=transpose)
    )


def fused_layer(
    state: State, *, attention: str, kv_heads: int, norm_names: dict[str, str], fc: str, proj: str
) -> Whole:
    """GPT-NeoX, BLOOM and Falcon: one grouped query_key_value."""
    qkv = linear(state, "attention.qkv", f"{attention}.query_key_value")
    for name, (fused,) in list(qkv.items()):
        qkv[name] = grouped_qkv(fused, kv_heads)
    dense = linear(state, "attention.dense", f"{attention}.dense")
    return norms(state, **norm_names) | qkv | dense | plain(state, fc, proj)


def opt_layer(state: State) -> Whole:
    return (
        norms(state, input_layernorm="self_attn_layer_norm", post_layernorm="final_layer_norm")
        | llama_attention(state, dense="self_attn.out_proj")
        | plain(state, "fc1", "fc2")
    )


def gptj_layer(state: State) -> Whole:
    names = [f"attn.{name}_proj" for name in ("q", "k", "v")]
    return (
        norms(state, input_layernorm="ln_1")
        | linear(state, "attention.qkv", *names)
        | linear(state, "attention.dense", "attn.out_proj")
        | plain(state, "mlp.fc_in", "mlp.fc_out")
    )


def phi3_layer(state: State) -> Whole:
    gate, up = state["mlp.gate_up_proj.weight"].chunk(2)
    return (
        norms(state, input_layernorm="input_layernorm", post_layernorm="post_attention_layernorm")
        | {"attention.qkv.weight": split_qkv(state["self_attn.qkv_proj.weight"], KV_HEADS)}
        | linear(state, "attention.dense", "self_attn.o_proj")
        | {"mlp.fc.weight": (up, gate)}
        | linear(state, "mlp.proj", "mlp.down_proj")
    )


def glm_layer(state: State) -> Whole:
    gate, up = state["mlp.gate_up_proj.weight"].chunk(2)
    return (
        norms(state, input_layernorm="input_layernorm", post_layernorm="post_attention_layernorm")
        | llama_attention(state)
        | {"mlp.fc.weight": (up, gate)}
        | linear(state, "mlp.proj", "mlp.down_proj")
    )


def phi_layer(state: State) -> Whole:
    return (
        norms(state, input_layernorm="input_layernorm")
        | llama_attention(state, dense="self_attn.dense")
        | plain(state, "mlp.fc1", "mlp.fc2")
    )


def starcoder2_layer(state: State, *, fc: str = "mlp.c_fc", proj: str = "mlp.c_proj") -> Whole:
    return (
        norms(state, input_layernorm="input_layernorm", post_layernorm="post_attention_layernorm")
        | llama_attention(state)
        | plain(state, fc, proj)
    )


def gemma_layer(state: State, *, sandwich: bool) -> Whole:
    names = {"input_layernorm": "input_layernorm", "post_layernorm": "post_attention_layernorm"}
    if sandwich:
        names |= {name: name for name in ("pre_feedforward_layernorm", "post_feedforward_layernorm")}
    heads = {"attention.q_layernorm": "self_attn.q_norm", "attention.k_layernorm": "self_attn.k_norm"}
    return norms(state, **names) | norms(state, **heads) | llama_attention(state) | gated(state)


def cohere_layer(state: State) -> Whole:
    heads = {"attention.q_layernorm": "self_attn.q_norm", "attention.k_layernorm": "self_attn.k_norm"}
    return norms(state, input_layernorm="input_layernorm", **heads) | llama_attention(state) | gated(state)


def stacked_experts(gate_up: Tensor, down: Tensor, router: Tensor) -> Whole:
    gate, up = gate_up.chunk(2, dim=1)
    return {"mlp.fc.weight": (up, gate), "mlp.proj.weight": down, "mlp.router.weight": router}


def phimoe_layer(state: State) -> Whole:
    return (
        norms(state, input_layernorm="input_layernorm", post_layernorm="post_attention_layernorm")
        | llama_attention(state)
        | stacked_experts(
            state["mlp.experts.gate_up_proj"], state["mlp.experts.down_proj"], state["mlp.router.weight"]
        )
    )


def dbrx_layer(state: State) -> Whole:
    w1, v1, w2 = (_equal_parts(state[f"ffn.experts.mlp.{name}"], 4) for name in ("w1", "v1", "w2"))
    return (
        norms(state, input_layernorm="norm_attn_norm.norm_1", post_layernorm="norm_attn_norm.norm_2")
        | {"attention.qkv.weight": split_qkv(state["norm_attn_norm.attn.Wqkv.weight"], KV_HEADS)}
        | linear(state, "attention.dense", "norm_attn_norm.attn.out_proj")
        | stacked_experts(torch.cat((w1, v1), dim=1), w2.transpose(1, 2), state["ffn.router.layer.weight"])
    )


def mpt_layer(state: State) -> Whole:
    return (
        norms(state, input_layernorm="norm_1", post_layernorm="norm_2")
        | {"attention.qkv.weight": split_qkv(state["attn.Wqkv.weight"], HEADS)}
        | linear(state, "attention.dense", "attn.out_proj")
        | plain(state, "ffn.up_proj", "ffn.down_proj")
    )


def deepseek_layer(state: State) -> Whole:
    """Sizes as in DEEPSEEK: 16 + 8 dims of a query, 12 of a value, a latent of 20."""
    both = _equal_parts(state["self_attn.kv_b_proj.weight"], HEADS)
    keys, values = both[:, :16], both[:, 16:]
    sources = [state["self_attn.kv_a_proj_with_mqa.weight"]]
    query = "self_attn.q_proj.weight"
    if "self_attn.q_a_proj.weight" in state:
        sources.insert(0, state["self_attn.q_a_proj.weight"])
        query = "self_attn.q_b_proj.weight"
    whole: Whole = {
        "attention.fused_a.weight": torch.cat(sources),
        "attention.q_b_proj": state[query],
        "attention.kv_b_proj": (keys.flatten(0, 1), values.flatten(0, 1)),
        "attention.k_b_proj_trans": keys.transpose(1, 2).flatten(0, 1),
    }
    latent = {f"attention.{name}": f"self_attn.{name}" for name in ("q_a_layernorm", "kv_a_layernorm")}
    whole |= norms(state, input_layernorm="input_layernorm", post_layernorm="post_attention_layernorm")
    whole |= norms(state, **latent) | linear(state, "attention.dense", "self_attn.o_proj")
    if "mlp.gate.weight" not in state:
        return whole | gated(state)
    shared = "mlp.shared_experts"
    return (
        whole
        | stacked_experts(
            state["mlp.experts.gate_up_proj"], state["mlp.experts.down_proj"], state["mlp.gate.weight"]
        )
        | linear(state, "mlp.shared_expert.fc", f"{shared}.up_proj", f"{shared}.gate_proj")
        | linear(state, "mlp.shared_expert.proj", f"{shared}.down_proj")
    )


def _equal_parts(whole: Tensor, count: int) -> Tensor:
    """Its rows as [count, rows of a part, ...]."""
    return whole.reshape(count, -1, *whole.shape[1:])
