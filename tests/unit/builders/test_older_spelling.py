"""What transformers 5 saves is read by transformers 4.57 as the same model, where a release has that.

The judges are both versions: 5 is installed, 4.57 where `make older-transformers` puts it.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoTokenizer

from builders.audit.rope import rope_disagreements
from builders.older_spelling import (
    needs_older_spelling,
    older_config,
    older_tokenizer_config,
    respell,
    respelling_notes,
)
from tests.support.tiny import write_tiny_llama
from tpforge.errors import InputRefused

OLDER = Path(__file__).parents[3] / ".venv-transformers-4/bin/python"
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
READ = """
import json, sys
from transformers import AutoConfig, AutoTokenizer
config = AutoConfig.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
print(json.dumps([config.rope_theta, config.rope_scaling, str(config.dtype), tokenizer.encode("the capital"),
                  tokenizer.all_special_tokens]))
"""


def written_by_5(folder: Path) -> Path:
    """A checkpoint as transformers 5 saves it."""
    write_tiny_llama(folder)
    config = json.loads((folder / "config.json").read_text())
    for key in ("rope_theta", "rope_scaling", "torch_dtype"):
        config.pop(key, None)
    config |= {"rope_parameters": LLAMA3 | {"rope_theta": 500000.0}, "dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "TokenizersBackend", "backend": "tokenizers"}
    settings |= {"extra_special_tokens": ["<|start|>", "<|end|>"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def test_a_rope_is_spelled_as_both_versions_read_it(tmp_path: Path) -> None:
    folder = written_by_5(tmp_path)
    before = AutoConfig.from_pretrained(folder).rope_parameters
    changes = respelling_notes(folder)
    respell(folder)
    values = json.loads((folder / "config.json").read_text())
    assert values["rope_theta"] == 500000.0
    assert values["rope_scaling"] == LLAMA3
    assert values["torch_dtype"] == "float16"
    assert AutoConfig.from_pretrained(folder).rope_parameters == before
    assert changes[0] == "config.json: rope_scaling, rope_theta, torch_dtype as transformers 4 reads them"
    assert AutoTokenizer.from_pretrained(folder).encode("the capital")
    assert respelling_notes(folder) == ()


def test_the_source_of_a_hard_link_is_not_written(tmp_path: Path) -> None:
    source = written_by_5(tmp_path / "source")
    (tmp_path / "copy").mkdir()
    content = (source / "config.json").read_bytes()
    (tmp_path / "copy" / "config.json").hardlink_to(source / "config.json")
    respell(tmp_path / "copy")
    assert (tmp_path / "copy" / "config.json").read_bytes() != content
    assert (source / "config.json").read_bytes() == content


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"rope_type": "default", "rope_theta": 5.0}, {"rope_theta": 5.0, "rope_scaling": None}),
        (
            {"rope_type": "default", "rope_theta": 5.0, "partial_rotary_factor": 0.5},
            {"rope_theta": 5.0, "partial_rotary_factor": 0.5, "rope_scaling": None},
        ),
        (
            {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
            {
                "rope_theta": 1e6,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "rope_local_base_freq": 1e4,
            },
        ),
    ],
)
def test_each_kind_of_rope_has_its_older_keys(parameters: dict[str, Any], expected: dict[str, Any]) -> None:
    values = {"rope_parameters": parameters}
    assert older_config(values, where="") == values | expected
    nested = {"text_config": values}
    assert older_config(nested, where="") == {"text_config": values | expected}


def test_the_sections_of_a_rope_for_images_are_kept() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
    found = older_config({"rope_parameters": rope}, where="")
    assert found["rope_scaling"] == {"rope_type": "default", "type": "mrope", "mrope_section": [2, 3, 3]}
    assert not rope_disagreements(found)


def test_every_class_within_a_config_is_spelled_anew() -> None:
    vision = {"rope_parameters": {"rope_type": "default", "rope_theta": 123.0}, "dtype": "bfloat16"}
    values = {"vision_config": vision, "quantization_config": {"dtype": "fp8", "rope_parameters": {"a": 1}}}
    found = older_config(values, where="")
    assert (found["vision_config"]["rope_theta"], found["vision_config"]["torch_dtype"]) == (
        123.0,
        "bfloat16",
    )
    assert found["quantization_config"] == values["quantization_config"]


LONG_ROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 48,
    "long_factor": [2.0] * 48,
    "original_max_position_embeddings": 4096,
}
LONG = {"max_position_embeddings": 131072, "original_max_position_embeddings": 4096}


@pytest.mark.parametrize("beside", [{"original_max_position_embeddings": 4096}, {}])
def test_a_long_rope_of_phi_3_has_the_three_keys_that_its_older_class_takes(beside: dict[str, Any]) -> None:
    values = {"model_type": "phi3", "rope_parameters": LONG_ROPE, **beside}
    found = older_config(values, where="")
    lists = {key: LONG_ROPE[key] for key in ("short_factor", "long_factor")}
    assert found["rope_scaling"] == {"type": "longrope", **lists}
    assert (found["original_max_position_embeddings"], found["rope_theta"]) == (4096, 10000.0)
    # The folder can be looked at again, and is left as it is.
    assert older_config(found, where="") == found
    assert rope_disagreements(found) == []
    assert rope_disagreements({**found, "rope_scaling": {**found["rope_scaling"], "long_factor": [1.0]}})


def test_a_long_rope_that_states_its_scale_is_respelled_for_the_older_class_too() -> None:
    bare = {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]}
    published = {"model_type": "phi3", "rope_scaling": bare, **LONG}
    assert older_config(published, where="") == published
    stated = published | {"rope_scaling": {**bare, "attention_factor": 1.19}}
    assert older_config(stated, where="") == published
    # Of Phi-3.5-MoE the class takes all keys, and looks for them.
    moe = {**stated, "model_type": "phimoe"}
    assert older_config(moe, where="") == moe


@pytest.mark.skipif(not OLDER.is_file(), reason="make older-transformers: .venv-transformers-4 is missing")
def test_transformers_4_takes_a_long_rope_that_5_saved(tmp_path: Path) -> None:
    AutoConfig.for_model("phi3", rope_parameters=dict(LONG_ROPE), **LONG).save_pretrained(tmp_path)
    respell(tmp_path)
    found = subprocess.run([OLDER, "-c", READ_KEYS, tmp_path], capture_output=True, text=True, check=True)
    (config,) = json.loads(found.stdout)
    # With more than three keys the class fails.
    assert config["rope_scaling"]["long_factor"] == LONG_ROPE["long_factor"]
    assert {key: config[key] for key in LONG} == LONG


# Classes that the LLM API of TensorRT-LLM 1.2 runs and both versions have.
OF_BOTH = {
    "deepseek_v3": {"n_routed_experts": 6},
    "gemma3_text": {"sliding_window": 24},
    "glm4_moe": {"n_routed_experts": 6},
    "gpt_oss": {"num_local_experts": 6},
    "llama": {"num_key_value_heads": 6},
    "mixtral": {"num_local_experts": 6},
    "phi3": {"num_key_value_heads": 6},
    "qwen2_vl": {},
    "qwen2_5_vl": {},
    "qwen3_moe": {"num_experts": 6, "moe_intermediate_size": 48},
    "qwen3_next": {"num_experts": 6},
}
NOT_COMPARED = {
    "_name_or_path",
    "architectures",
    "dtype",
    "rope_parameters",
    "rope_scaling",
    "torch_dtype",
    "transformers_version",
}
READ_KEYS = """
import json, sys
from transformers import AutoConfig
found = [AutoConfig.from_pretrained(one).to_json_string(use_diff=False) for one in sys.argv[1:]]
print(json.dumps([json.loads(one) for one in found]))
"""


@pytest.mark.skipif(not OLDER.is_file(), reason="make older-transformers: .venv-transformers-4 is missing")
def test_transformers_4_finds_every_key_that_both_versions_have(tmp_path: Path) -> None:
    saved = {}
    for kind, settings in OF_BOTH.items():
        config = AutoConfig.for_model(kind, **settings)
        config.save_pretrained(tmp_path / kind)
        saved[kind] = json.loads(config.to_json_string(use_diff=False))
        respell(tmp_path / kind)
    folders = [tmp_path / kind for kind in OF_BOTH]
    found = subprocess.run(
        [OLDER, "-c", READ_KEYS, *folders], capture_output=True, text=True, check=True
    ).stdout
    lost = {}
    for (kind, newer), older in zip(saved.items(), json.loads(found), strict=True):
        names = AutoConfig.for_model(kind).attribute_map
        for key in sorted(older.keys() - NOT_COMPARED):
            own = names.get(key, key)
            if own in newer and not isinstance(newer[own], dict) and older[key] != newer[own]:
                lost[kind, key] = (older[key], newer[own])
    assert lost == {}


def test_ropes_without_an_older_spelling_are_refused() -> None:
    kinds = {"full_attention": {"rope_theta": 1.0}, "chunked_attention": {"rope_theta": 2.0}}
    with pytest.raises(InputRefused, match="has a rope for each of chunked_attention, full_attention"):
        older_config({"rope_parameters": kinds}, where="config.json")


def test_what_was_saved_by_transformers_4_is_left_as_it_is() -> None:
    old = {"rope_theta": 1.0, "rope_scaling": None, "torch_dtype": "float16"}
    assert older_config(old, where="") == old
    settings = {"tokenizer_class": "LlamaTokenizerFast", "extra_special_tokens": {"a": "b"}}
    assert older_tokenizer_config(settings, where="") == settings


def test_only_releases_with_transformers_4_need_it() -> None:
    assert [needs_older_spelling(one) for one in ("4.57.3", "5.5.4", "")] == [True, False, False]


@pytest.mark.skipif(not OLDER.is_file(), reason="make older-transformers: .venv-transformers-4 is missing")
def test_transformers_4_reads_the_same_model_and_tokenizer(tmp_path: Path) -> None:
    folder = written_by_5(tmp_path)
    respell(folder)
    found = subprocess.run([OLDER, "-c", READ, folder], capture_output=True, text=True, check=True).stdout
    base, scaling, dtype, ids, specials = json.loads(found)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (base, scaling, dtype) == (500000.0, LLAMA3, "torch.float16")
    assert ids == tokenizer.encode("the capital")
    assert {"<|start|>", "<|end|>"} <= set(specials)
