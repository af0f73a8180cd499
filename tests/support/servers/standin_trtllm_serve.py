"""A stand-in for the program trtllm-serve: it takes upstream's words and generates by the reference runtime.

It refuses what upstream's refuses: unknown options, a folder that holds no model, a YAML with keys that the
release's table does not know. It is no TensorRT-LLM. Every start is written into a file.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
_PROGRAM = """#!{python}
import sys
sys.path.insert(0, {root!r})
from tests.support.servers.standin_trtllm_serve import start
start(sys.argv[1:], engine={engine!r}, calls={calls!r}, version={version!r}, answers_after={answers_after!r})
"""
_OPTIONS = ("--host", "--port", "--extra_llm_api_options", "--config", "--served_model_name")


def write_trtllm_serve(folder: Path, *, engine: Path, version: str, answers_after: int = 0) -> Path:
    """Write an executable trtllm-serve into `folder`/bin; the file that gets the words of every start.

    Its answers are those of `engine`, of runtime reference; the first `answers_after` of a process fail.
    """
    path, calls = folder / "bin" / "trtllm-serve", folder / "serve-calls.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        _PROGRAM.format(
            python=sys.executable,
            root=str(ROOT),
            engine=str(engine),
            calls=str(calls),
            version=version,
            answers_after=answers_after,
        )
    )
    path.chmod(0o755)
    return calls


def start(words: list[str], *, engine: str, calls: str, version: str, answers_after: int) -> None:
    import asyncio

    from tests.support.servers.scripted_openai import HttpScript, serve

    with Path(calls).open("a") as file:
        file.write(json.dumps(words) + "\n")
    if not words or words.pop(0) != "serve":
        sys.exit("Error: No such command")
    model, *rest = words
    is_grpc = "--grpc" in rest
    rest = [word for word in rest if word != "--grpc"]
    given = dict(zip(rest[::2], rest[1::2], strict=True))
    if unknown := sorted(given.keys() - set(_OPTIONS)):
        sys.exit(f"Error: No such option: {', '.join(unknown)}")
    if not (Path(model) / "config.json").is_file():
        sys.exit(f"OSError: {model} does not appear to have a file named config.json")
    _check_yaml(Path(given.get("--config") or given["--extra_llm_api_options"]), version=version)
    if is_grpc:
        from tests.support.servers import standin_smg

        asyncio.run(standin_smg.serve(Path(engine), host=given["--host"], port=int(given["--port"])))
        return
    name = given.get("--served_model_name", Path(model).name)
    script = HttpScript(
        host=given["--host"],
        port=int(given["--port"]),
        engine=engine,
        model=name,
        answers_after=answers_after,
        version=version,
    )
    asyncio.run(serve(script))


def _check_yaml(path: Path, *, version: str) -> None:
    import yaml

    from builders.llm_api.given import flatten
    from tpforge.trtllm.argument_tables import llm_arguments
    from tpforge.trtllm.versions import find_release

    known = {one.name for one in llm_arguments(find_release(version))}
    unknown = sorted(flatten(yaml.safe_load(path.read_text()), known=known).keys() - known)
    if unknown:
        sys.exit(f"pydantic_core.ValidationError: {unknown}: Extra inputs are not permitted")
