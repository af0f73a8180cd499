"""Reads command lines by the parsers of Dynamo's own programs, in Dynamo's environment.

It runs no program: a list of [module, arguments] comes by stdin as JSON, what each parser made of it goes to
stdout. TensorRT-LLM and Triton's bindings are not there, and stand-ins take their place: of the first only
the defaults of four numbers are wanted, of the second the names of two kinds.
"""

import json
import sys
import types


def stand_in() -> None:
    """Put the two packages in place that the parsers import and this environment lacks."""
    field = types.SimpleNamespace(default=1)
    names = ("max_batch_size", "max_num_tokens", "max_seq_len", "max_beam_width")
    held: dict[str, dict[str, object]] = {
        "tensorrt_llm": {},
        "tensorrt_llm.llmapi": {
            "BuildConfig": types.SimpleNamespace(model_fields=dict.fromkeys(names, field)),
        },
        "tritonserver": {
            name: type(name, (), {"__members__": {}}) for name in ("LogFormat", "RateLimitMode")
        },
    }
    for name, attributes in held.items():
        module = types.ModuleType(name)
        module.__dict__.update(attributes)
        sys.modules[name] = module


def parsed(module: str, arguments: list[str]) -> dict[str, object]:
    """The options that a program would run with.

    Raises:
        SystemExit: it takes no such option.
    """
    if module == "dynamo.frontend":
        from dynamo.frontend.main import parse_args
    elif module == "dynamo.trtllm":
        from dynamo.trtllm.args import parse_args
    else:
        from dynamo.triton.backend_args import parse_args
    sys.argv = [module, *arguments]
    found = parse_args() if module != "dynamo.trtllm" else parse_args(arguments)
    config = found[0] if isinstance(found, tuple) else found
    return {name: value for name, value in vars(config).items() if isinstance(value, str | int | bool | None)}


if __name__ == "__main__":
    stand_in()
    json.dump([parsed(module, arguments) for module, arguments in json.load(sys.stdin)], sys.stdout)
