"""What is put where something else belongs: values of JSON that no file should hold, and bytes.

It knows no file; the tests beside it say what is read.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

SIZES = st.sampled_from([0, 1, 2, 3, 7, 64, 1 << 31, (1 << 63) - 1, 1 << 64, 10**400, -1])
ODD = st.sampled_from([None, True, False, 0.0, -1.5, 1e308, float("nan"), float("inf"), "", "gelu", [], {}])
JSON = st.recursive(
    SIZES | ODD | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
CHANGES = st.lists(st.tuples(st.integers(0, 10**6), JSON | st.just(...)), min_size=1, max_size=3)


def fuzz(examples: int) -> settings:
    """Settings for a test of `examples` in the profile of CI, and as many more in `make fuzz`."""
    return settings(
        max_examples=max(1, examples * settings().max_examples // 100),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        database=None,
    )


def put(path: Path, content: str | bytes) -> None:
    """Write a file that may be there already.

    It is removed first: one that is cut and written again is sent to the disk when it is closed (ext4's
    auto_da_alloc), and the next cut waits for that.
    """
    path.unlink(missing_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def paths(value: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a JSON value something lies."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [one for key, held in inner for one in ((*prefix, key), *paths(held, (*prefix, key)))]


def mutated(value: dict[str, Any], changes: list[tuple[int, Any]]) -> dict[str, Any]:
    """A copy with a place replaced for each change, or removed where the change says `...`."""
    result = copy.deepcopy(value)
    for place, new in changes:
        known = paths(result)
        if not known:
            break
        *outer, last = known[place % len(known)]
        holder = result
        for key in outer:
            holder = holder[key]
        if new is ...:
            del holder[last]
        else:
            holder[last] = new
    return result
