"""State, identity, discovery and interpreter checks of local servers, without a server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.patience import PATIENCE_S
from tpforge.errors import EnvironmentUnusable, InputRefused
from triton_repo.serve import private, processes, state
from triton_repo.serve.interpreter import (
    check_interpreter,
    library_problem,
    numpy_problem,
    numpy_version,
    python3_problem,
)
from triton_repo.serve.local import ServeOptions, list_servers, serve, status, stop
from triton_repo.serve.ports import Ports
from triton_repo.serve.readiness import exit_text, models_of
from triton_repo.serve.supervisor import back_off_s
from triton_repo.serve.tritonserver import (
    TritonServer,
    find_tritonserver,
    prepare_backends,
    server_command,
    server_environment,
)


def a_state(
    folder: Path, *, supervisor: processes.ProcessId, phase: state.Phase = "ready"
) -> state.ServerState:
    return state.ServerState(
        phase=phase,
        message="ready after 1.0 s",
        repository=Path("/r"),
        host="127.0.0.1",
        ports=Ports(),
        log=folder / "triton.log",
        mark="tpforge-test-nobody",
        supervisor=supervisor,
        seconds_to_ready=1.0,
    )


def myself() -> processes.ProcessId:
    found = processes.identify(os.getpid())
    assert found is not None
    return found


def test_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = a_state(tmp_path, supervisor=myself())
    state.write_state(tmp_path, written)
    assert state.read_state(tmp_path) == written


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 2}'])
def test_broken_state_file_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    private.make_private(tmp_path)
    private.write_private(state.state_file(tmp_path), content)
    assert state.read_state(tmp_path) is None
    assert status(tmp_path).phase == "stopped"
    assert stop(tmp_path).phase == "stopped"


def test_recycled_pid_is_not_taken_for_the_supervisor_nor_killed(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        found = processes.identify(stranger.pid)
        assert found is not None
        earlier = replace(found, start_ticks=found.start_ticks - 1)
        state.write_state(tmp_path, a_state(tmp_path, supervisor=earlier))
        assert status(tmp_path).phase == "crashed"
        assert stop(tmp_path).phase == "crashed"
        assert stranger.poll() is None, "stop killed a process that only has the supervisor's old pid"
        stranger.kill()
    assert status(tmp_path).phase == "stopped"


def test_pid_of_an_earlier_boot_is_not_taken_for_the_supervisor(tmp_path: Path) -> None:
    earlier = replace(myself(), boot_id="another")
    state.write_state(tmp_path, a_state(tmp_path, supervisor=earlier))
    assert status(tmp_path).phase == "crashed"


def test_failed_start_keeps_its_reason_until_it_is_stopped(tmp_path: Path) -> None:
    failed = a_state(tmp_path, supervisor=myself(), phase="failed").model_copy(
        update={"message": "no engine"}
    )
    state.write_state(tmp_path, failed)
    found = status(tmp_path)
    assert (found.phase, found.message, found.is_running) == ("failed", "no engine", False)


def test_stop_waits_for_longer_than_requests_in_flight_may_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor that lets them go on for five minutes must not be killed after one."""
    found = a_state(tmp_path, supervisor=myself()).model_copy(update={"drain_s": 300})
    waited: list[float] = []

    def wait_gone(_process: processes.ProcessId, *, timeout_s: float) -> bool:
        waited.append(timeout_s)
        return True

    with state.exclusive(tmp_path):
        state.write_state(tmp_path, found)
        monkeypatch.setattr(processes, "send_signal", lambda _process, _number: True)
        monkeypatch.setattr(processes, "wait_gone", wait_gone)
        stop(tmp_path)
    assert waited[0] > 300


def test_servers_are_listed_by_folder(tmp_path: Path) -> None:
    for name in ("b", "a"):
        state.write_state(tmp_path / name / "server", a_state(tmp_path, supervisor=myself()))
    (tmp_path / "c" / "server").mkdir(parents=True)
    assert [found.state_dir.parent.name for found in list_servers(tmp_path)] == ["a", "b"]
    assert [found.server.grpc_url for found in list_servers(tmp_path) if found.server] == [
        "localhost:8001"
    ] * 2


def test_lock_is_refused_while_another_process_holds_it(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom triton_repo.serve.state import exclusive\n"
        "with exclusive(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(EnvironmentUnusable, match="runs already"), state.exclusive(tmp_path):
            pass
        holder.kill()
    with state.exclusive(tmp_path):
        pass


def test_marked_processes_are_found_and_killed_and_no_others() -> None:
    mark = f"tpforge-test-{os.getpid()}"
    environment = {**os.environ, processes.MARK_VARIABLE: mark}
    with (
        subprocess.Popen(["sleep", "60"], env=environment, start_new_session=True) as ours,
        subprocess.Popen(["sleep", "60"], env={**os.environ, processes.MARK_VARIABLE: f"{mark}0"}) as other,
    ):
        while not processes.marked(mark):
            time.sleep(0.01)
        assert [process.pid for process in processes.marked(mark)] == [ours.pid]
        assert processes.kill_marked(mark) == 1
        assert ours.wait(PATIENCE_S) == -signal.SIGKILL
        assert other.poll() is None
        other.kill()


def test_tied_process_ends_when_its_parent_is_killed() -> None:
    code = (
        "import os, sys, tempfile, time\nfrom pathlib import Path\n"
        "from triton_repo.serve.processes import spawn_tied\n"
        "child = spawn_tied(['/bin/sleep', '60'], environment=dict(os.environ), cwd=Path('/'), "
        "log=tempfile.TemporaryFile())\nprint(child.pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        while Path(f"/proc/{pid}/comm").read_text() != "sleep\n":
            time.sleep(0.01)
        child = processes.identify(pid)
        assert child is not None
        parent.kill()
        parent.wait()
    assert processes.wait_gone(child, timeout_s=PATIENCE_S)


def test_shared_memory_is_removed_by_prefix_only() -> None:
    mine, other = (processes.SHARED_MEMORY / f"tpforge-test-{os.getpid()}{end}" for end in ("_a", "0_a"))
    for region in (mine, other):
        region.touch()
    try:
        assert processes.remove_shared_memory(f"tpforge-test-{os.getpid()}_") == 1
        assert not mine.exists()
        assert other.exists()
    finally:
        other.unlink()


def test_given_binary_that_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tritonserver").write_text("")
    with pytest.raises(EnvironmentUnusable, match="is not a program; --tritonserver"):
        find_tritonserver(tmp_path / "tritonserver")


def test_server_on_path_comes_before_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "bin" / "tritonserver"
    binary.parent.mkdir()
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(binary.parent))
    assert find_tritonserver() == TritonServer(binary=binary, origin="PATH")


def test_wheel_is_found_without_importing_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    server = find_tritonserver()
    assert server.origin == "nvidia-pytriton"
    assert server.libraries is not None and server.libraries.is_dir()
    assert "pytriton" not in sys.modules


def a_wheel(folder: Path, *, stubs: tuple[str, ...]) -> TritonServer:
    for version in stubs:
        (folder / "stubs" / version).mkdir(parents=True)
        (folder / "stubs" / version / "triton_python_backend_stub").write_text(version)
    (folder / "backends" / "python").mkdir(parents=True)
    (folder / "backends" / "python" / "libtriton_python.so").write_text("library")
    return TritonServer(
        binary=folder / "tritonserver",
        origin="nvidia-pytriton",
        backends=folder / "backends",
        stubs=folder / "stubs",
        libraries=folder / "libs",
    )


def test_backends_get_the_stub_of_the_running_python(tmp_path: Path) -> None:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    server = a_wheel(tmp_path, stubs=("3.1", version))
    backends = prepare_backends(server, tmp_path / "own")
    assert backends is not None
    assert (backends / "python" / "triton_python_backend_stub").read_text() == version
    assert (backends / "python" / "libtriton_python.so").read_text() == "library"
    assert prepare_backends(server, tmp_path / "own") == backends, (
        "a second start finds the first one's links"
    )


def test_python_without_a_stub_is_refused_with_the_known_ones_in_order(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnusable, match=r"only for 3\.1, 3\.2, 3\.100"):
        prepare_backends(a_wheel(tmp_path, stubs=("3.100", "3.1", "3.2")), tmp_path / "own")


def test_only_the_wheel_gets_its_libraries_and_our_python(tmp_path: Path) -> None:
    ours = server_environment(a_wheel(tmp_path, stubs=()), mark="m", temporary=tmp_path)
    assert ours["LD_LIBRARY_PATH"].split(":")[0] == str(tmp_path / "libs")
    assert ours["PATH"].split(":")[0] == str(Path(sys.executable).parent)
    assert (ours["TPFORGE_SERVER"], ours["TMPDIR"]) == ("m", str(tmp_path))
    other = server_environment(TritonServer(Path("/t"), "PATH"), mark="m", temporary=tmp_path)
    assert other.get("LD_LIBRARY_PATH") == os.environ.get("LD_LIBRARY_PATH")
    assert other["PATH"] == os.environ["PATH"]


def test_command_carries_the_mark_as_id_and_shared_memory_prefix() -> None:
    command = server_command(
        TritonServer(Path("/t"), "PATH"),
        repository=Path("/r"),
        backends=Path("/b"),
        host="127.0.0.1",
        ports=Ports.from_base(9000),
        mark="m",
    )
    assert command[0] == "/t"
    wanted = {
        "--model-repository=/r",
        "--id=m",
        "--http-port=9000",
        "--grpc-port=9001",
        "--metrics-port=9002",
        "--backend-config=python,shm-region-prefix-name=m_",
        "--backend-directory=/b",
    }
    assert wanted <= set(command)


def test_this_interpreter_can_run_models() -> None:
    check_interpreter()


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        (python3_problem(Path("/v/python3"), is_file=False), "there is no /v/python3"),
        (library_problem("libpython3.11.so.1.0", None, running="3.11.2"), "apt-get install libpython3.11)"),
        (library_problem("libpython3.11.so.1.0", "3.11.2", running="3.11.7"), "is Python 3.11.2, this is"),
        (numpy_problem("2.1.0"), "numpy 2.1.0 is installed, and the stub needs numpy < 2"),
        (numpy_problem(None), "numpy is not installed"),
    ],
)
def test_interpreter_that_cannot_run_models_is_told_why(problem: str | None, text: str) -> None:
    assert problem is not None and text in problem


def test_fitting_interpreter_has_no_problem() -> None:
    assert library_problem("libpython3.11.so.1.0", "3.11.2", running="3.11.2") is None
    assert numpy_problem("1.26.4") is None
    assert python3_problem(Path("/v/python3"), is_file=True) is None


def test_a_numpy_that_is_only_on_pythonpath_is_not_what_the_stub_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "numpy-0.1.dist-info").mkdir()
    text = "Metadata-Version: 2.1\nName: numpy\nVersion: 0.1\n"
    (tmp_path / "numpy-0.1.dist-info" / "METADATA").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert numpy_version(Path(sys.executable)) == np.__version__
    assert numpy_version(tmp_path / "missing") is None


def test_repository_that_is_none_is_refused_before_anything_starts(tmp_path: Path) -> None:
    def quiet(_message: str) -> None:
        pass

    options = ServeOptions(state_dir=tmp_path / "server", detach=True)
    with pytest.raises(InputRefused, match="is not a folder; `tpforge render"):
        serve(tmp_path / "missing", options=options, progress=quiet)


def test_models_are_the_folders_with_a_config(tmp_path: Path) -> None:
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").touch()
    (tmp_path / "no_model").mkdir()
    assert models_of(tmp_path) == ("a", "b")


def test_empty_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="holds no model"):
        models_of(tmp_path)


def test_ends_of_processes_are_told_in_words() -> None:
    assert exit_text(1) == "ended with exit status 1"
    assert exit_text(-9) == "was ended by SIGKILL"


def test_first_restart_is_immediate_and_later_ones_wait_longer() -> None:
    assert [back_off_s(count) for count in (1, 2, 3, 4)] == [0.0, 2.0, 4.0, 8.0]


def test_the_guard_of_a_server_imports_no_pydantic_and_no_psutil() -> None:
    code = (
        "import sys, triton_repo.serve.guard\n"
        "print(sorted({'pydantic', 'psutil', 'numpy', 'grpc'} & set(sys.modules)), len(sys.modules) > 9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"


def test_a_process_in_a_record_has_no_unknown_fields() -> None:
    written = a_state(Path("/x"), supervisor=myself()).model_dump(mode="json")
    assert state.ServerState.model_validate(written).supervisor == myself()
    written["supervisor"]["more"] = 1
    with pytest.raises(ValueError, match="more"):
        state.ServerState.model_validate(written)
