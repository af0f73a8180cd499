"""What stands before the servers of an engine: the fronts of NVIDIA Dynamo, and a worker a server.

Composes triton_repo with the folders of `places`. It starts no server: `serve` does.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING

from tpforge.errors import UsageError, VerificationFailed
from tpforge.outputs.places import Places
from tpforge.recipe import ServeRecipe
from tpforge.repository_options import PytorchOptions

if TYPE_CHECKING:
    from pathlib import Path

    from tpforge.manifest import Manifest
    from triton_repo.openai.front import FrontPlace
    from triton_repo.openai.settings import WorkerSettings
    from triton_repo.serve.companions import Companion
    from triton_repo.serve.security import Security

PORTS_APART = 10
"""Between the port bases of the servers of one engine."""
_OPENAI_PORT = 3
"""Above port_base, where no other is asked for."""


def port_base_of(recipe: ServeRecipe, number: int) -> int:
    """The port base of a server of an engine, the first of which has the recipe's."""
    return recipe.port_base + PORTS_APART * (number - 1)


def refuse_without_front(recipe: ServeRecipe) -> None:
    """Refuse what only the front of OpenAI's API has.

    Raises:
        UsageError: it is asked for without `openai`.
    """
    if recipe.openai:
        _refuse_exposed(recipe)
        return
    given = {
        "--openai-port": recipe.openai_port is not None,
        "--kserve-port": recipe.kserve_port is not None,
        "--replicas": recipe.replicas != 1,
        "--router": recipe.router != "round-robin",
        "--tool-call-parser": recipe.tool_call_parser is not None,
        "--reasoning-parser": recipe.reasoning_parser is not None,
    }
    names = ", ".join(name for name, is_given in given.items() if is_given)
    if names:
        raise UsageError(
            f"{names}: only with the front before the servers; give --openai too (openai = true in a recipe)"
        )


def _refuse_exposed(recipe: ServeRecipe) -> None:
    """Refuse a port that would be open where the recipe's are not.

    Raises:
        UsageError: the front of KServe is asked for on one address alone.
    """
    if recipe.kserve_port is not None and recipe.host not in ("0.0.0.0", "::"):
        raise UsageError(
            f"--kserve-port: Dynamo's front of KServe listens on all addresses of this machine, --host is "
            f"{recipe.host}; give --host 0.0.0.0, or leave it out"
        )


def companions_of(
    places: Places, recipe: ServeRecipe, *, security: Security, number: int = 1
) -> tuple[Companion, ...]:
    """What runs beside a server of an engine: its worker, and with the first one the fronts.

    Raises:
        EnvironmentUnusable: Dynamo is not installed.
        InputRefused: the front cannot tokenize for this engine.
        UsageError: it is not asked for, or cannot be had with the other options.
    """
    refuse_without_front(recipe)
    if not recipe.openai:
        return ()
    from triton_repo.openai import front
    from triton_repo.openai.card import write_card
    from triton_repo.openai.environment import dynamo_python
    from triton_repo.serve.private import make_private

    python = dynamo_python()
    manifest = _servable(places)
    shared = make_private(places.server)
    place = _place(recipe, security, discovery=shared / "discovery")
    own = places.replica(number)
    card = shared / "card"
    found: list[Companion] = []
    if number == 1:  # What the servers of the engine share.
        write_card(places.engine, manifest, out=card)
        # What a killed front left there would be asked until it expires.
        shutil.rmtree(place.discovery, ignore_errors=True)
        place.discovery.mkdir()
        # Ours has no certificate of a client, and asks by this machine's name.
        is_provable = security.server_name is None and security.client_roots is None
        found.append(
            front.openai_front(
                place, python=python, log=own / "openai.log", model=manifest.name, is_provable=is_provable
            )
        )
        if recipe.kserve_port is not None:
            found.append(front.kserve_front(place, python=python, log=own / "kserve.log"))
    settings = _settings(places, recipe, manifest, card, security=security, number=number)
    file = front.write_settings(settings, make_private(own) / front.SETTINGS_FILE)
    return (*found, front.worker(file, python=python, log=own / front.WORKER_LOG, discovery=place.discovery))


def ask_openai(places: Places, url: str, message: str) -> tuple[str, tuple[str, ...]]:
    """The answer to a chat message by OpenAI's own client, whole and in the pieces of a stream.

    Raises:
        EnvironmentUnusable: Dynamo's environment, which has that client, is not installed.
        VerificationFailed: the server refused it or did not answer.
    """
    from engines.store import read_manifest
    from triton_repo.openai.environment import dynamo_python
    from triton_repo.serve.guard import module_environment

    model = read_manifest(places.engine).name
    words = [str(dynamo_python()), "-P", "-m", "triton_repo.openai.asking", url, model, message]
    done = subprocess.run(words, env=module_environment(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise VerificationFailed(f"{url}: OpenAI's client failed: {''.join(done.stderr.splitlines()[-1:])}")
    found = json.loads(done.stdout)
    return str(found["answer"]), tuple(found["pieces"])


def _servable(places: Places) -> Manifest:
    """The engine's record, when a front can stand before it.

    Raises:
        UsageError: it cannot.
    """
    from engines.store import read_manifest
    from scripts.flows.render import kept_options

    manifest = read_manifest(places.engine)
    options = kept_options(places, manifest)
    if isinstance(options, PytorchOptions) and options.front == "llmapi":
        raise UsageError(
            '--openai: the model of front "llmapi" takes text alone, and the front gives tokens; '
            "render with --front inflight, or let trtllm-serve speak OpenAI's API"
        )
    return manifest


def _place(recipe: ServeRecipe, security: Security, *, discovery: Path) -> FrontPlace:
    from triton_repo.openai.front import FrontPlace
    from triton_repo.serve.local import reachable

    return FrontPlace(
        host=recipe.host,
        shown_host=reachable(recipe.host),
        openai_port=recipe.openai_port or recipe.port_base + _OPENAI_PORT,
        kserve_port=recipe.kserve_port,
        discovery=discovery,
        router=recipe.router,
        certificate=security.certificate.absolute() if security.certificate else None,
        private_key=security.private_key.absolute() if security.private_key else None,
        client_roots=security.client_roots.absolute() if security.client_roots else None,
    )


def _settings(
    places: Places,
    recipe: ServeRecipe,
    manifest: Manifest,
    card: Path,
    *,
    security: Security,
    number: int,
) -> WorkerSettings:
    from scripts.flows.render import kept_options
    from triton_repo.openai.card import has_chat_template
    from triton_repo.openai.settings import TlsFiles, WorkerSettings
    from triton_repo.serve.local import reachable
    from triton_repo.serve.ports import Ports

    options, limits = kept_options(places, manifest), manifest.limits
    tls = security.absolute().client_tls()
    files = (tls.root_certificates, tls.private_key, tls.certificate_chain) if tls else (None, None, None)
    roots, key, chain = (None if path is None else str(path) for path in files)
    return WorkerSettings(
        url=f"{reachable(recipe.host)}:{Ports.from_base(port_base_of(recipe, number)).grpc}",
        model=manifest.name,
        card=str(card),
        max_batch_size=options.max_batch_size or limits.max_batch_size,
        max_input_len=limits.max_input_len,
        max_seq_len=limits.max_seq_len,
        vocab_size=manifest.model.vocab_size,
        end_ids=manifest.model.special_tokens.end_ids,
        pad_id=manifest.model.special_tokens.pad_id,
        decoupled=options.decoupled,
        endpoint_types="chat,completions" if has_chat_template(card) else "completions",
        tool_call_parser=recipe.tool_call_parser,
        reasoning_parser=recipe.reasoning_parser,
        tls=None if tls is None else TlsFiles(roots, key, chain, tls.server_name),
    )
