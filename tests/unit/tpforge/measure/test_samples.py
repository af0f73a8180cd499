"""A run and its samples on disk: what is written is read back, what is wrong is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from tests.support.measured import RUN, SAMPLES
from tpforge.errors import InputRefused
from tpforge.measure.runs.run import (
    ENGINE_FIELDS,
    Fact,
    Run,
    read_run,
    read_samples,
    unavailable_facts,
    update_run,
    write_run,
)
from tpforge.measure.runs.samples import Sample


def test_run_and_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_run(tmp_path / "one", RUN, SAMPLES, exports={"note.txt": "x"})
    assert read_run(tmp_path / "one") == RUN
    assert read_run(tmp_path / "one" / "run.json") == RUN
    assert read_samples(tmp_path / "one") == SAMPLES
    assert (tmp_path / "one" / "note.txt").read_text() == "x"


def test_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    write_run(tmp_path / "one", RUN, SAMPLES)
    with pytest.raises(InputRefused, match="exists already"):
        write_run(tmp_path / "one", RUN, SAMPLES)


def test_updated_run_keeps_its_samples(tmp_path: Path) -> None:
    write_run(tmp_path / "one", RUN, SAMPLES)
    update_run(tmp_path / "one", RUN.model_copy(update={"label": "another"}))
    assert read_run(tmp_path / "one").label == "another"
    assert read_samples(tmp_path / "one") == SAMPLES


def test_missing_run_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="tpforge bench"):
        read_run(tmp_path)


def test_run_of_another_version_is_refused_by_its_field(tmp_path: Path) -> None:
    write_run(tmp_path / "one", RUN, SAMPLES)
    path = tmp_path / "one" / "run.json"
    text = path.read_text()
    path.write_text(text.replace('"schema_version": 2', '"schema_version": 3'))
    with pytest.raises(InputRefused, match="schema_version"):
        read_run(tmp_path / "one")
    path.write_text(text.replace('"schema_version": 2', '"schema_version": 1'))
    with pytest.raises(InputRefused, match=r"older definitions .* measure it again"):
        read_run(tmp_path / "one")


def test_broken_sample_is_named_by_its_line(tmp_path: Path) -> None:
    write_run(tmp_path / "one", RUN, SAMPLES)
    path = tmp_path / "one" / "samples.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace('"index"', '"indexx"')]) + "\n")
    with pytest.raises(InputRefused, match=r"samples\.jsonl:2: .*indexx"):
        read_samples(tmp_path / "one")


def test_run_without_one_of_the_facts_is_refused() -> None:
    facts = unavailable_facts(ENGINE_FIELDS[1:], "not asked")
    with pytest.raises(ValidationError, match="differs in"):
        Run.model_validate({**RUN.model_dump(), "engine": facts})


def test_fact_has_a_value_or_a_reason_and_not_both() -> None:
    assert Fact(value=0).value == 0
    for value, reason in ((None, None), (4, "because")):
        with pytest.raises(ValidationError, match="either a value or a reason"):
            Fact(value=value, unavailable_because=reason)


def test_sample_with_an_error_is_not_complete() -> None:
    sample = Sample(level=0, repeat=0, index=0, prompt_id="a", scheduled_s=0.0)
    assert sample.is_complete
    assert not sample.model_copy(update={"error_kind": "timeout"}).is_complete


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("run.json", '"started": "2026-01-01T00:00:00+00:00"', '"started": "yesterday"', "repeats.0.started"),
        (
            "run.json",
            '"duration_s": 2.0',
            '"duration_s": NaN',
            "workload.duration_s: Input should be a finite",
        ),
        ("run.json", '"num_completed": 4', '"num_completed": 5', "5 of 4 requests cannot be complete"),
        ("run.json", '"label": "by hand"', '"label": "\udcff"', "is not UTF-8 text"),
        ("samples.jsonl", '"repeat":1', '"repeat":-1', "samples.jsonl:5: not a sample: repeat"),
        ("samples.jsonl", '"scheduled_s":0.5', '"scheduled_s":Infinity', "not a sample: scheduled_s"),
    ],
)
def test_a_file_that_was_edited_to_nonsense_is_refused_by_its_field(
    tmp_path: Path, name: str, old: str, new: str, said: str
) -> None:
    write_run(tmp_path / "one", RUN, SAMPLES)
    path = tmp_path / "one" / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1), errors="surrogateescape")
    with pytest.raises(InputRefused, match=said):
        read_run(tmp_path / "one"), read_samples(tmp_path / "one")
