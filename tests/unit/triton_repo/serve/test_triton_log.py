"""Reasons out of Triton's log; the lines are those of tritonserver 2.51."""

from __future__ import annotations

from pathlib import Path

import pytest

from triton_repo.serve.triton_log import (
    failure_reason,
    hang_reason,
    last_lines,
    loaded_models,
    loading_models,
    read_log,
)

HEAD = """\
W1123 06:32:55.978534 6586 pinned_memory_manager.cc:273] "Unable to allocate pinned system memory, pinned \
memory \
pool will not be available: CUDA driver version is insufficient for CUDA runtime version"
E1123 06:32:55.978656 6586 server.cc:241] "CudaDriverHelper has not been initialized."
I1123 06:32:55.979703 6586 model_lifecycle.cc:472] "loading: ensemble:1"
"""
TAIL = """\
I1123 06:32:57.569713 6586 server.cc:345] "Timeout 30: Found 0 live models and 0 in-flight non-inference \
requests"
error: creating server: Internal - failed to load all models
"""

PYTHON_ERROR = """\
E1123 06:32:57.568491 6586 model_lifecycle.cc:642] "failed to load 'tensorrt_llm' version 1: \
Internal: ValueError: engine.json: not found; expected \\"engine\\"\\n\\nAt:\\n  \
/r/tensorrt_llm/1/model.py(6): initialize\\n"
"""
PLACEHOLDER = """\
[libprotobuf ERROR /tmp/x/text_format.cc:337] Error parsing text-format inference.ModelConfig: 7:26: \
Expected integer, got: $
E1123 06:33:07.759648 6866 model_repository_manager.cc:1460] "Poll failed for model directory 'ensemble': \
failed \
to read text proto from /r/ensemble/config.pbtxt"
"""
UNKNOWN_KEY = """\
[libprotobuf ERROR /tmp/x/text_format.cc:337] Error parsing text-format inference.ModelConfig: 9:4: \
Message type \
"inference.ModelConfig" has no field named "foo".
E1123 06:33:38.965265 7081 model_repository_manager.cc:1460] "Poll failed for model directory 'ensemble': \
failed \
to read text proto from /r/ensemble/config.pbtxt"
"""
DIRECTORY_NAME = """\
E1123 06:33:08.781396 6880 model_repository_manager.cc:1460] "Poll failed for model directory 'ensemble': \
unexpected directory name 'ensemble' for model 'other', directory name must equal model name"
"""
NO_GPU = """\
E1123 06:33:09.804380 6894 model_lifecycle.cc:642] "failed to load 'ensemble' version 1: Invalid \
argument: instance \
group ensemble_0 of model ensemble has kind KIND_GPU but no GPUs are available"
"""
NO_BACKEND = """\
E1123 06:33:10.833928 6908 model_lifecycle.cc:642] "failed to load 'ensemble' version 1: Invalid \
argument: unable \
to find backend library for backend 'tensorrtllm', try specifying runtime on the model configuration."
"""
NO_VERSION = """\
E1123 06:33:11.861505 6922 model_repository_manager.cc:724] "failed to load model 'ensemble': at least \
one version \
must be available under the version policy of model 'ensemble'"
"""
ENSEMBLE_TYPES = """\
E1123 06:34:08.670595 7288 model_repository_manager.cc:703] "Invalid argument: in ensemble ensemble, \
ensemble tensor \
text_input: inconsistent data type: TYPE_INT32 is inferred from model ensemble while TYPE_STRING is inferred"
"""
DEAD_STUB = """\
E1123 06:33:00.843262 6616 model_lifecycle.cc:642] "failed to load 'ensemble' version 1: Internal: Stub \
process \
'ensemble_0_0' is not healthy."
"""
NO_FILE = """\
I1123 06:33:12.896072 6950 pb_stub.cc:2105]  Failed to preinitialize Python stub: Python model file not \
found in \
'/r/ensemble/1/model.py'
"""
SOCKET = """\
E1123 06:33:10.833928 6908 grpc_server.cc:2558] "failed to start: Unavailable - Socket '0.0.0.0:8001' \
already in use "
"""
SHARED_MEMORY = """\
E1123 06:33:10.833928 6908 model_lifecycle.cc:642] "failed to load 'm' version 1: Internal: Unable to \
initialize \
shared memory key 'tpforge-1_x' to requested size (1048576 bytes)."
"""
LIBRARY = (
    "/x/tritonserver: error while loading shared libraries: libdcgm.so.3: cannot open shared object file\n"
)
UNKNOWN_OPTION = "error: creating server: Invalid argument - unknown option\n"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (
            PYTHON_ERROR,
            'model tensorrt_llm: ValueError: engine.json: not found; expected "engine" '
            "(/r/tensorrt_llm/1/model.py:6)",
        ),
        (
            PLACEHOLDER,
            "/r/ensemble/config.pbtxt:7:26: Expected integer, got: $; a placeholder was left in: "
            "render the repository again",
        ),
        (
            UNKNOWN_KEY,
            '/r/ensemble/config.pbtxt:9:4: Message type "inference.ModelConfig" has no field named "foo"',
        ),
        (
            DIRECTORY_NAME,
            "model ensemble: unexpected directory name 'ensemble' for model 'other', directory name must "
            "equal model name",
        ),
        (
            NO_GPU,
            "model ensemble: instance group ensemble_0 of model ensemble has kind KIND_GPU but no GPUs are "
            "available",
        ),
        (
            NO_BACKEND,
            "model ensemble: unable to find backend library for backend 'tensorrtllm', try specifying "
            "runtime on the model configuration.",
        ),
        (
            NO_VERSION,
            "model ensemble: at least one version must be available under the version policy of model "
            "'ensemble'",
        ),
        (
            ENSEMBLE_TYPES,
            "in ensemble ensemble, ensemble tensor text_input: inconsistent data type: TYPE_INT32 is "
            "inferred from model ensemble while TYPE_STRING is inferred",
        ),
        (
            DEAD_STUB,
            "model ensemble: Stub process 'ensemble_0_0' is not healthy: its process died while it loaded; "
            "the log may say more",
        ),
        (NO_FILE, "Python model file not found in '/r/ensemble/1/model.py'"),
        (SOCKET, "Socket '0.0.0.0:8001' already in use; choose other ports with --port-base"),
        (
            SHARED_MEMORY,
            "Unable to initialize shared memory key 'tpforge-1_x' to requested size (1048576 bytes).; "
            "/dev/shm is full, or too small (docker run --shm-size=1g)",
        ),
        (LIBRARY, LIBRARY.strip()),
        (UNKNOWN_OPTION, "Invalid argument - unknown option"),
    ],
)
def test_log_gives_the_reason_of_whoever_knew(lines: str, reason: str) -> None:
    assert failure_reason(HEAD + lines + TAIL) == reason


def test_all_models_that_failed_are_reported_sorted() -> None:
    other = NO_GPU.replace("ensemble", "another")
    reason = failure_reason(HEAD + NO_GPU + other + TAIL)
    assert reason is not None
    assert [line.strip().split(":")[0] for line in reason.splitlines()] == ["model another", "model ensemble"]


def test_sound_start_has_no_reason() -> None:
    assert failure_reason(HEAD) is None
    assert hang_reason(HEAD + PYTHON_ERROR + TAIL) is None


def test_missing_model_file_is_known_to_hang() -> None:
    assert hang_reason(HEAD + NO_FILE) == "Python model file not found in '/r/ensemble/1/model.py'"


def test_progress_tells_loaded_from_loading() -> None:
    log = HEAD + (
        'I1123 06:33:41.3 7095 model_lifecycle.cc:472] "loading: postprocessing:1"\n'
        "I1123 06:33:41.4 7095 model_lifecycle.cc:839] \"successfully loaded 'postprocessing'\"\n"
    )
    assert loaded_models(log) == ("postprocessing",)
    assert loading_models(log) == ("ensemble",)


def test_last_lines_leave_out_prefixes_tables_and_shutdown() -> None:
    log = HEAD + "+-----+\n| x   |\n\n" + TAIL
    assert last_lines(log)[-2:] == (
        "loading: ensemble:1",
        "error: creating server: Internal - failed to load all models",
    )


def test_log_is_read_from_where_this_start_began(tmp_path: Path) -> None:
    log = tmp_path / "triton.log"
    log.write_text("before\nafter\n")
    assert read_log(log, start=len("before\n")) == "after\n"
    assert read_log(tmp_path / "missing") == ""


def test_a_model_process_that_the_shell_cannot_start_is_told_though_triton_waits() -> None:
    said = "bash: line 1: /srv/sp: No such file or directory\n"
    reason = "the process of a model could not be started: /srv/sp: No such file or directory"
    assert hang_reason(HEAD + said + TAIL) == reason
