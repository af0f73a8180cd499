"""Servers of engines: start, find, stop, ask. Composes triton_repo with the folders of `places`.

It prints nothing; the supervisor of a server is `triton_repo.serve.supervisor`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from engines.chat import chat_prompt
from scripts.flows.render import fresh_repository
from scripts.flows.serving.front import companions_of, port_base_of
from tpforge.errors import EnvironmentUnusable, UsageError
from tpforge.outputs.places import OUT, Places, find_engine, known_names
from tpforge.outputs.recognized import what_it_is
from tpforge.progress import Progress
from tpforge.recipe import ServeRecipe
from tpforge.repository_options import RepositoryOptions
from tpforge.suggestions import did_you_mean

if TYPE_CHECKING:
    from triton_repo.client.client import Answer
    from triton_repo.serve.local import Server, Status
    from triton_repo.serve.security import Security

DEFAULT_URL = "localhost:8001"
_LOAD_TIMEOUT_S = 300.0


def _load_timeout_s(places: Places) -> float:
    """What a start of the engine may take, and never less than what small ones have always had."""
    from engines.store import read_manifest
    from triton_repo.serve.start_time import start_seconds

    manifest = read_manifest(places.engine)
    size = sum(file.size for file in manifest.files)
    return max(_LOAD_TIMEOUT_S, start_seconds(size, runtime=manifest.runtime))


def serve_engine(
    places: Places,
    recipe: ServeRecipe,
    *,
    options: RepositoryOptions | None = None,
    detach: bool,
    progress: Progress,
    on_ready: Callable[[Server], None] | None = None,
    security: Security | None = None,
    number: int = 1,
) -> Server:
    """Start Triton on an engine's repository, which is rendered first when it is missing or out of date.

    `number` tells the servers of an engine apart; the first has the fronts, and `replicas` starts them all.

    Raises:
        EnvironmentUnusable: ports, binary or interpreter cannot be used, or it runs already.
        InputRefused: the engine is not sound, or a model does not load.
    """
    from triton_repo.serve.local import ServeOptions, serve
    from triton_repo.serve.ports import Ports
    from triton_repo.serve.security import Security
    from triton_repo.serve.tritonserver import DRAIN_S

    refuse_running(places, number=number)
    repository, rendered = fresh_repository(places, options)
    if rendered:
        progress(f"rendered {repository}")
    return serve(
        repository,
        options=ServeOptions(
            state_dir=places.replica(number),
            ports=Ports.from_base(port_base_of(recipe, number)),
            host=recipe.host,
            tritonserver=recipe.tritonserver,
            load_timeout_s=recipe.load_timeout or _load_timeout_s(places),
            drain_s=DRAIN_S if recipe.drain is None else recipe.drain,
            detach=detach,
            security=security or Security(),
            companions=companions_of(places, recipe, security=security or Security(), number=number),
        ),
        progress=progress,
        on_ready=on_ready,
    )


def refuse_running(places: Places, *, number: int = 1) -> None:
    """Refuse a second server of an engine, but for another `number`.

    Raises:
        EnvironmentUnusable: one runs already.
    """
    from triton_repo.serve.local import status

    if status(places.replica(number)).is_running:
        raise EnvironmentUnusable(
            f"{places.server}: a server of this engine runs already; see tpforge status, or tpforge stop"
        )


def is_running(places: Places) -> bool:
    """Whether the server of an engine runs."""
    from triton_repo.serve.local import status

    return status(places.server).is_running


def servers(engine: str | None, *, root: Path = OUT) -> tuple[Status, ...]:
    """The servers under out/, or those of an engine; stopped ones that left no trace are not listed.

    Raises:
        UsageError: there is no such engine, nor a server of it.
    """
    from triton_repo.serve.local import list_servers, replicas_of, status

    if engine is None:
        return list_servers(root)
    folder = known_engine(engine, root=root).server
    return (status(folder), *replicas_of(folder))


def known_engine(engine: str, *, root: Path = OUT) -> Places:
    """The folders of an engine that is there, or that has left a server's.

    Raises:
        UsageError: neither is.
    """
    places = find_engine(engine, root=root)
    if not ((places.engine / "engine.json").is_file() or places.server.is_dir()):
        kind = what_it_is(places.engine)
        near = did_you_mean(engine, known_names(root)) or ";"
        found = f"is {kind}, and no engine;" if kind else f"no such engine{near}"
        raise UsageError(f"{engine}: {found} `tpforge engines list` and `tpforge status` show them")
    return places


def stop_servers(engine: str | None, *, every: bool, root: Path = OUT) -> tuple[Status, ...]:
    """Stop the servers of an engine, or of the only one that is served, or `every` one; what they were.

    A server that has failed is forgotten when no other runs, and never makes one that runs ambiguous.

    Raises:
        UsageError: several run, and it was not said which.
    """
    from triton_repo.serve.local import number_of, stop

    found = [status for status in servers(engine, root=root) if status.phase != "stopped"]
    if engine is None and not every and any(status.phase != "failed" for status in found):
        found = [status for status in found if status.phase != "failed"]
    served = _engines([status for status in found if status.phase != "failed"])
    if engine is None and not every and len(served) > 1:
        raise UsageError(f"several servers run ({', '.join(served)}); say which, or --all")
    # The first of an engine has the front, which is needed until the last of the others has ended.
    found.sort(key=lambda status: (status.state_dir.parent, -number_of(status.state_dir)))
    return tuple(stop(status.state_dir) for status in found)


def _engines(found: Iterable[Status]) -> list[str]:
    """The names of the engines that servers serve, each once."""
    return list(dict.fromkeys(status.state_dir.parent.name for status in found))


def find_log(engine: str | None, name: str, *, root: Path = OUT) -> Path:
    """The log of an engine's server, of the only server that runs, or else the one that was written last.

    Raises:
        UsageError: several run, and it was not said which; or there is no such log.
    """
    if engine is not None:
        found = [known_engine(engine, root=root).server / name]
    else:
        running = [status for status in servers(None, root=root) if status.is_running]
        if len(served := _engines(running)) > 1:
            raise UsageError(f"several servers run ({', '.join(served)}); say whose log")
        logs = sorted(root.glob(f"*/server/{name}"), key=lambda path: path.stat().st_mtime, reverse=True)
        found = [running[0].state_dir / name] if running else logs
    if not found or not found[0].is_file():
        where = found[0] if found else f"{root}/"
        raise UsageError(f"{where}: there is no log; start a server with: tpforge serve --detach")
    return found[0]


def places_of_server(status: Status) -> Places:
    """The folders of the engine that a server under out/ serves."""
    from triton_repo.serve.local import first_of

    folder, name = status.state_dir.parent, first_of(status.state_dir).name
    return Places(folder / (name.removesuffix("-server") if name != "server" else "engine"))


def find_server(
    url: str | None, *, engine: str | None = None, root: Path = OUT
) -> tuple[str, str | None, Places | None]:
    """The gRPC URL, metrics URL and engine to talk to: of `url`, `engine`, or the only server that runs.

    The engine is known for servers that were started here.

    Raises:
        UsageError: the engine has no server that runs; or neither was given, and none or several servers run.
    """
    from triton_repo.serve.local import first_of, list_servers

    if url is None and engine is not None:
        return _server_of(engine, root=root)
    running = [status for status in list_servers(root) if status.is_running and status.server]
    others = [status.server for status in running if status.server and status.server.api != "triton"]
    running = [status for status in running if status.server and status.server.api == "triton"]
    if others and not running and url in (None, *(server.url for server in others)):
        client = (
            " client of OpenAI's API"
            if others[0].api == "openai"
            else " client of its protocol, by token ids"
        )
        raise UsageError(
            f"{others[0].url}: is trtllm-serve, without Triton's gRPC; ask it with --api {others[0].api}, or "
            f"any{client}"
        )
    if url is not None:
        running = [status for status in running if status.server and status.server.grpc_url == _local(url)]
    elif len(_engines(running)) == 1:  # Its servers are alike; the first is asked.
        running = sorted(running, key=lambda status: status.state_dir != first_of(status.state_dir))[:1]
    if len(running) == 1 and running[0].server:
        server = running[0].server
        return server.grpc_url, server.metrics_url, places_of_server(running[0])
    if url is not None:
        return url, None, None
    if running:
        urls = ", ".join(
            f"{places_of_server(status).engine} ({status.server.grpc_url})"
            for status in running
            if status.server
        )
        raise UsageError(f"several servers run; say which by its engine or its URL: {urls}")
    raise UsageError(
        f"no server runs under {root}/; start one with: tpforge serve, or give a URL such as {DEFAULT_URL}"
    )


def _server_of(engine: str, *, root: Path) -> tuple[str, str | None, Places | None]:
    from triton_repo.serve.local import status

    places = known_engine(engine, root=root)
    found = status(places.server)
    if not found.is_running or found.server is None:
        raise UsageError(
            f"{places.engine}: no server of it runs (it is {found.phase}); start one with: "
            f"tpforge serve {shlex.quote(engine)} --detach"
        )
    return found.server.grpc_url, found.server.metrics_url, places


def find_trtllm_grpc(url: str | None, *, root: Path = OUT) -> tuple[str, Places | None]:
    """HOST:PORT and engine of a server of `trtllm-serve --grpc`: of `url`, or the only one that runs.

    Raises:
        UsageError: no URL was given, and none or several servers run.
    """
    running = _running("trtllm-grpc", root=root)
    if url is not None:
        return url, running.get(_local(url))
    return _only(
        running,
        ask="HOST:PORT of one",
        none=f"no server of trtllm-serve's gRPC runs under {root}/; start one with: tpforge serve ENGINE "
        "--server trtllm-grpc, or give HOST:PORT of one",
    )


def find_openai_server(url: str | None, *, root: Path = OUT) -> tuple[str, Places | None]:
    """The URL and engine of a server with OpenAI's API: of `url`, or the only one that runs.

    The engine is known for servers that were started here.

    Raises:
        UsageError: no URL was given, and none or several servers run.
    """
    running = _running("openai", root=root)
    if url is not None:
        asked = (url if "//" in url else f"http://{url}").rstrip("/").removesuffix("/v1")
        return url, running.get(asked.replace("//127.0.0.1:", "//localhost:"))
    return _only(
        running,
        ask="the URL of one",
        none=f"no server with OpenAI's API runs under {root}/; give its URL, such as http://localhost:8000",
    )


def _running(api: Literal["openai", "trtllm-grpc"], *, root: Path) -> dict[str, Places]:
    """The engines of the servers of trtllm-serve that run, by the address of `api`."""
    from triton_repo.serve.local import list_servers

    return {
        status.server.http_url if api == "openai" else status.server.grpc_url: places_of_server(status)
        for status in list_servers(root)
        if status.is_running and status.server and status.server.api == api
    }


def _only(running: dict[str, Places], *, ask: str, none: str) -> tuple[str, Places]:
    """The one server; UsageError, which asks for `ask` or says `none`, where there are several or none."""
    if len(running) == 1:
        return next(iter(running.items()))
    if running:
        raise UsageError(f"several servers run; give {ask}: {', '.join(running)}")
    raise UsageError(none)


def _local(url: str) -> str:
    return url.removeprefix("grpc://").replace("127.0.0.1:", "localhost:")


def chat_template_folder(given: str | None, places: Places | None) -> Path:
    """The tokenizer folder whose chat template fits the server: of the given engine, or of the found one.

    Raises:
        UsageError: it is not known which engine the server serves.
    """
    found = find_engine(given) if given is not None else places
    if found is None:
        raise UsageError("--chat needs the tokenizer of the engine; give it with --engine")
    return found.engine / "tokenizer"


def ask(places: Places, url: str, message: str, *, stream: bool, max_tokens: int = 64) -> Answer:
    """The answer to a chat message, put through the engine's chat template.

    Raises:
        TpforgeError: the server refused it or did not answer.
    """
    from triton_repo.client.client import Client

    prompt = chat_prompt(places.engine / "tokenizer", message)
    with Client(url) as client:
        return client.generate(prompt, max_tokens=max_tokens, stream=stream)
