"""builders.audit: tensors that are missing, unknown, misshapen or of a wrong type, all at once."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.audit import audit
from builders.audit.tokenizer import find_tokenizer
from builders.sources import open_source
from tests.support.tiny import write_tiny_llama
from tpforge.errors import InputRefused


def change(model: Path, added: dict[str, torch.Tensor], removed: tuple[str, ...] = ()) -> None:
    path = model / "model.safetensors"
    tensors = load_file(path) | added
    save_file({name: tensor for name, tensor in tensors.items() if name not in removed}, path)


def test_all_problems_are_listed_by_tensor_name(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path)
    change(
        model,
        {
            "model.layers.0.mlp.experts.0.w1": torch.zeros(1),
            "model.layers.0.input_layernorm.weight": torch.zeros(65),
            "model.layers.1.mlp.up_proj.weight": torch.zeros(128, 64, dtype=torch.int8),
        },
        removed=("model.norm.weight",),
    )
    with open_source(str(model)) as source, pytest.raises(InputRefused) as caught:
        audit(source)
    assert str(caught.value).splitlines()[1:] == [
        "  model.layers.0.input_layernorm.weight: found shape [65], config.json implies [64]",
        "  model.layers.0.mlp.experts.0.w1: unknown to the llama family",
        "  model.layers.1.mlp.up_proj.weight: found a type that is not float32, float16 or bfloat16",
        "  model.norm.weight: missing",
    ]


def test_recomputed_rotary_buffers_are_dropped_with_the_reason(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path)
    name = "model.layers.1.self_attn.rotary_emb.inv_freq"
    change(model, {name: torch.zeros(8)})
    with open_source(str(model)) as source:
        assert audit(source) == {name: "recomputed by the runtime from rotary_base and rotary_scaling"}


def test_an_untied_model_without_a_head_misses_it(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path)
    change(model, {}, removed=("lm_head.weight",))
    with open_source(str(model)) as source, pytest.raises(InputRefused, match=r"lm_head\.weight: missing"):
        audit(source)


def test_biases_that_config_json_does_not_declare_are_refused(tmp_path: Path) -> None:
    model = write_tiny_llama(tmp_path)
    change(model, {"model.layers.0.mlp.up_proj.bias": torch.ones(128)})
    with open_source(str(model)) as source, pytest.raises(InputRefused, match=r"up_proj\.bias: has values"):
        audit(source)


@pytest.mark.parametrize(
    "text",
    [
        '{"added_tokens": [{"id": 4, "content": "d"}], "model": {"vocab": {"c": 7}, "merges": ["a"]}}',
        '{"model": {"vocab": {"\\"merges\\": [": 3, "c": 7}, "merges": [["vo", "cab"]] } }\n',
        '{"model": {"vocab": {"a": 0}, "merges": [["a", "b"]]}, "added_tokens": [{"id": 7, "content": "c"}]}',
        '{"model": {"merges": [["vocab", "b"]], "vocab": {"c": 7}}}',
        '{"model": {"vocab": [["a", 0], ["b", 0], [], [], [], [], [], ["c", -1.5]]}}',
    ],
)
def test_the_largest_id_of_a_tokenizer_is_found_wherever_its_merges_stand(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    found = find_tokenizer(tmp_path)
    assert (found.num_ids, found.largest, found.problems) == (8, "tokenizer.json: token 'c' has id 7", ())


def test_a_broken_tokenizer_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}, "merges": ["a c"]')
    assert "not valid JSON" in find_tokenizer(tmp_path).problems[0]
