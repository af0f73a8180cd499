"""All the steps of a recipe in a row, each timed, each skipped when its inputs are unchanged.

It prints nothing: the caller is told of every stage as it ends. `demo` adds a question at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from builders.sources import models
from engines.store import read_manifest
from scripts.flows import build, prove
from scripts.flows.render import fresh_repository, rendered_of
from scripts.flows.serve import ask, servers, stop_servers
from scripts.flows.serving.front import ask_openai
from scripts.flows.serving.launch import is_launched, plan_launch, serve_launch
from scripts.flows.serving.launch_trtllm_serve import is_trtllm_serve
from scripts.flows.serving.replicas import serve_replicas
from scripts.flows.smoke import SmokeRequest, smoke_server
from tpforge.errors import VerificationFailed
from tpforge.extras import require_extra
from tpforge.manifest import Manifest, Parity
from tpforge.outputs.atomic import claimed
from tpforge.outputs.deciding_code import code_key
from tpforge.outputs.places import Places
from tpforge.outputs.provenance import Input, Provenance, engine_input, made_of
from tpforge.outputs.stages import is_unchanged, keep_stage
from tpforge.progress import Progress
from tpforge.recipe import Recipe
from tpforge.repository_options import PytorchOptions
from tpforge.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from triton_repo.serve.local import Server

Outcome = Literal["done", "unchanged", "skipped", "failed", "interrupted"]


@dataclass(frozen=True)
class Stage:
    """One step as it ended."""

    name: str
    seconds: float
    result: str
    outcome: Outcome


OnStage = Callable[[Stage], None]


@dataclass
class Timer:
    """What a stage says of itself while it runs."""

    result: str = ""
    unchanged: bool = False
    skipped: bool = False

    def ended(self, name: str, *, seconds: float, error: BaseException | None) -> Stage:
        """The stage as it ended."""
        outcome: Outcome = "unchanged" if self.unchanged else "done"
        if self.skipped:
            outcome = "skipped"
        if error is not None:
            outcome = "failed" if isinstance(error, Exception) else "interrupted"
        return Stage(name, seconds, self.result, outcome)


class Run:
    """The stages of one recipe; `up` holds those that ended, a failed one included."""

    def __init__(self, recipe: Recipe, *, progress: Progress, on_stage: OnStage) -> None:
        self.recipe = recipe
        self.stages: list[Stage] = []
        self._progress, self._on_stage = progress, on_stage
        self._started: Places | None = None
        self._held = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def engine(self) -> Places:
        """Build, verify and render.

        Raises:
            TpforgeError: a stage failed; VerificationFailed when the engine is not what its source computes.
        """
        with self.stage("build") as stage:
            built = build.fresh_engine(self.recipe, progress=self._progress)
            stage.unchanged = built.reused
            stage.result = _engine_text(built.places, built.manifest)
            # From here on two runs would take each other's proof, repository and server away.
            self._held.enter_context(claimed(built.places.stages))
        with self.stage("verify") as stage:
            self._verify(stage, built.places)
        with self.stage("render") as stage:
            if is_trtllm_serve(built.places, self.recipe.serve):
                stage.skipped, stage.result = True, "trtllm-serve takes the engine's folder as it is"
                return built.places
            path, rendered = fresh_repository(built.places, self.recipe.repository)
            stage.unchanged = not rendered
            stage.result = str(path)
        return built.places

    def _verify(self, stage: Timer, places: Places) -> None:
        if self.recipe.runtime == "pytorch":
            stage.skipped, stage.result = True, "runtime pytorch loads the model as it is: no rank files"
            return
        parity, stage.unchanged = prove.fresh_proof(places, progress=self._progress)
        stage.result = _parity_text(parity)
        if self.recipe.runtime == "tensorrt":
            stage.result += " (the rank files by the reference runtime, not the compiled engines)"
        if not parity.passed:
            raise VerificationFailed("\n  ".join(["verify failed:", *parity.problems]))

    def serve(self, places: Places) -> str:
        """Start the server, or keep one that already serves this very engine there; the URL of its clients.

        Raises:
            TpforgeError: it cannot start.
        """
        with self.stage("serve") as stage:
            url = self._kept_server(places)
            stage.unchanged = url is not None
            if url is None:
                stop_servers(str(places.engine), every=False)
                self._started = places
                url = self._start(places).url
                if (provenance := self._provenance(places)) is not None:
                    keep_stage(places, "serve", provenance)
            stage.result = url if url.startswith("http") else f"gRPC {url}"
        return url

    def _start(self, places: Places) -> Server:
        recipe = self.recipe
        if not is_launched(places, recipe.repository):
            return serve_replicas(
                places, recipe.serve, options=recipe.repository, detach=True, progress=self._progress
            )
        launch = plan_launch(places, recipe.serve, options=recipe.repository, render=True)
        for line in launch.doubts:
            self.say(f"warning: {line}")
        return serve_launch(launch, places, recipe.serve, detach=True, progress=self._progress)

    def smoke(self, url: str, *, junit: Path | None = None) -> None:
        """Run the smoke test.

        Raises:
            VerificationFailed: a check failed.
        """
        from triton_repo.smoke.report import line_of, refuse_failed, summary

        with self.stage("smoke") as stage:
            options = self.recipe.repository
            is_grpc = self.recipe.serve.server == "trtllm-grpc"
            is_triton = not url.startswith("http") and not is_grpc
            if is_triton and isinstance(options, PytorchOptions) and options.front == "llmapi":
                stage.skipped = True
                stage.result = 'its checks need front = "inflight"; the server generated a token'
                return
            asked = SmokeRequest(
                url, api="trtllm-grpc" if is_grpc else "triton" if is_triton else "openai", junit=junit
            )
            report = smoke_server(asked, on_result=lambda check: self._progress(f"smoke: {line_of(check)}"))
            stage.result = summary(report)
            refuse_failed(report)

    def stop_started(self) -> None:
        """Stop the server if this run started it."""
        if self._started is not None:
            self.say("stopping the server")
            places, self._started = self._started, None
            stop_servers(str(places.engine), every=False)

    def use_free_ports(self) -> None:
        """Serve on the recipe's ports if they are free, else on the next free ones."""
        from triton_repo.serve.ports import find_free_base

        asked = self.recipe.serve.port_base
        num_more = 1 if self.recipe.serve.openai else 0
        free, last = find_free_base(start=asked, host=self.recipe.serve.host, num_more=num_more), 2 + num_more
        if free != asked:
            self.say(f"ports {asked} to {asked + last} are not all free; using {free} to {free + last}")
            serve = self.recipe.serve.model_copy(update={"port_base": free})
            self.recipe = self.recipe.model_copy(update={"serve": serve})

    def say(self, text: str) -> None:
        """Tell what is being done."""
        self._progress(text)

    @contextmanager
    def stage(self, name: str) -> Iterator[Timer]:
        """Time a block and tell how it ended."""
        self._progress(f"{name} ...")
        timer, begun = Timer(), time.monotonic()
        error: BaseException | None = None
        try:
            yield timer
        except BaseException as raised:
            error = raised
            raise
        finally:
            self.stages.append(timer.ended(name, seconds=time.monotonic() - begun, error=error))
            self._on_stage(self.stages[-1])

    def _provenance(self, places: Places) -> Provenance | None:
        """What a server is made of: the repository or engine and, for TensorRT-LLM's, how it is launched."""
        if is_trtllm_serve(places, self.recipe.serve):
            engine = engine_input(read_manifest(places.engine), location=str(places.engine))
            return made_of(
                inputs={"engine": engine},
                options=self.recipe.serve.model_dump(mode="json"),
                code=code_key(serve_launch.__module__),
            )
        rendered = rendered_of(places)
        if rendered is None:
            return None
        launched, serve = is_launched(places, self.recipe.repository), self.recipe.serve
        deciding = serve_launch if launched else serve_replicas
        return made_of(
            inputs={"repository": Input(location=str(places.repository), identity=rendered.identity)},
            options=serve.model_dump(mode="json") if launched or serve.openai else {},
            code=code_key(deciding.__module__),
        )

    def _kept_server(self, places: Places) -> str | None:
        """The URL of a server that already serves this repository at the recipe's port."""
        found = servers(str(places.engine))
        if len([status for status in found if status.phase == "ready"]) != self.recipe.serve.replicas:
            return None
        for status in found:
            if status.phase == "ready" and status.server is not None:
                asked = self._provenance(places)
                same = asked is not None and is_unchanged(places, "serve", asked=asked)
                if same and status.server.ports.http == self.recipe.serve.port_base:
                    return status.server.url
        return None


def run_recipe(recipe: Recipe, *, progress: Progress, on_stage: OnStage) -> Run:
    """All stages of a recipe; the server stays.

    Raises:
        TpforgeError: a stage failed; a server that this run started is stopped then.
    """
    with Run(recipe, progress=progress, on_stage=on_stage) as run:
        try:
            url = run.serve(run.engine())
            if recipe.smoke.enabled:
                run.smoke(url, junit=recipe.smoke.junit)
        except BaseException:
            run.stop_started()
            raise
    return run


QUESTION, ANSWER = "What is the capital of France?", "Paris"


def run_demo(recipe: Recipe, *, keep: bool, progress: Progress, on_stage: OnStage) -> Run:
    """All stages on the demo model, then a question, whole and streamed; the server is stopped unless `keep`.

    What is missing on this machine is said before anything is fetched.

    Raises:
        TpforgeError: a stage failed.
        VerificationFailed: the answers differ, or do not hold what they must.
    """
    from triton_repo.openai.install import install
    from triton_repo.serve.tritonserver import find_tritonserver

    require_extra("convert", needed_by="the demo")
    find_tritonserver(recipe.serve.tritonserver)
    with Run(recipe, progress=progress, on_stage=on_stage) as run:
        done = False
        try:
            if recipe.serve.openai:
                with run.stage("openai front") as stage:
                    folder, is_new = install(progress=progress)
                    stage.unchanged, stage.result = not is_new, folder.name
            with run.stage("demo model") as stage:
                path = models.demo_model()
                stage.result = f"{path.name}, {format_bytes(path.stat().st_size)}, SHA-256 as pinned"
            places = run.engine()
            run.use_free_ports()
            url = run.serve(places)
            run.smoke(url)
            _ask(run, places, url)
            if run.recipe.serve.openai:
                _ask_openai(run, places)
            done = True
        finally:
            if not (keep and done):
                run.stop_started()
    return run


def _ask(run: Run, places: Places, url: str) -> None:
    answers = {}
    for name, stream in (("ask", False), ("ask, streamed", True)):
        with run.stage(name) as stage:
            run.say(QUESTION)
            answer = ask(places, url, QUESTION, stream=stream)
            answers[name] = answer.text
            pieces = sum(1 for chunk in answer.chunks if chunk.text)
            stage.result = answer.text.strip() + (f"  ({pieces} pieces)" if stream else "")
            if ANSWER not in answer.text:
                raise VerificationFailed(f"{QUESTION} The answer does not hold {ANSWER}: {answer.text!r}")
    if len(set(answers.values())) != 1:
        raise VerificationFailed(f"the streamed answer differs from the whole one: {answers}")


def _ask_openai(run: Run, places: Places) -> None:
    with run.stage("ask, OpenAI") as stage:
        address = next(
            status.server.addresses["openai"] for status in servers(str(places.engine)) if status.server
        )
        run.say(f"{QUESTION} by OpenAI's client, at {address}")
        answer, pieces = ask_openai(places, address, QUESTION)
        stage.result = f"{answer.strip()}  (streamed: {len(pieces)} pieces)"
        if ANSWER not in answer or "".join(pieces) != answer:
            raise VerificationFailed(f"{QUESTION} Over OpenAI's API: {answer!r}, streamed {pieces}")


def _engine_text(places: Places, manifest: Manifest) -> str:
    size = format_bytes(sum(file.size for file in manifest.files))
    return f"{places.engine}: tp={manifest.mapping.tp_size} pp={manifest.mapping.pp_size}, {size}"


def _parity_text(parity: Parity) -> str:
    equal = parity.num_tensors - parity.num_unequal_tensors
    return (
        f"{equal}/{parity.num_tensors} tensors equal, largest logit error {parity.max_abs_logit_error:.1e}, "
        f"{parity.num_greedy_equal}/{parity.num_greedy_tokens} greedy tokens equal"
    )


def stage_rows(stages: list[Stage]) -> list[tuple[str, str, str]]:
    """The stages as rows of a table: name, time, result."""
    rows = []
    for stage in stages:
        said = "" if stage.outcome == "done" else stage.outcome
        result = ": ".join(text for text in (said, stage.result) if text)
        rows.append((stage.name, format_seconds(stage.seconds), result))
    total = sum(stage.seconds for stage in stages)
    return [*rows, ("total", format_seconds(total), "")]
