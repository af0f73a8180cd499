"""Whether the library that will use a tokenizer can load it: asked before a model is converted for it.

It keeps nothing of what was loaded. The judges are the libraries themselves, tokenizers and sentencepiece.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from builders.sources.json_files import read_json_object
from tpforge.errors import InputRefused

_PROBE = "The capital of France is"
_RUNS = (chr(code) for code in range(0x20, 0x7F))
_PROBES = (
    _PROBE,
    "Sch\u00f6n \u6f22\u5b57 \U0001f600\n\t 3.14",
    *(character * 40 + end for character in _RUNS for end in "!a"),
)
"""A long run and what does not fit to it: on such texts a pattern that backtracks gives up."""
_PANIC = "PanicException"
"""What tokenizers raises where its own code gives up; it is no Exception."""


def loading_problem(folder: Path) -> str | None:
    """Why the tokenizer of a directory cannot be used; None when it can, and when there is none."""
    for names, load in (
        (("tokenizer.json",), _load_whole),
        (("tokenizer.model",), _load_sentencepiece),
        (("vocab.json", "merges.txt"), _load_pairs),
    ):
        if all((folder / name).is_file() for name in names):
            reason = _refusal(load, [str(folder / name) for name in names])
            if reason is None:
                return None
            return (
                f"{folder / names[0]}: {' with '.join(names)} is no tokenizer that can be loaded ({reason}); "
                "take the file from where the model was published, or save it again with transformers"
            )
    return None


def is_of_a_library(error: BaseException) -> bool:
    """Whether an error is what a library says: tokenizers raises Exception itself, and panics with less."""
    return isinstance(error, Exception) or type(error).__name__ == _PANIC


def _refusal(load: Callable[..., object], paths: Sequence[str]) -> str | None:
    """What a library says against its files, in one line."""
    try:
        load(*paths)
    except BaseException as error:
        if not is_of_a_library(error):
            raise
        first = (str(error).strip().splitlines() or ["no reason given"])[0]
        return f"{type(error).__name__}: {first[:200]}"
    return None


def _load_whole(path: str) -> object:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(path).encode_batch(list(_PROBES))


def _load_sentencepiece(path: str) -> object:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=path).encode(_PROBE)


def _load_pairs(vocabulary: str, merges: str) -> object:
    from tokenizers.models import BPE

    counts = Counter(str(number) for number in read_json_object(Path(vocabulary)).values())
    if twice := [number for number, count in counts.items() if count > 1]:
        # The library keeps either of them, by chance, when it writes tokenizer.json.
        raise InputRefused(f"several tokens have the id {twice[0]}")
    return BPE.from_file(vocabulary, merges)
