"""Whatever a header or a config.json says, the answer is an error of ours or success, and comes soon."""

import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save

from builders.audit import audit
from builders.audit.survey import survey
from builders.conversion.division import TableLayout, divide
from builders.conversion.planning import plan_shards
from builders.sources import locate, open_source
from builders.sources.quantized.reading import QuantizedWeights
from engines.reference.refusing import refusals
from tests.fuzz.junk import CHANGES, JSON, fuzz, mutated, paths, put
from tests.support.families.cases import CASES
from tests.support.families.configs import FamilyCase, write_tiny_family
from tests.support.quantized.checkpoints import CONFIGS, write_quantized
from tests.support.tiny import write_tiny_llama
from tpforge.errors import TpforgeError
from tpforge.shards.mapping import Mapping


def look(folder: Path) -> None:
    """All that reads a checkpoint before a conversion writes; each may fail by an error of ours only."""
    found = survey(locate(str(folder)))
    assert all(isinstance(problem, str) and problem for problem in found.problems)
    json.dumps([found.problems, found.warnings, found.files]).encode()
    if found.spec is not None and found.family is not None:
        with suppress(TpforgeError):
            plan(TableLayout("x", found.spec, found.family), found.quantized)
    with suppress(TpforgeError), open_source(str(folder)) as source:
        audit(source)
        # What a conversion would take has no problems, but in a tokenizer's files, which it leaves alone.
        assert [problem for problem in found.problems if "tokenizer" not in problem] == []
        for name in source.shapes:
            values = source.read(name)
            assert tuple(values.shape) == source.shapes[name], name


def plan(layout: TableLayout, stored: QuantizedWeights | None) -> None:
    """Divide it, and say what the runtime would refuse of the checkpoint."""
    mapping, dtype = Mapping(tp_size=2), layout.spec.dtype
    divide(layout, mapping=mapping, dtype=dtype, stored=stored)
    shards = plan_shards(layout, mapping=mapping, pad=True, parallel_embedding_dim=None)
    config = layout.family.target_config(shards, dtype=dtype)
    json.dumps(config)
    refusals(config, layout.spec.model_dump(mode="json"), max_seq_len=16)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_llama(tmp_path_factory.mktemp("llama"), num_layers=1)


@pytest.fixture(scope="module")
def weights(llama: Path) -> bytes:
    return (llama / "model.safetensors").read_bytes()


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    length = int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8 : 8 + length])
    return header, content[8 + length :]


@fuzz(100)
@given(changes=CHANGES)
def test_any_change_of_a_header_is_refused_or_harmless(
    llama: Path, weights: bytes, changes: list[tuple[int, Any]]
) -> None:
    header, data = split(weights)
    text = json.dumps(mutated(header, changes)).encode()
    put(llama / "model.safetensors", len(text).to_bytes(8, "little") + text + data)
    look(llama)


@fuzz(100)
@given(position=st.integers(0, 4000), new=st.binary(max_size=12), cut=st.none() | st.integers(0, 5000))
def test_any_bytes_in_a_header_are_refused_or_harmless(
    llama: Path, weights: bytes, position: int, new: bytes, cut: int | None
) -> None:
    content = weights[:position] + new + weights[position + len(new) :]
    put(llama / "model.safetensors", content if cut is None else content[:cut])
    look(llama)


@fuzz(100)
@given(values=JSON)
def test_any_index_is_refused_or_harmless(llama: Path, weights: bytes, values: Any) -> None:
    index = llama / "model.safetensors.index.json"
    put(llama / "model.safetensors", weights)
    put(index, json.dumps({"weight_map": values}))
    try:
        look(llama)
    finally:
        index.unlink()


@fuzz(100)
@given(
    changes=CHANGES,
    name=st.sampled_from(["tokenizer.json", "tokenizer_config.json", "generation_config.json"]),
)
def test_any_change_of_a_file_beside_the_weights_is_refused_or_harmless(
    llama: Path, weights: bytes, changes: list[tuple[int, Any]], name: str
) -> None:
    put(llama / "model.safetensors", weights)
    content = (llama / name).read_bytes()
    put(llama / name, json.dumps(mutated(json.loads(content), changes)))
    try:
        look(llama)
    finally:
        put(llama / name, content)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[FamilyCase], Path]:
    made: dict[str, Path] = {}

    def make(case: FamilyCase) -> Path:
        if case.name not in made:
            made[case.name] = tmp_path_factory.mktemp("family")
            write_tiny_family(made[case.name], case)
        return made[case.name]

    return make


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    sizes = {"num_layers": 1, "head_size": 64, "hidden_size": 128, "intermediate_size": 128}
    plain = write_tiny_llama(tmp_path_factory.mktemp("plain") / "model", dtype="float16", **sizes)
    folders = {method: tmp_path_factory.mktemp("quantized") / "model" for method in CONFIGS}
    for method, folder in folders.items():
        write_quantized(plain, folder, method=method)
    return folders


@pytest.mark.parametrize("method", CONFIGS)
@fuzz(40)
@given(changes=CHANGES, others=CHANGES | st.just([]))
def test_any_change_of_a_quantized_checkpoint_is_refused_or_harmless(
    quantized: dict[str, Path], method: str, changes: list[tuple[int, Any]], others: list[tuple[int, Any]]
) -> None:
    """Of what its config says of the quantization, and of the header."""
    folder = quantized[method]
    text, weights = (folder / "config.json").read_text(), (folder / "model.safetensors").read_bytes()
    config = json.loads(text)
    header, data = split(weights)
    declared = mutated({"quantization_config": config["quantization_config"]}, changes)
    put(folder / "config.json", json.dumps({**config, "quantization_config": None} | declared))
    changed = json.dumps(mutated(header, others)).encode()
    put(folder / "model.safetensors", len(changed).to_bytes(8, "little") + changed + data)
    try:
        look(folder)
    finally:
        put(folder / "config.json", text)
        put(folder / "model.safetensors", weights)


def deformed(tensor: torch.Tensor, *, how: str, dim: int, dtype: torch.dtype) -> torch.Tensor:
    """Another shape or type, as a file of another program, or of a broken one, would have."""
    dim = dim % tensor.dim() if tensor.dim() else 0
    match how:
        case "halved" if tensor.dim():
            return tensor.narrow(dim, 0, tensor.shape[dim] // 2)
        case "doubled" if tensor.dim():
            return torch.cat([tensor, tensor], dim)
        case "one more" if tensor.dim() and tensor.shape[dim]:
            return torch.cat([tensor, tensor.narrow(dim, 0, 1)], dim)
        case "turned" if tensor.dim() > 1:
            return tensor.transpose(0, 1)
        case "flat":
            return tensor.flatten()
        case "another dim":
            return tensor[None]
        case "one value":
            return tensor.flatten()[:1]
        case "empty":
            return tensor.flatten()[:0]
        case "a number":
            return tensor.flatten()[0] if tensor.numel() else tensor
    return tensor.float().to(dtype)


DEFORMATIONS = st.lists(
    st.tuples(
        st.integers(0, 10**6),
        st.sampled_from(
            [
                "halved",
                "doubled",
                "one more",
                "turned",
                "flat",
                "another dim",
                "one value",
                "empty",
                "a number",
            ]
            + ["type"] * 3
            + ["gone"] * 2
        ),
        st.integers(0, 1),
        st.sampled_from(
            [torch.int32, torch.int64, torch.uint8, torch.float16, torch.float32, torch.bfloat16, torch.bool]
        ),
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.parametrize("method", CONFIGS)
@fuzz(30)
@given(changes=DEFORMATIONS)
def test_any_shape_or_type_of_a_quantized_matrix_is_refused_or_harmless(
    quantized: dict[str, Path], method: str, changes: list[tuple[int, str, int, torch.dtype]]
) -> None:
    """Of its scales, zero points, group indices and integers alike."""
    folder = quantized[method]
    content = (folder / "model.safetensors").read_bytes()
    tensors = load_file(folder / "model.safetensors")
    for place, how, dim, dtype in changes:
        name = sorted(tensors)[place % len(tensors)]
        if how == "gone":
            del tensors[name]
        else:
            tensors[name] = deformed(tensors[name], how=how, dim=dim, dtype=dtype).clone().contiguous()
    put(folder / "model.safetensors", save(tensors))
    try:
        look(folder)
    finally:
        put(folder / "model.safetensors", content)


@pytest.mark.parametrize("case", CASES, ids=str)
@fuzz(25)
@given(changes=CHANGES)
def test_any_change_of_a_config_is_refused_or_harmless(
    checkpoint: Callable[[FamilyCase], Path], case: FamilyCase, changes: list[tuple[int, Any]]
) -> None:
    folder = checkpoint(case)
    content = (folder / "config.json").read_text()
    put(folder / "config.json", json.dumps(mutated(json.loads(content), changes)))
    try:
        look(folder)
    finally:
        put(folder / "config.json", content)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_any_one_key_of_a_config_may_be_missing_or_junk(
    checkpoint: Callable[[FamilyCase], Path], case: FamilyCase
) -> None:
    """Every key in turn, which chance would not reach."""
    folder = checkpoint(case)
    content = (folder / "config.json").read_text()
    assert survey(locate(str(folder))).problems == []
    junk = [..., None, True, 0, -1, 10**400, 1 << 31, 0.5, float("nan"), "x", [], [1], {}, {"x": 1}]
    generator = random.Random(0)
    try:
        for place in range(len(paths(json.loads(content)))):
            for new in generator.sample(junk, 3):
                put(folder / "config.json", json.dumps(mutated(json.loads(content), [(place, new)])))
                look(folder)
    finally:
        put(folder / "config.json", content)
