"""The engine folder of runtime pytorch, planned and written: the model as it is, llm.yaml, the tokenizer.

TensorRT-LLM's LLM API loads the Hugging Face checkpoint itself, so nothing is converted; a checkpoint whose
heads or MLP tp_size does not divide is written anew, padded with zeros. It does not make the folder atomic.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from builders.declared_bytes import formats_in
from builders.described import declared_notes, description
from builders.llm_api.arguments import LlmPlan, LlmTarget, plan_llm
from builders.llm_api.autodeploy import AUTODEPLOY
from builders.llm_api.formats import LoadedFormat, require_format, require_loadable
from builders.llm_api.given import flatten, unchecked_word
from builders.llm_api.model import LlmModel, open_llm_model
from builders.llm_api.padded_model import DIVIDED_MLP, kept_files, padding_notes, refuse_padding, write_padded
from builders.older_spelling import needs_older_spelling, respell, respelling_notes
from builders.sources.json_files import read_json_object
from builders.sources.models import demo_model
from builders.sources.tokenizer_files import copy_tokenizer
from tpforge import __version__
from tpforge.architectures.declared import Declared
from tpforge.architectures.division import require_division
from tpforge.architectures.weights import unpadded
from tpforge.errors import InputRefused, PlanError
from tpforge.manifest import Limits, LlmApi, Manifest, SourceRecord
from tpforge.model import ModelSpec
from tpforge.outputs.atomic import hash_file
from tpforge.outputs.deciding_code import code_key
from tpforge.outputs.places import engine_name, places_of
from tpforge.progress import Progress
from tpforge.recipe import EngineRecipe
from tpforge.shards.mapping import Mapping
from tpforge.shards.padding import Padding, plan_padding
from tpforge.system.linking import link_or_copy
from tpforge.trtllm.architectures import llm_backend
from tpforge.trtllm.build_command import command_words
from tpforge.trtllm.typed_values import Value, write_value
from tpforge.trtllm.versions import Release, release_for
from tpforge.yaml_text import to_yaml

YAML = "llm.yaml"
MODEL = "model"


@dataclass(frozen=True)
class LlmEngine:
    """What an engine folder of runtime pytorch would hold; `model.files` are those that go in as they are."""

    name: str
    out: Path
    release: Release
    model: LlmModel
    mapping: Mapping
    padding: Padding
    limits: Limits
    sm: int | None
    plan: LlmPlan
    quantization: LoadedFormat

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know once it is built."""
        padded = padding_notes(self.model.spec, self.padding)
        return (*self.quantization.notes, *_declared_notes(self.model), *padded)

    @property
    def num_ranks(self) -> int:
        """Ranks of one instance: tp x pp, and context parallelism, which the LLM API multiplies in."""
        return self.mapping.world_size * self.plan.context_parallel_size

    @property
    def yaml(self) -> str:
        """The text of llm.yaml."""
        comment = f"The LLM API of TensorRT-LLM {self.release.trtllm}; {self.name} is in {MODEL}/."
        return to_yaml(self.plan.nested, comment=comment)


def plan_llm_engine(recipe: EngineRecipe, *, out: Path | None, sm: int | None) -> LlmEngine:
    """What `write_llm_engine` would write for `recipe`, for GPUs of compute capability `sm`.

    Raises:
        TpforgeError: whatever the LLM API would refuse, as far as it can be known without a GPU.
    """
    release = release_for(recipe.trtllm, runtime="pytorch")
    location = str(demo_model()) if recipe.model == "demo" else recipe.model
    model = open_llm_model(location, release=release, describe=recipe.pytorch.describe)
    quantization = _loaded_format(model, where=recipe.model, release=release, sm=sm)
    mapping = Mapping(tp_size=recipe.tp, pp_size=recipe.pp, moe_ep_size=recipe.moe_ep)
    limits = recipe.limits.resolve(model.spec)
    plan = plan_llm(
        LlmTarget(
            release,
            mapping,
            limits,
            sm=sm,
            has_latent=model.spec.attention.latent is not None,
            backend=llm_backend(model.spec.architecture),
        ),
        given=recipe.pytorch.llm_args,
        unchecked=recipe.pytorch.llm_args_unchecked,
    )
    padding = _padding(recipe, model, mapping, has_attention_dp=plan.has_attention_dp)
    if padding.notes:
        model = replace(model, files=kept_files(model))
    plan = replace(
        plan, warnings=(*_declared_notes(model), *padding_notes(model.spec, padding), *plan.warnings)
    )
    located = model.located
    name = recipe.name or engine_name(
        located.location if located.kind == "hub" else str(located.path),
        mapping=mapping,
        runtime="pytorch",
    )
    return LlmEngine(
        name=name,
        out=out or places_of(name).engine,
        release=release,
        model=model,
        mapping=mapping,
        padding=padding,
        limits=limits,
        sm=sm,
        plan=plan,
        quantization=quantization,
    )


def _loaded_format(model: LlmModel, *, where: str, release: Release, sm: int | None) -> LoadedFormat:
    """How the LLM API will take the weights; of a model by the table of architectures, matrix by matrix."""
    architecture = model.spec.architecture
    if model.declared is None:
        return require_loadable(
            model.quantization, where=where, trtllm=release.trtllm, sm=sm, architecture=architecture
        )
    folder = model.located.path
    config = read_json_object(folder / "config.json")
    stored = formats_in(model.declared, config, folder=folder, where=where)
    if stored is None:
        return LoadedFormat(None)
    return require_format(
        stored.main,
        kv_cache=None,
        title=stored.title,
        where=where,
        trtllm=release.trtllm,
        sm=sm,
        architecture=architecture,
    )


def _declared_notes(model: LlmModel) -> tuple[str, ...]:
    if not model.is_declared:
        return ()
    if model.declared is not None:
        return declared_notes(model.declared, None)
    return (
        f"{model.spec.architecture}: no family of ours reads it; its sizes are those that config.json "
        "declares, its tensors were not looked at, and the repository takes text alone",
    )


def _padding(recipe: EngineRecipe, model: LlmModel, mapping: Mapping, *, has_attention_dp: bool) -> Padding:
    """How the checkpoint is padded.

    Raises:
        InputRefused: another checkpoint would be needed than the one that is there, or that one padded.
    """
    spec = model.spec
    problems = []
    if recipe.quantize is not None:
        problems.append(
            f"--quantize {recipe.quantize}: the LLM API loads a quantized Hugging Face checkpoint; make one "
            "with `tpforge quantize`, and build that"
        )
    if recipe.dtype is not None and recipe.dtype != spec.dtype:
        problems.append(f"--dtype {recipe.dtype}: nothing is converted; give --llm-arg dtype={recipe.dtype}")
    padding, problem = _planned_padding(recipe, model, mapping, has_attention_dp=has_attention_dp)
    problems += [problem] if problem else []
    if recipe.kv_cache is not None:
        problems.append(
            f"--kv-cache {recipe.kv_cache}: the LLM API quantizes its cache itself; give --llm-arg "
            "kv_cache_config.dtype=fp8 (it has no INT8 cache)"
        )
    if problems or padding is None:
        raise InputRefused.listing(f"{recipe.model}: not for runtime pytorch:", problems)
    return padding


def _planned_padding(
    recipe: EngineRecipe, model: LlmModel, mapping: Mapping, *, has_attention_dp: bool
) -> tuple[Padding | None, str | None]:
    """The padding, and what is wrong with it."""
    spec = model.spec
    if has_attention_dp and mapping.tp_size > 1 and spec.architecture in DIVIDED_MLP:
        return None, (
            f"enable_attention_dp: TensorRT-LLM {recipe.trtllm} divides the MLP of {spec.architecture} over "
            "the ranks all the same, though each has tokens of its own, a wrong answer; leave it out"
        )
    if model.declared is not None:
        return _undivided(model.declared, mapping, has_attention_dp=has_attention_dp, spec=spec)
    try:
        padding = plan_padding(
            spec,
            tp_size=mapping.tp_size,
            moe_ep_size=mapping.moe_ep_size,
            dense_tp_size=1 if has_attention_dp else None,
            allow=recipe.pad and llm_backend(spec.architecture) != AUTODEPLOY,
        )
    except PlanError as error:
        return None, str(error)
    return padding, refuse_padding(model, mapping, padding)


def _undivided(
    declared: Declared, mapping: Mapping, *, has_attention_dp: bool, spec: ModelSpec
) -> tuple[Padding | None, str | None]:
    """No padding: a model by the table of architectures divides as it is, or not at all."""
    try:
        if not has_attention_dp:
            require_division(declared, tp_size=mapping.tp_size, moe_ep_size=mapping.moe_ep_size)
    except PlanError as error:
        return None, str(error)
    return unpadded(spec), None


def plan_manifest(recipe: EngineRecipe, engine: LlmEngine) -> Manifest:
    """engine.json as far as it is known before the engine is there: all but its files."""
    model, root = engine.model, engine.model.located.path
    return Manifest(
        name=engine.name,
        tpforge_version=__version__,
        code=code_key(__name__),
        runtime="pytorch",
        runtime_because=recipe.runtime_because,
        source=SourceRecord(
            kind=model.located.kind,
            location=recipe.model if model.located.kind == "hub" else str(root.resolve()),
            revision=model.revision,
            license=model.license,
            files=tuple(hash_file(path, relative_to=root) for path in model.inputs),
        ),
        model=model.spec,
        mapping=engine.mapping,
        padding=engine.padding,
        dtype=model.spec.dtype,
        limits=engine.limits,
        files=(),
        command=_command(recipe, engine),
        llm_api=LlmApi(
            trtllm=engine.release.trtllm,
            arguments=engine.plan.arguments,
            quant_algo=engine.quantization.algo,
            sm=engine.sm,
            respelled=_respelled(engine),
            unchecked=engine.plan.unchecked,
            checked_by=engine.plan.checked_by,
            described=description(recipe.pytorch.describe) if recipe.pytorch.describe else {},
        ),
    )


def write_llm_engine(
    recipe: EngineRecipe, engine: LlmEngine, *, folder: Path, progress: Progress
) -> Manifest:
    """Write the model linked, copied or padded, llm.yaml and the tokenizer into `folder`; its engine.json."""
    place = link_or_copy if recipe.pytorch.link_model else shutil.copyfile
    root = engine.model.located.path
    (folder / MODEL).mkdir()
    for path in engine.model.files:
        target = folder / MODEL / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        place(path.resolve(), target)
    if engine.padding.notes:
        progress("padding the weights")
        write_padded(root, folder / MODEL, padding=engine.padding)
    (folder / "tokenizer").mkdir()
    copy_tokenizer(root, folder / "tokenizer")
    for line in _respelled(engine):
        progress(f"{MODEL}/{line}")
    if needs_older_spelling(engine.release.transformers):
        respell(folder / MODEL)
        respell(folder / "tokenizer")
    (folder / YAML).write_text(engine.yaml, encoding="utf-8")
    progress("hashing")
    kept = sorted(path for path in folder.rglob("*") if path.is_file())
    files = tuple(hash_file(path, relative_to=folder) for path in kept)
    return plan_manifest(recipe, engine).model_copy(update={"files": files})


def _respelled(engine: LlmEngine) -> tuple[str, ...]:
    """What the folder's copy says in the spelling of an older transformers."""
    if not needs_older_spelling(engine.release.transformers):
        return ()
    return respelling_notes(engine.model.located.path)


def _command(recipe: EngineRecipe, engine: LlmEngine) -> tuple[str, ...]:
    """The command line that makes the same engine, with every default spelled out."""
    words = command_words(recipe, limits=engine.limits, dtype=engine.model.spec.dtype)
    return (*words, *_own_words(recipe))


def _own_words(recipe: EngineRecipe) -> tuple[str, ...]:
    words = ["--trtllm", recipe.trtllm]
    words += ["--sm", str(recipe.sm)] if recipe.sm else []
    words += ["--describe", str(recipe.pytorch.describe)] if recipe.pytorch.describe else []
    for name, value in flatten(recipe.pytorch.llm_args, known=()).items():
        words += ["--llm-arg", f"{name}={_one_word(value)}"]
    for name, value in flatten(recipe.pytorch.llm_args_unchecked, known=()).items():
        words += ["--llm-arg-unchecked", f"{name}={unchecked_word(value)}"]
    return tuple(words)


def _one_word(value: Value) -> str:
    """A value as `--llm-arg` reads it: lists of plain values by commas, others as JSON."""
    plain = isinstance(value, list) and not any(isinstance(one, dict | list) for one in value)
    return ",".join(map(write_value, value)) if plain else write_value(value)
