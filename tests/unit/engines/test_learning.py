"""Learning a release from its installation: what is read, kept and believed, by a stand-in package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from builders.llm_api.model import refuse_architecture
from engines.host import Host
from engines.host_verdicts import judge_host
from engines.learning import learn_by_python
from engines.store import read_manifest
from scripts.main import main
from tests.support.standin_tensorrt_llm import executable, write_docker, write_standin
from tests.support.tiny import write_tiny_llama
from tpforge.errors import EnvironmentUnusable, InputRefused
from tpforge.trtllm.argument_tables import build_arguments, learned_architectures, llm_arguments
from tpforge.trtllm.learned import learned_path, read_learned, to_text
from tpforge.trtllm.versions import find_release, known_releases, release_for


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return tmp_path / "data"


def host_with(trtllm: str) -> Host:
    return Host(
        packages=(("tensorrt_llm", trtllm),), shm_bytes=1 << 40, shm_free_bytes=1 << 40, memory_bytes=1 << 40
    )


def learn(*options: str) -> int:
    return main(["versions", "--learn", *options])


def build(folder: Path, *options: str, trtllm: str = "1.9.9") -> int:
    model = folder / "model"
    if not model.exists():
        write_tiny_llama(model)
    words = ["build", str(model), "--runtime", "pytorch", "--trtllm", trtllm, "--out", str(folder / "engine")]
    return main([*words, "--sm", "90", "--max-seq-len", "64", "--force", *options])


def test_an_argument_that_nobody_knows_passes_once_it_is_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(tmp_path, "--llm-arg", "warp_drive=fast") == 2
    assert "1.9.9: not in the table" in (said := capsys.readouterr().err)
    assert "`tpforge versions --learn` reads it" in said
    assert learn("--python", str(write_standin(tmp_path / "site").python)) == 0
    assert build(tmp_path, "--llm-arg", "warp_drive=fast") == 0
    assert yaml.safe_load((tmp_path / "engine" / "llm.yaml").read_text())["warp_drive"] == "fast"
    api = read_manifest(tmp_path / "engine").llm_api
    assert api is not None
    kept = read_learned(learned_path("1.9.9"))
    assert api.checked_by == f"what was learned from TensorRT-LLM 1.9.9 itself, {kept.sha256[:12]}"


def test_what_the_installed_release_refuses_is_refused_and_not_passed_on_either(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    learn("--python", str(write_standin(tmp_path / "site").python))
    capsys.readouterr()
    assert build(tmp_path, "--llm-arg", "warp_drive=back") == 2
    said = capsys.readouterr().err
    assert "warp_drive: found 'back', expected one of off, slow, fast" in said
    assert "checked by what was learned from it: tensorrt_llm 1.9.9, schemas/" in said
    assert "--llm-arg-unchecked" not in said
    assert build(tmp_path, "--llm-arg-unchecked", "stream_interval=2") == 2
    assert "stream_interval: the installed release does not have it" in capsys.readouterr().err


@pytest.mark.parametrize("schema", [True, False], ids=["schema", "models"])
def test_the_schema_that_ships_and_the_models_say_the_same(tmp_path: Path, schema: bool) -> None:
    learned = learn_by_python(str(write_standin(tmp_path / "site", schema=schema).python))
    rows = {one.name: one for one in learned.llm_arguments}
    assert learned.schema_from == (
        "schemas/trtllm-serve-config.schema.json" if schema else "TorchLlmArgs.model_json_schema()"
    )
    assert {name: (row.type, row.also, row.default) for name, row in rows.items() if "." not in name} == {
        "model": ("str", (), None),
        "backend": ("choice", (), "pytorch"),
        "tensor_parallel_size": ("int", (), 1),
        "pipeline_parallel_size": ("int", (), 1),
        "moe_expert_parallel_size": ("int", (), None),
        "max_batch_size": ("int", (), 2048),
        "max_input_len": ("int", (), 1024),
        "max_seq_len": ("int", (), None),
        "max_num_tokens": ("int", (), 8192),
        "max_beam_width": ("int", (), 1),
        "dtype": ("str", (), "auto"),
        "enable_chunked_prefill": ("bool", (), False),
        "speculative_config": ("object", (), None),
        "load_balancer": ("object", ("str",), None),
        "anything": ("any", (), None),
        "warp_drive": ("choice", (), "off"),
    }
    assert (rows["warp_drive"].status, rows["backend"].status) == ("prototype", "deprecated")
    assert {name for name, row in rows.items() if row.owned} == {
        "model",
        "backend",
        "tensor_parallel_size",
        "pipeline_parallel_size",
        "moe_expert_parallel_size",
    }


def test_tags_ranges_null_and_unions_are_read_as_the_schema_has_them(tmp_path: Path) -> None:
    learned = learn_by_python(str(write_standin(tmp_path / "site").python))
    rows = {one.name: one for one in learned.llm_arguments}
    assert learned.tags == {"speculative_config": "decoding_type"}
    assert rows["speculative_config.decoding_type"].choices == ("MTP", "NGram")
    topk = rows["speculative_config.relaxed_topk"]
    assert (topk.only, topk.defaults, topk.default) == ((), {"MTP": 1, "NGram": 5}, None)
    window = rows["speculative_config.window"]
    assert (window.only, window.required, window.above) == (("NGram",), True, 0)
    fraction = rows["kv_cache_config.free_gpu_memory_fraction"]
    assert (fraction.minimum, fraction.maximum, fraction.nullable) == (0, 1, True)
    manager = rows["kv_cache_config.use_kv_cache_manager_v2"]
    assert (manager.type, manager.also, manager.choices) == ("bool", ("choice",), ("auto",))
    assert rows["kv_cache_config.max_attention_window"].type == "ints"
    assert rows["scheduler_config.capacity_scheduler_policy"].choices == ("MAX_UTILIZATION", "STATIC_BATCH")


def test_packages_options_and_architectures_are_learned_without_a_gpu(tmp_path: Path) -> None:
    learned = learn_by_python(str(write_standin(tmp_path / "site", schema=False, engines=True).python))
    assert learned.packages["cuda"] == "13.2"
    assert learned.architectures == ("LlamaForCausalLM", "WarpForCausalLM")
    assert learned.build_options is not None
    assert [(one.name, one.type, one.choices) for one in learned.build_options] == [
        ("checkpoint_dir", "str", ()),
        ("max_batch_size", "int", ()),
        ("gemm_plugin", "str", ("auto", "fp8", "fp2")),
        ("fast_build", "flag", ()),
        ("warp_plugin", "str", ("on", "off")),
    ]
    assert learned.serve_options is not None
    assert {name: [one.name for one in options] for name, options in learned.serve_options.items()} == {
        "serve": ["model", "port", "tool_parser"],
        "disaggregated": ["config_file"],
    }


def test_an_import_that_needs_a_gpu_leaves_the_schema_and_says_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    standin = write_standin(tmp_path / "site")
    assert learn("--python", str(standin.python)) == 0
    captured = capsys.readouterr()
    assert "18 arguments" not in captured.err
    assert "not learned: tensorrt_llm.commands.serve: ImportError: libcuda.so.1" in captured.err
    shutil.rmtree(standin.package / "schemas")
    assert learn("--python", str(standin.python)) == 4
    said = capsys.readouterr().err
    assert "the LLM API's arguments cannot be learned" in said
    assert "tensorrt_llm.llmapi.llm_args: ImportError: libcuda.so.1" in said


def test_a_learned_release_goes_before_the_table_and_has_the_installed_versions(tmp_path: Path) -> None:
    learn(
        "--python", str(write_standin(tmp_path / "site", version="1.2.1", schema=False, engines=True).python)
    )
    release = find_release("1.2.1")
    assert (release.cuda, release.driver, release.arguments_sure) == ("13.2", "590.44.01", "read")
    assert release.runtimes == ("tensorrt", "pytorch")
    assert {"warp_drive"} <= {one.name for one in llm_arguments(release)}
    rows = {one.name: one for one in build_arguments(release)}
    assert rows.keys() == {"checkpoint_dir", "max_batch_size", "gemm_plugin", "fast_build", "warp_plugin"}
    assert (rows["checkpoint_dir"].owned, rows["max_batch_size"].default) == (True, 4096)
    assert rows["gemm_plugin"].choices == ("auto", "fp8", "fp2")
    assert rows["warp_plugin"].choices == ("on", "off")


def test_a_release_without_trtllm_build_has_no_engines(tmp_path: Path) -> None:
    learn("--python", str(write_standin(tmp_path / "site").python))
    assert release_for("1.9.9", runtime="pytorch").engines is False
    assert [one.trtllm for one in known_releases()][-1] == "1.9.9"


def test_a_container_is_asked_without_network_and_by_its_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = write_docker(tmp_path / "bin", write_standin(tmp_path / "site", version="1.4.0rc1"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    out = tmp_path / "fleet.json"
    assert learn("--container", "docker", "--trtllm", "1.4.0rc1", "--out", str(out), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["kind"], found["trtllm"]) == ("learned", "1.4.0rc1")
    asked = log.read_text().splitlines()
    words = asked[asked.index("run") :]
    assert words[words.index("--network") + 1] == "none"
    assert "nvcr.io/nvidia/tensorrt-llm/release:1.4.0rc1" in words
    assert words[words.index("--entrypoint") + 1] == "python3"
    assert str(tmp_path) not in out.read_text()


def test_a_fleet_takes_the_file_of_one_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fleet.json"
    assert learn("--python", str(write_standin(tmp_path / "site").python), "--out", str(out)) == 0
    assert learn("--python", str(tmp_path / "site" / "python"), "--out", str(out)) == 4
    assert "exists" in capsys.readouterr().err
    learned_path("1.9.9").unlink()
    assert learn("--learned", str(out)) == 0
    assert learned_path("1.9.9").read_text() == out.read_text()


def test_a_file_that_was_changed_is_not_believed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learn("--python", str(write_standin(tmp_path / "site").python))
    path = learned_path("1.9.9")
    whole = path.read_text()
    capsys.readouterr()
    for text in (whole.replace('"slow"', '"slew"'), whole[:-9], "{}", ""):
        path.write_text(text)
        assert main(["versions", "--trtllm", "1.9.9"]) == 4
        assert "learn it again, or remove it" in capsys.readouterr().err
    assert release_for("1.2.1", runtime="pytorch").learned is None
    installed = {
        one.part: one for one in judge_host(host_with("1.9.9"), release=find_release("1.2.1")).findings
    }
    assert "learn it again, or remove it" in installed["TensorRT-LLM"].advice
    path.write_text(whole)
    path.rename(learned_path("1.9.8"))
    assert main(["versions", "--trtllm", "1.9.8"]) == 4
    assert "is of TensorRT-LLM 1.9.9; expected 1.9.8" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "kind", "said"),
    [
        ("exit 0", InputRefused, "ended with status 0 before it told anything:\n  it printed nothing"),
        ("echo no such module >&2; exit 3", InputRefused, "ended with status 3.*no such module"),
        ("echo 'tpforge-probe: {broken'", InputRefused, "is not valid JSON"),
        ("echo 'tpforge-probe: []'", InputRefused, "is not a table"),
        (
            'echo \'tpforge-probe: {"problems": ["x: not installed"]}\'',
            EnvironmentUnusable,
            "x: not installed; give",
        ),
        ("echo 'tpforge-probe: {\"version\": null}'", InputRefused, "its version cannot be learned"),
        ('echo \'tpforge-probe: {"version": "1.9.9", "schema": {}}\'', InputRefused, "has no properties"),
    ],
)
def test_a_wrong_or_partial_installation_is_a_clear_error(
    tmp_path: Path, script: str, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=f"(?s){said}"):
        learn_by_python(str(executable(tmp_path / "python", script)))


def test_a_schema_of_something_else_is_no_release(tmp_path: Path) -> None:
    standin = write_standin(tmp_path / "site")
    schema = {"properties": {"max_batch_size": {"type": "integer"}}}
    (standin.package / "schemas" / "trtllm-serve-config.schema.json").write_text(json.dumps(schema))
    with pytest.raises(InputRefused, match="it lacks max_input_len, max_num_tokens, max_seq_len"):
        learn_by_python(str(standin.python))
    with pytest.raises(EnvironmentUnusable, match="cannot be started"):
        learn_by_python(str(tmp_path / "missing"))


def test_learning_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    python = str(write_standin(tmp_path / "site").python)
    assert to_text(learn_by_python(python)) == to_text(learn_by_python(python))


@pytest.mark.parametrize(
    "options", [("--python", "x", "--container", "docker"), ("--image", "x"), ("--trtllm", "1.2.1")]
)
def test_options_of_learning_that_contradict_each_other_are_refused(options: tuple[str, ...]) -> None:
    assert learn(*options) == 2
    assert main(["versions", "--python", "x"]) == 2


def test_the_architectures_of_a_learned_release_are_those_that_it_registers(tmp_path: Path) -> None:
    learn("--python", str(write_standin(tmp_path / "site").python))
    release = find_release("1.9.9")
    assert learned_architectures(release) == ("LlamaForCausalLM", "WarpForCausalLM")
    assert learned_architectures(find_release("1.2.1")) == ()
    refuse_architecture("LlamaForCausalLM", release, where="model")
    with pytest.raises(InputRefused, match=r"1\.9\.9 registers no MistralForCausalLM.*--runtime reference"):
        refuse_architecture("MistralForCausalLM", release, where="model")
