"""Where things lie: names of engines, folders under out/, the cache of the demo model.

It makes no folder and reads no weights.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from tpforge.errors import UsageError
from tpforge.settings import chosen
from tpforge.shards.mapping import Mapping

OUT = Path(chosen("out").value or "out")
"""Outputs of the commands, under the current directory unless a person set another folder."""

ROUTER_FOLDER = OUT / "router"
"""Log of the router of `tpforge promote`, and the name under which its state is kept in `state_home`."""

DEMO_MODEL = "demo"
"""The word that stands for the demo model wherever a MODEL is asked for."""


@dataclass(frozen=True)
class Places:
    """The folders of one engine: itself, its Triton repository, the logs of its server."""

    engine: Path

    @property
    def repository(self) -> Path:
        """The Triton model repository."""
        return self._sibling("repository")

    @property
    def server(self) -> Path:
        """Logs of the server, and the name under which its state is kept in `state_home`."""
        return self._sibling("server")

    def replica(self, number: int) -> Path:
        """`server` of the first server of this engine; each further one has its number."""
        return self.server if number == 1 else self._sibling(f"server-{number}")

    @property
    def stages(self) -> Path:
        """What `tpforge up` did last."""
        return self._sibling("stages.json")

    @property
    def runs(self) -> Path:
        """The measurements of `tpforge bench`, a folder each."""
        return self._sibling("runs")

    def _sibling(self, name: str) -> Path:
        """out/NAME/engine has plain siblings; another folder's carry its name, so as not to litter."""
        if self.engine.name == "engine":
            return self.engine.parent / name
        return self.engine.parent / f"{self.engine.name}-{name}"


_RUNTIME_ENDING = {"reference": "", "tensorrt": "-trt", "pytorch": "-pytorch"}


def engine_name(model: str, *, mapping: Mapping, runtime: str = "reference") -> str:
    """``NAME-tp4`` of a directory, hub id or .gguf file called NAME; ``NAME-tp4-pp2-ep2`` when so divided.

    Engines of TensorRT-LLM end with ``-trt`` or ``-pytorch``, so that those of one model lie side by side.
    """
    bare = model.rsplit("@", 1)[0] if not Path(model).exists() else model
    path = Path(bare).resolve() if Path(bare).exists() else Path(bare)
    stem = path.name.removesuffix(".gguf")
    staged = f"-pp{mapping.pp_size}" if mapping.pp_size > 1 else ""
    experts = f"-ep{mapping.moe_ep_size}" if mapping.moe_ep_size > 1 else ""
    return f"{stem}-tp{mapping.tp_size}{staged}{experts}{_RUNTIME_ENDING[runtime]}"


def places_of(name: str, *, root: Path = OUT) -> Places:
    """The folders of the engine `name` under out/."""
    return Places(root / name / "engine")


def find_engine(given: str | None, *, root: Path = OUT) -> Places:
    """The engine that the user means: a folder, a name under out/, or, when not given, the newest there.

    Raises:
        UsageError: there is no such engine, or none at all.
    """
    if given is None:
        newest = newest_engine(root)
        if newest is None:
            raise UsageError(f"no engine under {root}/; make one with: tpforge build MODEL --tp N")
        return newest
    candidates = [Path(given), Path(given) / "engine", root / given / "engine"]
    for candidate in candidates:
        if (candidate / "engine.json").is_file():
            return Places(candidate)
    return Places(Path(given))


def known_names(root: Path = OUT) -> tuple[str, ...]:
    """The names of the engines under out/."""
    return tuple(sorted(path.parent.parent.name for path in root.glob("*/engine/engine.json")))


def newest_engine(root: Path = OUT) -> Places | None:
    """The engine under out/ whose manifest was written last."""
    manifests = sorted(root.glob("*/engine/engine.json"), key=lambda path: path.stat().st_mtime)
    return Places(manifests[-1].parent) if manifests else None


def state_home() -> Path:
    """Where the state of what runs is kept by the XDG base directories: never beside outputs."""
    given = os.environ.get("XDG_STATE_HOME", "")
    root = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "state"
    return root / "tpforge"


def data_home() -> Path:
    """Where what was learned is kept by the XDG base directories, for every project of the user."""
    given = os.environ.get("XDG_DATA_HOME", "")
    root = Path(given) if Path(given).is_absolute() else Path.home() / ".local" / "share"
    return root / "tpforge"


def cache_dir() -> Path:
    """Where the demo model is kept between runs."""
    return Path.home() / ".cache" / "tpforge"
