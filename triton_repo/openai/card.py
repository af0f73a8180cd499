"""What Dynamo's front reads a model from: the engine's tokenizer, and a config.json with its limits.

No weights. It is made anew for every start, in the user's own folder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tpforge.errors import InputRefused
from tpforge.manifest import Manifest
from tpforge.system.linking import link_or_copy

_NEEDED = "tokenizer.json"
_TEMPLATE_FILE = "chat_template.jinja"


def write_card(engine: Path, manifest: Manifest, *, out: Path) -> Path:
    """Write the folder; what was there is removed.

    Raises:
        InputRefused: the engine has no tokenizer.json, from which alone the front tokenizes.
    """
    tokenizer = engine / "tokenizer"
    if not (tokenizer / _NEEDED).is_file():
        raise InputRefused(
            f"{tokenizer / _NEEDED}: no such file; Dynamo's front needs it: serve without --openai"
        )
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for path in sorted(tokenizer.iterdir()):
        if path.is_file():
            link_or_copy(path.resolve(), out / path.name)
    for name, value in (
        ("config.json", _config(manifest)),
        ("generation_config.json", _generation(manifest)),
    ):
        (out / name).unlink(missing_ok=True)
        (out / name).write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return out


def has_chat_template(card: Path) -> bool:
    """Whether chat messages can be rendered."""
    if (card / _TEMPLATE_FILE).is_file():
        return True
    file = card / "tokenizer_config.json"
    if not file.is_file():
        return False
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputRefused(f"{file}: is no JSON: {error}") from error
    return isinstance(found, dict) and bool(found.get("chat_template"))


def _config(manifest: Manifest) -> dict[str, Any]:
    """The model's kind, its end tokens, and the length of a sequence, which is the engine's."""
    model = manifest.model
    return {
        "architectures": [model.architecture],
        "model_type": model.architecture.removesuffix("ForCausalLM").lower(),
        "max_position_embeddings": manifest.limits.max_seq_len,
        "num_hidden_layers": model.num_layers,
        "vocab_size": model.vocab_size,
        **_generation(manifest),
    }


def _generation(manifest: Manifest) -> dict[str, Any]:
    """No temperature and the like: a request that names none has OpenAI's defaults, of whatever model."""
    ends = list(manifest.model.special_tokens.end_ids)
    found: dict[str, Any] = {"eos_token_id": ends[0] if len(ends) == 1 else ends} if ends else {}
    pad = manifest.model.special_tokens.pad_id
    return found if pad is None else {**found, "pad_token_id": pad}
