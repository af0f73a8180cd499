"""When the repository beside an engine is kept, and when it is rendered again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts.flows.render import fresh_repository
from tests.support.tiny_engine import write_tiny_engine
from tpforge.outputs.places import Places
from tpforge.repository_options import ReferenceOptions


@pytest.fixture
def places(tmp_path: Path) -> Places:
    engine, _, _ = write_tiny_engine(tmp_path, tp_size=2)
    return Places(engine)


def test_an_unchanged_repository_is_kept_with_the_options_it_was_rendered_with(places: Places) -> None:
    _, rendered = fresh_repository(places, ReferenceOptions(executor="processes"))
    again, rendered_again = fresh_repository(places)
    assert (rendered, rendered_again) == (True, False)
    assert 'string_value: "processes"' in (again / "tensorrt_llm" / "config.pbtxt").read_text()


def test_other_options_render_it_again(places: Places) -> None:
    fresh_repository(places)
    _, rendered = fresh_repository(places, ReferenceOptions(executor="processes"))
    assert rendered


def test_options_that_another_version_kept_are_out_of_date_rather_than_an_error(places: Places) -> None:
    fresh_repository(places, ReferenceOptions(executor="processes"))
    stages = json.loads(places.stages.read_text())
    stages["render"]["options"]["of_another_version"] = 1
    places.stages.write_text(json.dumps(stages))
    path, rendered = fresh_repository(places)
    assert rendered
    assert 'string_value: "auto"' in (path / "tensorrt_llm" / "config.pbtxt").read_text()
