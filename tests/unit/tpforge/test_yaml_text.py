"""Every YAML that we write is read back equal, by PyYAML's own loader."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tpforge.yaml_text import to_documents, to_yaml

# A lone surrogate is no text.
TEXTS = st.text(alphabet=st.characters(blacklist_categories=("Cs",)), max_size=30)
TRAPS = st.sampled_from(
    [
        "1e-05", "1e5", "/models/a #b", "a: b", "- a", "yes", "y", "null", "~", "", " a ", "0o17", "0x1f",
        "012", "1_0", "12:30:45", "2020-01-01", "1234e56", "#", "{a", "[b", "!c", "&d", "*e", "a\n",
        "\n a\nb ", "a\n\n", "=", "<<", "%", "@x", "`x", "'", '"', "\\", "\t", "\x85", "\u2028", "\ufeff",
        "é\U0001f600", ".inf", "---\n", "...",
    ]
)  # fmt: skip
SCALARS = st.one_of(
    TEXTS, TRAPS, st.booleans(), st.none(), st.integers(), st.floats(allow_nan=False), st.just(1e-5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS | TRAPS, inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(TEXTS | TRAPS, VALUES, max_size=4), TEXTS)
@example({"eps": 1e-05, "big": 1e20, "path": "/models/a #b", "many": "word " * 60}, "two\nlines")
@example({"a" * 200: {"long\nkey": ["x" * 300, {}]}}, "")
def test_every_document_is_read_back_equal(value: dict[str, Any], comment: str) -> None:
    found = yaml.safe_load(to_yaml(value, comment=comment))
    assert found == value
    assert list(found) == list(value), "keys stay in our order"
    assert list(yaml.safe_load_all(to_documents([value, value], comment=comment))) == [value, value]


@pytest.mark.parametrize("text", ["1e5", "1234e56", "-1E+7", "0o17", "1_000", ".5e3", "y", "N", "0b1_1"])
def test_a_text_that_other_readers_take_for_a_number_is_quoted(text: str) -> None:
    assert to_yaml({"revision": text}) == f"revision: '{text}'\n"


def test_texts_and_numbers_that_nobody_confuses_stay_plain() -> None:
    values = {"image": "triton:24.08-py3", "memory": "64Gi", "cpu": "500m", "eps": 1e-05, "sizes": [1, 2]}
    assert to_yaml(values) == (
        "image: triton:24.08-py3\nmemory: 64Gi\ncpu: 500m\neps: 1.0e-05\nsizes:\n  - 1\n  - 2\n"
    )


def test_long_texts_are_blocks_and_equal_values_are_repeated() -> None:
    script = "set -e\n\necho hi\n"
    same = ["a"]
    assert to_yaml({"script": script, "x": same, "y": same}) == (
        "script: |\n  set -e\n\n  echo hi\nx:\n  - a\n'y':\n  - a\n"
    )
