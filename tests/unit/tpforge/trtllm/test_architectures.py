"""tpforge.trtllm.architectures: which TensorRT-LLM runs an architecture, and whom the table sends
elsewhere."""

from builders.families.common.registry import FAMILIES
from tpforge.trtllm.architectures import architecture_support, pytorch_only


def spans(architecture: str) -> dict[str, str]:
    return {support.runtime: support.versions for support in architecture_support(architecture)}


def test_llama_runs_in_both_runtimes_and_the_compiled_one_has_a_last_version() -> None:
    assert spans("LlamaForCausalLM") == {"tensorrt": "1.2.0 to 1.2.1", "pytorch": "1.0.0 and later"}


def test_an_architecture_that_upstream_does_not_name_has_no_support() -> None:
    assert architecture_support("NobodyForCausalLM") == ()
    assert pytorch_only("NobodyForCausalLM") is None


def test_what_only_the_pytorch_backend_runs_is_sent_there_with_the_version() -> None:
    text = pytorch_only("DeepseekV3ForCausalLM")
    assert text is not None
    assert "the pytorch runtime (TensorRT-LLM's LLM API, 1.0.0 and later)" in text
    assert pytorch_only("LlamaForCausalLM") is None


def test_every_row_names_its_upstream_document() -> None:
    for name in ("GPT2LMHeadModel", "Qwen3MoeForCausalLM", "Cohere2ForCausalLM", "SmolLM3ForCausalLM"):
        for support in architecture_support(name):
            assert support.source.startswith("TensorRT-LLM, ")


def test_no_family_that_is_converted_is_one_that_only_the_pytorch_backend_runs() -> None:
    converted = [name for family in FAMILIES if family.refusal is None for name in family.architectures]
    assert {name: pytorch_only(name) for name in converted} == dict.fromkeys(converted)
