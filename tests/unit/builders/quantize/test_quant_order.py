"""INT4 in groups for TensorRT-LLM's loader: the order of every integer, its inverse, and what is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from builders.convert import Conversion, conversion_key, convert
from builders.planning import plan_rank_files
from builders.quantize.proof.in_order import in_plain_order
from builders.quantize.writing.interleave import interleave
from builders.sources import open_source
from builders.verify import ShardReport, verify_shards
from engines.host import Gpu, Host
from engines.reference.dequantize import low_high
from engines.reference.interleaved import signed_codes
from engines.store import read_manifest, write_manifest
from scripts.main import main
from tests.support.interleaved import laid_out
from tests.support.quantized_checkpoints import write_quantized
from tests.support.servers.standin_trtllm_build import write_standin
from tests.support.tiny import write_tiny_llama
from tpforge.dtypes import DType
from tpforge.errors import InputRefused, UsageError
from tpforge.mapping import Mapping
from tpforge.packing import Packing
from tpforge.quantization import Quantization
from tpforge.quantization_gate import Linear, Question, judge
from tpforge.weight_order import order_for, order_problems

LAYER = "transformer.layers.0"
SIZES: dict[str, Any] = {
    "dtype": "float16",
    "num_layers": 1,
    "num_heads": 8,
    "num_kv_heads": 4,
    "head_size": 32,
    "hidden_size": 256,
    "intermediate_size": 256,
}
"""At tp=4 and in groups of 64 nothing is enlarged by TensorRT-LLM."""
SMS = {"sm80": 80, "sm90": 90}


def numbered(num_inputs: int, num_outputs: int, *, digit: int) -> torch.Tensor:
    """Packed integers [in, out / 2], each four bits of its own number: four digits tell all apart."""
    codes = (np.arange(num_inputs * num_outputs).reshape(num_inputs, num_outputs) >> (4 * digit)) & 15
    return torch.from_numpy((codes[:, 0::2] + 16 * codes[:, 1::2]).astype(np.uint8)).view(torch.int8)


def signed(packed: torch.Tensor) -> list[list[int]]:
    rows = []
    for line in packed.view(torch.uint8).tolist():
        numbers = [half for byte in line for half in (byte % 16, byte // 16)]
        rows.append([number - 16 if number > 7 else number for number in numbers])
    return rows


@pytest.mark.parametrize("order", SMS)
@pytest.mark.parametrize("digit", range(4))
@pytest.mark.parametrize(("num_inputs", "num_outputs"), [(64, 64), (192, 128), (64, 320)])
def test_every_integer_lies_where_upstream_puts_it(
    num_inputs: int, num_outputs: int, digit: int, order: str
) -> None:
    packed = numbered(num_inputs, num_outputs, digit=digit)

    found = interleave(packed, tiled=order == "sm80")

    assert found.numpy().tobytes() == laid_out(signed(packed), sm=SMS[order])


def test_a_matrix_of_several_blocks_is_laid_out_as_one_of_a_single_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packed = numbered(128, 320, digit=1)
    whole = interleave(packed, tiled=True)
    monkeypatch.setattr("builders.quantize.writing.interleave._BLOCK_BYTES", 128 * 6)

    assert torch.equal(interleave(packed, tiled=True), whole)


@pytest.mark.parametrize("dtype", [DType.FLOAT16, DType.BFLOAT16])
@pytest.mark.parametrize("order", SMS)
def test_both_ways_back_give_the_very_integers(order: Any, dtype: DType) -> None:
    own = {DType.FLOAT16: torch.float16, DType.BFLOAT16: torch.bfloat16}[dtype]
    for digit in range(4):
        packed = numbered(192, 320, digit=digit)
        stored = interleave(packed, tiled=order == "sm80").view(own)
        assert stored.shape == (192, 80)

        packing = Packing("gptq", 64, order)
        undone, *_ = in_plain_order((stored, torch.empty(3, 320), torch.empty(3, 320)), packing, dtype=dtype)

        assert torch.equal(undone, packed)
        assert signed_codes(stored, order).tolist() == low_high(packed).tolist() == signed(packed)


def checkpoint(folder: Path, method: str, **sizes: Any) -> Path:
    """A quantized llama in groups of 64 whose integers are numbered."""
    plain = write_tiny_llama(folder / "plain", **(SIZES | sizes))
    write_quantized(plain, folder / "model", method=method, group=64)
    path = folder / "model" / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if name.endswith(("qweight", "proj.weight")):
            number = np.arange(tensor.numel(), dtype=np.uint64) * 2654435761 + len(name)
            held = (number >> 7).astype(np.uint32).view(np.int32)
            numbers = torch.from_numpy(held).reshape(tensor.shape)
            tensors[name] = numbers if name.endswith("qweight") else (numbers & 255).to(torch.uint8)
    save_file(tensors, path)
    return folder / "model"


def laid_out_ranks(
    model: Path, out: Path, *, order: Any, tp_size: int
) -> tuple[Conversion, list[dict[str, torch.Tensor]]]:
    out.mkdir(parents=True)
    with open_source(str(model)) as source:
        assert source.quantized is not None
        layout = source.quantized.layout
        conversion = convert(
            source,
            mapping=Mapping(tp_size=tp_size),
            dtype=None,
            pad=True,
            parallel_embedding_dim=None,
            quantization=Quantization(format=layout.format, group_size=layout.group, order=order),
            out=out,
        )
    return conversion, [load_file(out / f"rank{rank}.safetensors") for rank in range(tp_size)]


def prove(model: Path, out: Path, conversion: Conversion, **changes: Any) -> ShardReport:
    plan = conversion.plan
    if changes:
        assert plan.quantization is not None
        plan = type(plan)(
            model=plan.model,
            mapping=plan.mapping,
            padding=plan.padding,
            quantization=plan.quantization.model_copy(update=changes),
        )
    with open_source(str(model)) as source:
        return verify_shards(source, out, plan=plan, dtype=conversion.dtype)


def unpacked(words: torch.Tensor, method: str) -> np.ndarray:
    """The integers 0 to 15 [in, out] of a qweight."""
    places = (words.numpy().view(np.uint32)[..., None] >> np.arange(0, 32, 4, dtype=np.uint32)) & 15
    if method == "gptq":
        return places.transpose(0, 2, 1).reshape(-1, words.shape[1])
    return places[..., [0, 4, 1, 5, 2, 6, 3, 7]].reshape(words.shape[0], -1)


def parts(name: str) -> list[str]:
    names = {
        "attention.qkv": ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
        "attention.dense": ["self_attn.o_proj"],
        "mlp.fc": ["mlp.gate_proj"],
        "mlp.gate": ["mlp.up_proj"],
        "mlp.proj": ["mlp.down_proj"],
    }
    return [f"model.layers.0.{one}" for one in names[name]]


def slice_of(array: Any, rank: int, tp_size: int, *, dim: int) -> Any:
    size = array.shape[dim] // tp_size
    window = slice(rank * size, (rank + 1) * size)
    return array[window] if dim == 0 else array[:, window]


@pytest.mark.parametrize("order", SMS)
@pytest.mark.parametrize("tp_size", [1, 2, 4])
@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_rank_files_are_what_upstreams_conversion_of_the_words_gives(
    tmp_path: Path, method: str, tp_size: int, order: str
) -> None:
    model = checkpoint(tmp_path, method)
    source = load_file(model / "model.safetensors")

    conversion, ranks = laid_out_ranks(model, tmp_path / "out", order=order, tp_size=tp_size)

    for name in ("attention.qkv", "attention.dense", "mlp.proj"):
        dim = 1 if name == "attention.qkv" else 0
        for rank, held in enumerate(ranks):
            codes, scales, zeros = [], [], []
            for module in parts(name):
                numbers = unpacked(source[f"{module}.qweight"], method).astype(np.int64)
                codes.append(slice_of(numbers, rank, tp_size, dim=dim) - 8)
                scale = source[f"{module}.scales"]
                scales.append(slice_of(scale, rank, tp_size, dim=dim))
                # GPTQ's first version packs zero points along the outputs, and stores them less one.
                packed = source[f"{module}.qzeros"]
                zero = (
                    unpacked(packed.T.contiguous(), "gptq").T + 1
                    if method == "gptq"
                    else unpacked(packed, method)
                )
                shifted = (8 - torch.from_numpy(zero.astype(np.int64))).to(torch.float16) * scale
                zeros.append(slice_of(shifted, rank, tp_size, dim=dim))
            whole = np.concatenate(codes, axis=1)
            weight = held[f"{LAYER}.{name}.weight"]
            assert (weight.dtype, weight.shape) == (torch.float16, (whole.shape[0], whole.shape[1] // 4))
            found = weight.view(torch.uint8).numpy().tobytes()
            assert found == laid_out(whole.tolist(), sm=SMS[order]), (name, rank)
            assert torch.equal(held[f"{LAYER}.{name}.weights_scaling_factor"], torch.cat(scales, 1))
            assert torch.equal(held[f"{LAYER}.{name}.zero"], torch.cat(zeros, 1))
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization"]
    assert (config["quant_algo"], config["has_zero_point"], config["group_size"]) == ("W4A16_GPTQ", True, 64)
    assert prove(model, tmp_path / "out", conversion).problems == ()


@pytest.mark.parametrize("tp_size", [1, 2, 4])
def test_modelopts_awq_is_left_as_modelopt_packs_it_for_trtllm_build_to_lay_out(
    tmp_path: Path, tp_size: int
) -> None:
    model = checkpoint(tmp_path, "modelopt awq")
    source = load_file(model / "model.safetensors")

    conversion, ranks = laid_out_ranks(model, tmp_path / "out", order="modelopt", tp_size=tp_size)

    for name in ("attention.qkv", "attention.dense", "mlp.fc", "mlp.gate", "mlp.proj"):
        dim = 1 if name in ("attention.dense", "mlp.proj") else 0
        for rank, held in enumerate(ranks):

            def cut(suffix: str, *, rank: int = rank, dim: int = dim, name: str = name) -> torch.Tensor:
                wholes = [source[f"{module}.{suffix}"] for module in parts(name)]
                return torch.cat([slice_of(one, rank, tp_size, dim=dim) for one in wholes])

            weight = held[f"{LAYER}.{name}.weight"]
            assert weight.dtype == torch.int8
            assert torch.equal(weight.view(torch.uint8), cut("weight")), (name, rank)
            assert torch.equal(held[f"{LAYER}.{name}.weights_scaling_factor"], cut("weight_scale"))
            inputs = source[f"{parts(name)[0]}.pre_quant_scale"]
            expected = slice_of(inputs, rank, tp_size, dim=0) if dim == 1 else inputs
            assert torch.equal(held[f"{LAYER}.{name}.prequant_scaling_factor"], expected)
    assert prove(model, tmp_path / "out", conversion).problems == ()


@pytest.mark.parametrize(
    ("method", "order"), [("gptq", "sm80"), ("awq", "sm90"), ("modelopt awq", "modelopt")]
)
def test_one_changed_byte_is_named(tmp_path: Path, method: str, order: str) -> None:
    model = checkpoint(tmp_path, method)
    conversion, _ = laid_out_ranks(model, tmp_path / "out", order=order, tp_size=2)
    path = tmp_path / "out" / "rank1.safetensors"
    tensors = load_file(path)
    tensors[f"{LAYER}.mlp.proj.weight"].view(torch.uint8).view(-1)[0] ^= 1
    save_file(tensors, path)

    (problem,) = prove(model, tmp_path / "out", conversion).problems

    assert problem.startswith(f"rank1: {LAYER}.mlp.proj.weight: 1 of")


def test_an_order_that_is_not_the_recorded_one_does_not_pass(tmp_path: Path) -> None:
    model = checkpoint(tmp_path, "gptq")
    conversion, _ = laid_out_ranks(model, tmp_path / "out", order="sm80", tp_size=2)

    assert len(prove(model, tmp_path / "out", conversion, order="sm90").problems) == 2 * 5
    assert len(prove(model, tmp_path / "out", conversion, order="plain").problems) == 2 * 5


def test_orders_of_the_same_sizes_have_conversion_keys_of_their_own(tmp_path: Path) -> None:
    model = checkpoint(tmp_path, "gptq")
    keys, headers = set(), set()
    for order in SMS:
        conversion, _ = laid_out_ranks(model, tmp_path / order, order=order, tp_size=2)
        with open_source(str(model)) as source:
            files = plan_rank_files(source, plan=conversion.plan, dtype=conversion.dtype)
            headers.add(files[0].header)
            keys.add(conversion_key(source, files, plan=conversion.plan, config={}))
    assert (len(keys), len(headers)) == (2, 1)


def build(model: Path, out: Path, *options: str) -> int:
    limits = ["--max-seq-len", "320", "--max-input-len", "256", "--max-batch-size", "4"]
    return main(["build", str(model), "--runtime", "tensorrt", "--out", str(out), *limits, *options])


def use_gpus(monkeypatch: pytest.MonkeyPatch, sm: int) -> None:
    gpus = tuple(Gpu(index, "made up", f"GPU-{index}", 1 << 36, 0, sm) for index in range(2))
    monkeypatch.setattr("engines.host.find_host", lambda: Host(gpus=gpus))


def use_standin(monkeypatch: pytest.MonkeyPatch, folder: Path, *, sm: int = 90, **behaviour: Any) -> None:
    """trtllm-build on a host with two GPUs."""
    use_gpus(monkeypatch, sm)
    write_standin(folder, **behaviour)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("method", "order", "options"),
    [
        ("gptq", "sm80", ["--sm", "89"]),
        ("packed zeros", "sm90", ["--sm", "90"]),
        ("awq", "sm90", ["--sm", "90", "--dtype", "bfloat16"]),
        ("modelopt awq", "modelopt", []),
    ],
)
def test_an_engine_of_laid_out_rank_files_is_proven_by_the_reference_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, order: str, options: list[str]
) -> None:
    plain = write_tiny_llama(tmp_path / "plain", **SIZES)
    write_quantized(plain, tmp_path / "model", method=method, group=64)
    use_standin(monkeypatch, tmp_path / "bin", sm=int(options[1]) if options else 90)
    engine = tmp_path / "engine"

    assert build(tmp_path / "model", engine, "--tp", "2", *options) == 0
    assert main(["verify", str(engine), "--baseline", str(plain)]) == 0

    manifest = read_manifest(engine)
    assert manifest.quantization is not None and manifest.quantization.order == order
    assert manifest.parity is not None and manifest.parity.passed
    assert ("--sm" in manifest.command) is (order != "modelopt")


def test_an_order_that_the_reference_runtime_does_not_know_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from engines.reference import EngineError, load_config

    engine = tmp_path / "engine"
    words = ["--max-seq-len", "320", "--max-input-len", "256", "--out", str(engine)]
    assert main(["build", str(checkpoint(tmp_path, "gptq")), *words]) == 0
    manifest = read_manifest(engine)
    assert manifest.quantization is not None and manifest.quantization.order == "plain"
    other = manifest.quantization.model_copy(update={"order": "sm100"})
    write_manifest(engine, manifest.model_copy(update={"quantization": other}))

    with pytest.raises(EngineError, match="integers in order sm100, known are plain, sm80"):
        load_config(engine)


def test_a_kept_checkpoint_of_another_order_or_another_model_is_not_reused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = checkpoint(tmp_path, "gptq")
    use_standin(monkeypatch, tmp_path / "bin", sm=80, status=1)
    engine, kept = tmp_path / "engine", tmp_path / ".engine.checkpoint" / "rank0.safetensors"
    assert build(model, engine, "--sm", "80") == 4
    first = kept.read_bytes()
    use_gpus(monkeypatch, 89)
    assert build(model, engine, "--sm", "89") == 4
    assert "of an earlier run" in capsys.readouterr().err

    use_gpus(monkeypatch, 90)
    assert build(model, engine, "--sm", "90") == 4
    second = kept.read_bytes()
    assert "of an earlier run" not in capsys.readouterr().err
    assert len(second) == len(first) and second != first

    kept.write_bytes(second[:-1] + bytes([second[-1] ^ 1]))
    assert build(model, engine, "--sm", "90") == 4
    assert kept.read_bytes() == second

    path = model / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] += 1
    save_file(tensors, path)
    assert build(model, engine, "--sm", "90") == 4
    assert kept.read_bytes() != second
    assert "of an earlier run" not in capsys.readouterr().err


def test_trtllm_build_on_a_gpu_of_another_order_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_standin(monkeypatch, tmp_path / "bin", sm=80)
    model = checkpoint(tmp_path, "gptq")

    assert build(model, tmp_path / "engine", "--sm", "90") == 4
    assert "trtllm-build compiles for the GPUs that it sees, SM80" in capsys.readouterr().err
    assert build(model, tmp_path / "engine") == 0
    quantization = read_manifest(tmp_path / "engine").quantization
    assert quantization is not None and quantization.order == "sm80"


def test_convert_writes_the_order_of_tensorrt_llm_where_it_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = checkpoint(tmp_path, "gptq")
    words = ["convert", str(model), "--tp", "2", "--out"]
    assert main([*words, str(tmp_path / "plain-order")]) == 0
    assert "integers in plain order, for the runtime reference" in capsys.readouterr().err
    assert main([*words, str(tmp_path / "laid-out"), "--runtime", "tensorrt", "--sm", "90"]) == 0
    assert "integers in order sm90, for trtllm-build" in capsys.readouterr().err
    name = f"{LAYER}.mlp.fc.weight"
    assert load_file(tmp_path / "plain-order" / "rank1.safetensors")[name].dtype == torch.int8
    assert load_file(tmp_path / "laid-out" / "rank1.safetensors")[name].dtype == torch.float16
    for quantize in ("int8_wo", "int4_wo"):
        refused = ["--quantize", quantize, "--runtime", "tensorrt", "--out", str(tmp_path / "c")]
        assert main(["convert", str(tmp_path / "plain"), *refused]) == 2
        assert "give --portable too" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "sizes", "options", "status", "said"),
    [
        ("gptq", {}, [], 2, "depends on the GPU, and there is none here; give --sm"),
        (
            "gptq",
            {},
            ["--sm", "100"],
            4,
            "SM100: the order of the integers that 1.2 takes",
        ),
        ("awq", {}, ["--sm", "120"], 4, "SM120: the order of the integers that 1.2 takes"),
        ("gptq", {}, ["--sm", "90", "--dtype", "float32"], 4, "found float32; give --dtype float16"),
        ("gptq", {"hidden_size": 192}, ["--sm", "80", "--tp", "2"], 4, "mlp.fc has 192 columns on a rank"),
        (
            "awq",
            {"intermediate_size": 320},
            ["--sm", "80", "--tp", "2"],
            4,
            "160 columns on a rank, exp",
        ),
        (
            "gptq",
            {"bias": True},
            ["--sm", "80", "--tp", "2"],
            4,
            "attention.dense.bias: TensorRT-LLM would add",
        ),
    ],
)
def test_what_cannot_be_laid_out_is_refused_before_anything_is_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    method: str,
    sizes: dict[str, Any],
    options: list[str],
    status: int,
    said: str,
) -> None:
    model = checkpoint(tmp_path, method, **sizes)

    assert build(model, tmp_path / "engine", *options, "--dry-run") == status

    assert said in capsys.readouterr().err
    assert not (tmp_path / "engine").exists()


def test_groups_that_the_kernels_do_not_take_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = write_tiny_llama(tmp_path / "plain", **SIZES)
    for method in ("gptq", "awq", "modelopt awq"):
        write_quantized(plain, tmp_path / method, method=method, group=32)
        assert build(tmp_path / method, tmp_path / "engine", "--sm", "80", "--dry-run") == 4
        assert "groups of 32; the kernels of TensorRT-LLM take those of 64 and 128" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("gptq", "mlp.fc.weight: found I8 [256, 64], integers in plain order, expected 16-bit floats"),
        ("modelopt awq", "mlp.fc.weight: found I8 [256, 64] with scales [4, 128], expected [out / 2, in]"),
    ],
)
def test_a_checkpoint_in_plain_order_is_refused_for_trtllm_build_and_one_in_its_order_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, said: str
) -> None:
    model = checkpoint(tmp_path, method)
    words = ["convert", str(model), "--tp", "2", "--out"]
    assert main([*words, str(tmp_path / "plain-order")]) == 0
    assert main([*words, str(tmp_path / "laid-out"), "--runtime", "tensorrt", "--sm", "90"]) == 0

    assert build(tmp_path / "plain-order", tmp_path / "engine", "--sm", "90", "--dry-run") == 4
    assert said in capsys.readouterr().err
    assert build(tmp_path / "laid-out", tmp_path / "engine", "--sm", "90", "--dry-run") == 0


def problems(*linears: Linear, **changes: Any) -> list[str]:
    values: dict[str, Any] = {
        "order": "sm80",
        "group_size": 128,
        "tp_size": 4,
        "dtype": DType.FLOAT16,
        "has_experts": False,
        "row_biases": (),
    }
    return list(order_problems(linears, **(values | changes)))


def test_sizes_of_a_rank_that_upstream_would_enlarge_are_named() -> None:
    # Llama 2 7B: 11008 columns are no multiple of 4 x 128.
    assert problems(Linear("mlp.fc", 2752, 4096)) == [
        "mlp.fc has 2752 rows on a rank; TensorRT-LLM's are multiples of 128 (groups of 128, tp=4), "
        "and it would enlarge the matrix"
    ]
    assert problems(Linear("mlp.proj", 4096, 2752))[0].startswith("mlp.proj has 2752 columns on a rank")
    # Llama 3 8B is whole at tp=4, in both orders.
    llama = [Linear("attention.qkv", 1536, 4096), Linear("attention.dense", 4096, 1024)]
    llama += [Linear("mlp.fc", 3584, 4096), Linear("mlp.proj", 4096, 3584)]
    assert problems(*llama) == problems(*llama, order="modelopt") == []
    assert problems(Linear("mlp.fc", 100, 100), order="plain") == []


def test_experts_and_row_biases_are_refused_where_they_would_be_wrong() -> None:
    assert "experts" in problems(has_experts=True)[0]
    biases = ("mlp.proj.bias", "mlp.proj.bias")
    assert problems(row_biases=biases) == [
        "mlp.proj.bias: TensorRT-LLM would add it 4 times, once a rank; use tp=1"
    ]
    # trtllm-build clears those of the other ranks itself in AWQ.
    assert problems(row_biases=biases, order="modelopt") == problems(row_biases=biases, tp_size=1) == []


def test_the_order_follows_from_format_runtime_and_gpu() -> None:
    assert [order_for("gptq", runtime="tensorrt", sm=sm) for sm in (75, 80, 86, 89, 90)] == [
        *("sm80", "sm80", "sm80", "sm80", "sm90"),
    ]
    assert order_for("int4_awq", runtime="tensorrt", sm=None) == "modelopt"
    assert (
        order_for("awq", runtime="reference", sm=90) == order_for("fp8", runtime="tensorrt", sm=90) == "plain"
    )
    with pytest.raises(UsageError, match="give --sm"):
        order_for("awq", runtime="tensorrt", sm=None)


def test_the_gate_lets_a_gpu_pass_only_where_its_order_is_known() -> None:
    for name in ("gptq", "awq"):
        works = [sm for sm in range(50, 130) if judge(Question(name, "tensorrt", sm=sm)).works]
        assert works == [75, 80, 86, 89, 90]
    assert judge(Question("int4_awq", "tensorrt", sm=100)).works


def test_a_plan_in_an_order_that_does_not_fit_writes_nothing(tmp_path: Path) -> None:
    model = checkpoint(tmp_path, "modelopt awq", hidden_size=192)
    with pytest.raises(InputRefused, match="cannot be laid out for the engines of TensorRT-LLM"):
        laid_out_ranks(model, tmp_path / "out", order="modelopt", tp_size=2)
    assert list((tmp_path / "out").iterdir()) == []
