"""Directories that are no Hugging Face checkpoint but are often taken for one, named as what they are.

It opens small JSON files only, and reads no weights.
"""

from __future__ import annotations

from pathlib import Path

from builders.sources.json_files import read_json_object, shown
from tpforge.errors import InputRefused
from tpforge.outputs.recognized import instead

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


def other_layout(folder: Path) -> str | None:
    """What the folder is instead, and what to do; None when nothing is known of it."""
    return _adapter(folder) or _mistral(folder)


def no_checkpoint(folder: Path) -> str:
    """Why the folder is no Hugging Face checkpoint: what it is instead, where that is seen."""
    return (
        other_layout(folder)
        or f"{folder}:{instead(folder) or ' found no config.json;'} expected a Hugging Face directory with "
        "config.json, *.safetensors and a tokenizer"
    )


def is_converted(folder: Path) -> bool:
    """Whether it holds ranks, as `convert` and trtllm-build write them; their config.json is another one."""
    return any((folder / name).is_file() for name in ("rank0.safetensors", "rank0.engine"))


def _adapter(folder: Path) -> str | None:
    if not any((folder / name).is_file() for name in _ADAPTER_FILES):
        return None
    return (
        f"{folder}: is a LoRA adapter (PEFT) of {_base(folder)}, not a model; merge it into the model and "
        "give that: PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)"
    )


def _base(folder: Path) -> str:
    try:
        values = read_json_object(folder / "adapter_config.json")
    except InputRefused:
        return "an unnamed model"
    base = values.get("base_model_name_or_path")
    return shown(base) if isinstance(base, str) and base else "an unnamed model"


def _mistral(folder: Path) -> str | None:
    parts = sorted(path.name for path in folder.glob("consolidated*.safetensors"))
    parts += [name for name in ("params.json",) if (folder / name).is_file()]
    if not parts:
        return None
    return (
        f"{folder}: is in Mistral's own layout ({', '.join(parts[:3])}), whose tensors have other names and "
        "another order of rows; give the same model in Hugging Face's layout (model*.safetensors with "
        "config.json), which its page on the hub has too, or convert it with transformers' "
        "convert_mistral_weights_to_hf.py"
    )
