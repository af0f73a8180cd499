"""Engines that are only files, for tests of keeping and moving them.

Nothing in them can be run.
"""

from pathlib import Path

from engines import store
from tests.support.records import manifest_of
from tpforge.outputs.atomic import hash_file
from tpforge.outputs.written import RECORD_NAME

BIG = (bytes(index * 7 % 251 for index in range(251)) * 12_000)[:3_000_000]


def write_engine(folder: Path, **fields: object) -> Path:
    """A folder with two files and the manifest that lists them."""
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "checkpoint" / "config.json").write_text("{}")
    (folder / "checkpoint" / "rank0.safetensors").write_bytes(bytes(range(256)))
    files = tuple(
        hash_file(folder / "checkpoint" / name, relative_to=folder)
        for name in ("config.json", "rank0.safetensors")
    )
    store.write_manifest(folder, manifest_of(files=files, **fields))
    return folder


def add_file(engine: Path, name: str, data: bytes) -> None:
    """Write a file of an engine, and list it in engine.json."""
    (engine / name).parent.mkdir(parents=True, exist_ok=True)
    (engine / name).write_bytes(data)
    manifest = store.read_manifest(engine)
    others = [record for record in manifest.files if record.path != name]
    files = (*others, hash_file(engine / name, relative_to=engine))
    store.write_manifest(engine, manifest.model_copy(update={"files": files}))


def contents(folder: Path) -> dict[str, bytes]:
    """What push sends and pull brings: all but the record of what lies in a folder of this machine."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != RECORD_NAME
    }


def quiet(_message: str) -> None:
    """Progress that nobody reads."""
