"""The table of TensorRT-LLM releases, and the values that their arguments take."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from scripts.flows.versions import known
from scripts.main import main
from tpforge.errors import UsageError
from tpforge.trtllm.argument_tables import build_arguments, llm_arguments
from tpforge.trtllm.arguments import check_values, parse_pairs
from tpforge.trtllm.versions import (
    DEFAULT_RELEASE,
    find_release,
    read_version,
    release_for,
    releases,
    tables_read,
    version_key,
)

BUILD = build_arguments(find_release("1.2.1"))
LLM = llm_arguments(find_release("1.2.1"))


def test_the_default_release_serves_both_runtimes_from_the_newest_container_that_holds_it() -> None:
    release = find_release(DEFAULT_RELEASE)
    assert release.runtimes == ("tensorrt", "pytorch")
    assert release.image == "nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3"
    assert (release.tensorrt, release.cuda, release.driver) == ("10.14.1.48", "13.1.0", "590.44.01")


@pytest.mark.parametrize(
    ("written", "version"),
    [
        ("v1.2.1", "1.2.1"),
        (" V1.2.1 ", "1.2.1"),
        ("1.3.0RC29", "1.3.0rc29"),
        ("1.3.0-rc29", "1.3.0rc29"),
        ("1.3.0.rc.29", "1.3.0rc29"),
        ("1.3rc29", "1.3.0rc29"),
        ("1.3.0rc22-post1", "1.3.0rc22.post1"),
        ("1.3.0rc29.post1", "1.3.0rc29.post1"),
        ("1.0.3.2510", "1.0.3.2510"),
    ],
)
def test_a_release_is_found_however_it_is_written(written: str, version: str) -> None:
    assert read_version(written) == version
    assert find_release(written) == find_release(version)
    assert find_release(written).trtllm == version


@pytest.mark.parametrize(
    ("line", "instead"),
    [
        ("1.2", "1.2.1"),
        ("v1.3", "1.3.0rc29"),
        ("1.4", "1.4.0rc4"),
        ("1", "1.2.1 or 1.4.0rc4"),
        ("0.18", "0.18.2"),
    ],
)
def test_a_line_of_releases_is_refused_with_its_newest(line: str, instead: str) -> None:
    with pytest.raises(UsageError) as caught:
        find_release(line)
    assert str(caught.value) == (
        f"TensorRT-LLM {line.removeprefix('v')}: is a line of releases; give one in full, as {instead}"
    )
    for name in instead.split(" or "):
        assert find_release(name).taken_from is None


@pytest.mark.parametrize(
    "text",
    ["latest", "stable", "", "main", "1.3.0rc24-dev", "1.2.x", "1.2.1 1.2.0", "\uff11.2.1", "1..2", "1" * 99],
)
def test_what_is_no_version_is_refused_with_the_newest_ones(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"is no version, as.*1\.2\.1, a stable.*1\.4\.0rc4, a candid.*--learn"
    ):
        find_release(text)


@pytest.mark.parametrize(
    ("version", "nearest"),
    [
        ("1.2.2", "1.2.1"),
        ("1.2.0rc6", "1.2.0"),
        ("1.3.0rc3", "1.3.0rc15"),
        ("1.3.0rc22.post2", "1.3.0rc22.post1"),
        ("1.3.0", "1.3.0rc29"),
        ("1.4.0rc2", "1.4.0rc1"),
        ("v1.4.0", "1.4.0rc4"),
    ],
)
def test_a_release_beside_known_ones_takes_the_row_of_the_nearest_and_says_so(
    version: str, nearest: str
) -> None:
    found = find_release(version)
    assert (found.trtllm, found.taken_from) == (version.removeprefix("v"), nearest)
    assert (found.arguments_sure, found.image, found.date) == ("unsure", None, None)
    assert found.llm_arguments == find_release(nearest).llm_arguments


@pytest.mark.parametrize("version", ["1.9.9", "2.0.0", "0.8.0", "1.9"])
def test_a_release_of_no_known_line_is_refused_with_the_advice_to_learn_it(version: str) -> None:
    with pytest.raises(UsageError, match=r"not in the table.*tpforge versions --learn"):
        find_release(version)


def test_a_release_candidate_of_today_is_prepared_for_the_llm_api_alone() -> None:
    release = release_for("1.3.0rc24", runtime="pytorch")
    assert (release.runtimes, release.arguments_sure) == (("pytorch",), "near")
    assert release.release_image == "nvcr.io/nvidia/tensorrt-llm/release:1.3.0rc24"
    assert release.image is None


def test_engines_for_a_release_without_trtllm_build_are_refused_with_the_way_out() -> None:
    with pytest.raises(UsageError, match=r"no trtllm-build.*--runtime pytorch.*1\.2\.1.*migrate"):
        release_for("1.3.0rc21", runtime="tensorrt")


def test_a_release_whose_arguments_nobody_compared_is_refused() -> None:
    with pytest.raises(UsageError, match=r"0\.21\.0: the arguments of runtime tensorrt .* use one of 1"):
        release_for("0.21.0", runtime="tensorrt")


def test_a_release_candidate_comes_before_its_release_and_ten_after_nine() -> None:
    versions = ["1.3.0", "1.3.0rc21", "1.3.0rc9", "1.3.0rc9.post1", "0.10.0", "0.9.0", "1.0.3.2510", "1.0.0"]
    assert sorted(versions, key=version_key) == [
        "0.9.0",
        "0.10.0",
        "1.0.0",
        "1.0.3.2510",
        "1.3.0rc9",
        "1.3.0rc9.post1",
        "1.3.0rc21",
        "1.3.0",
    ]


def test_every_release_names_its_sources() -> None:
    assert [release.trtllm for release in releases() if not release.sources] == []


def test_values_of_a_command_line_become_what_they_say() -> None:
    given = parse_pairs(
        [
            "max_batch_size=64",
            "--multiple-profiles=enable",
            "lora_dir=a,b",
            "strip_plan",
            "max_decoder_seq_len=4_096",
        ],
        option="--build-arg",
    )
    assert check_values(given, BUILD, what="trtllm-build") == {
        "max_batch_size": 64,
        "multiple_profiles": "enable",
        "lora_dir": ["a", "b"],
        "strip_plan": True,
        "max_seq_len": 4096,
    }


def test_values_of_a_file_keep_their_types_and_a_boolean_is_a_switch() -> None:
    given = {"reduce_fusion": True, "kv_cache_type": "paged", "max_num_tokens": 4096}
    assert check_values(given, BUILD, what="trtllm-build") == {
        "reduce_fusion": "enable",
        "kv_cache_type": "paged",
        "max_num_tokens": 4096,
    }


def test_nested_values_are_reached_by_dots_and_null_turns_off() -> None:
    given = {
        "kv_cache_config.free_gpu_memory_fraction": "0.8",
        "kv_cache_config.max_attention_window": "[4096, 1024]",
        "cuda_graph_config": "null",
        "enable_chunked_prefill": "1",
    }
    assert check_values(given, LLM, what="the LLM API") == {
        "kv_cache_config.free_gpu_memory_fraction": 0.8,
        "kv_cache_config.max_attention_window": [4096, 1024],
        "cuda_graph_config": None,
        "enable_chunked_prefill": True,
    }


def test_all_wrong_values_are_said_at_once_with_the_nearest_name() -> None:
    given = {
        "max_batchsize": 1,
        "gemm_plugin": "fp4",
        "tokens_per_block": "x",
        "max_beam_width": 0,
        "output_dir": "out",
        "streamingllm": "enable",
    }
    with pytest.raises(UsageError) as error:
        check_values(given, BUILD, what="trtllm-build")
    assert str(error.value).splitlines() == [
        "arguments of trtllm-build:",
        "  gemm_plugin: found 'fp4', "
        "expected one of auto, float16, float32, bfloat16, int32, fp8, nvfp4, disable",
        "  max_batchsize: unknown argument; did you mean max_batch_size?",
        "  max_beam_width: found 0, expected 1 or more",
        "  output_dir: is set by tpforge itself: where the engine goes",
        "  streamingllm: no longer works: attention sinks; upstream refuses it by now",
        "  tokens_per_block: found 'x', expected a whole number",
    ]


def test_a_name_of_the_wrong_level_suggests_the_right_one() -> None:
    with pytest.raises(UsageError, match=r"did you mean kv_cache_config\.free_gpu_memory_fraction\?"):
        check_values({"free_gpu_memory_fraction": 0.9}, LLM, what="the LLM API")


@pytest.mark.parametrize("value", [True, 1.5, "1.5", None, [1]])
def test_what_is_no_whole_number_is_refused(value: object) -> None:
    with pytest.raises(UsageError, match="max_batch_size: found"):
        check_values({"max_batch_size": value}, BUILD, what="trtllm-build")


def test_a_fraction_stays_between_0_and_1() -> None:
    with pytest.raises(UsageError, match=r"found 90\.0, expected 0 to 1"):
        check_values({"kv_cache_config.free_gpu_memory_fraction": 90}, LLM, what="the LLM API")


def test_a_pair_without_key_or_given_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="--build-arg =3: expected KEY=VALUE"):
        parse_pairs(["=3"], option="--build-arg")
    with pytest.raises(UsageError, match="--build-arg workers: given twice"):
        parse_pairs(["workers=1", "workers=2"], option="--build-arg")


def test_every_default_is_a_value_that_its_own_argument_takes() -> None:
    for table in (BUILD, LLM):
        given = {one.name: one.default for one in table if one.default is not None and not one.owned}
        shown = check_values(
            {name: value for name, value in given.items() if name != "streamingllm"}, table, what="x"
        )
        assert {name: value for name, value in given.items() if name in shown} == shown


def test_the_command_shows_a_release_with_its_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["versions", "--trtllm", "1.2.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "release"
    names = {one["name"] for one in found["build_arguments"]}
    assert {"max_num_tokens", "user_buffer", "speculative_decoding_mode", "pp_reduce_scatter"} <= names
    assert "auto_parallel" not in names


def test_the_command_lists_every_release_with_its_kind_and_how_old_the_tables_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["versions"]) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert len(lines) == 1 + len(releases())
    assert lines[-1].split()[:4] == ["1.4.0rc4", "candidate", "-", "13"]
    assert next(line.split()[-1] for line in lines if line.startswith("1.4.0rc0")) == "read"
    assert "newest stable: 1.2.1, in nvcr.io/nvidia/tritonserver:26.07-trtllm-python-py3" in captured.err
    assert "newest candidate: 1.4.0rc4, in no Triton container, and nvcr.io/" in captured.err
    assert f"compared with upstream on {tables_read()}" in captured.err


def test_the_age_of_the_tables_is_counted_in_days() -> None:
    assert known(tables_read() + timedelta(days=40)).days == 40


def test_options_of_learning_are_refused_without_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["versions", "--container", "docker", "--out", "x"]) == 2
    assert "--container, --out: only with --learn" in capsys.readouterr().err
