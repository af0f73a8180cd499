"""Scores of answers and losses: against transformers, numpy, scipy, and cases worked out by hand."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import AutoModelForCausalLM

from engines.answers import Question, answer_greedily
from engines.perplexity import Text, load_texts, measure_passages
from scripts.main import main
from tests.support.runs import level_of, run_of
from tests.support.servers.fake_server import FakeServer, decode, greedy
from tests.support.tiny_engine import write_tiny_engine
from tpforge.errors import InputRefused, VerificationFailed
from tpforge.manifest import Limits
from tpforge.measure.json_schema import check_text, require_known
from tpforge.measure.quality import (
    Passage,
    expected_text,
    greedy_agreement,
    perplexity,
    perplexity_increase,
    structured_validity,
)
from tpforge.measure.runs.prompts import Prompt
from tpforge.measure.runs.run import read_run, write_run
from tpforge.outputs.atomic import claimed

OBJECT = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}


def silent(_text: str) -> None:
    pass


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"name": "a", "age": 3}', None),
        (' {"name": "a"} \n', None),
        ('{"name": "a", "age": 3.0}', None),
        ('{"name": "a", "age": 3.5}', "the value.age is not of type integer"),
        ('{"name": "a", "age": true}', "the value.age is not of type integer"),
        ('{"name": "a", "age": -1}', "the value.age is out of range"),
        ('{"age": 3}', "the value lacks 'name'"),
        ('{"name": "a", "more": 1}', "the value has 'more', which the schema does not"),
        ('["a"]', "the value is not of type object"),
        ('```json\n{"name": "a"}\n```', "is not JSON"),
        ('{"name": "a"} Here you are.', "is not JSON"),
        ('{"name": "a", "age": NaN}', "is not JSON: NaN"),
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"name": "a", "age": ' + "1" * 400 + "}", None),
        ('{"name": "a", "age": 1e400}', "the value.age is not of type integer"),
    ],
)
def test_an_answer_fits_its_schema_or_says_where_not(text: str, problem: str | None) -> None:
    found = check_text(text, OBJECT)
    assert (found is None) if problem is None else (found is not None and found.startswith(problem))


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        ({"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 3}, '["a", "b"]', '["a"]'),
        ({"type": "array", "items": {"type": "string"}}, "[]", '["a", 1]'),
        ({"uniqueItems": True}, "[1, true]", "[1, 1.0]"),
        ({"enum": ["a", 1]}, "1.0", "true"),
        ({"const": {"a": [1]}}, '{"a": [1]}', '{"a": [2]}'),
        ({"anyOf": [{"type": "null"}, {"type": "number"}]}, "null", '"x"'),
        ({"type": ["string", "null"]}, "null", "1"),
        ({"pattern": "^[a-z]+$", "minLength": 2}, '"ab"', '"a"'),
        ({"exclusiveMinimum": 0, "maximum": 5}, "5", "0"),
        ({"additionalProperties": {"type": "integer"}}, '{"x": 1}', '{"x": "1"}'),
    ],
)
def test_each_keyword_decides(schema: dict[str, Any], good: str, bad: str) -> None:
    assert check_text(good, schema) is None
    assert check_text(bad, schema) is not None


def test_a_keyword_that_is_not_checked_is_refused_not_passed() -> None:
    with pytest.raises(InputRefused, match=r"schema\.a: oneOf"):
        check_text("1", {"properties": {"a": {"oneOf": []}}})
    with pytest.raises(InputRefused, match="type 'text'"):
        check_text("1", {"type": "text"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("pattern", "["), ("pattern", 5), ("minimum", "0"), ("maxItems", -1), ("minLength", 1.5), ("type", 5),
        ("required", "name"), ("required", [5]), ("properties", []), ("enum", "a"), ("anyOf", {}),
        ("uniqueItems", 1),
    ],
)  # fmt: skip
def test_a_keyword_with_a_value_that_it_cannot_have_is_refused_before_an_answer_breaks_it(
    key: str, value: object
) -> None:
    with pytest.raises(InputRefused, match=re.escape(f"p-1.a: {key} is {json.dumps(value)}")):
        require_known({"properties": {"a": {key: value}}}, "p-1")


def test_perplexity_of_equal_losses_is_exact() -> None:
    found = perplexity([Passage(name=str(n), num_tokens=n, loss=n * math.log(7)) for n in (5, 20, 60)])
    assert found.value == pytest.approx(7)
    assert (found.low, found.high, found.n) == (pytest.approx(7), pytest.approx(7), 85)


def test_interval_over_passages_of_equal_length_is_scipys() -> None:
    losses = [1.0, 1.4, 0.9, 1.2]
    found = perplexity([Passage(name=str(n), num_tokens=10, loss=10 * x) for n, x in enumerate(losses)])
    low, high = stats.t.interval(0.95, 3, loc=np.mean(losses), scale=stats.sem(losses))
    assert (found.value, found.low, found.high) == pytest.approx(
        (math.exp(np.mean(losses)), math.exp(low), math.exp(high))
    )
    assert perplexity([Passage(name="x", num_tokens=10, loss=10.0)]).low is None


def test_interval_of_the_increase_holds_the_truth_in_about_95_of_100_draws() -> None:
    generator = random.Random(2)
    hits, draws, truth = 0, 1500, 100 * math.expm1(0.05)
    for _ in range(draws):
        before, after = [], []
        for number in range(8):
            size, level = generator.randint(80, 160), generator.gauss(3, 0.6)
            before.append(Passage(name=str(number), num_tokens=size, loss=size * level))
            moved = size * (level + generator.gauss(0.05, 0.02))
            after.append(Passage(name=str(number), num_tokens=size, loss=moved))
        found = perplexity_increase(before, after, baseline_id="b")
        assert not isinstance(found, str) and found.low is not None and found.high is not None
        hits += found.low <= truth <= found.high
    assert 0.93 < hits / draws < 0.97


def test_the_increase_is_seen_where_the_perplexities_overlap() -> None:
    losses = [1.0, 4.0, 2.0, 3.0]
    before = [Passage(name=str(n), num_tokens=50, loss=50 * x) for n, x in enumerate(losses)]
    after = [item.model_copy(update={"loss": item.loss * 1.0 + 50 * 0.02}) for item in before]
    found = perplexity_increase(before, after, baseline_id="b")
    assert not isinstance(found, str) and found.low is not None
    assert found.value == pytest.approx(100 * math.expm1(0.02))
    assert found.low > 0
    first, second = perplexity(before), perplexity(after)
    assert first.high is not None and second.low is not None and second.low < first.high


def test_other_tokenizers_and_other_texts_are_not_compared() -> None:
    one = [Passage(name="a", num_tokens=10, loss=9.0)]
    assert "tokenizers differ" in str(
        perplexity_increase(one, [one[0].model_copy(update={"num_tokens": 11})], baseline_id="b")
    )
    assert "no perplexity of the same" in str(perplexity_increase([], one, baseline_id="b"))


def test_validity_is_the_share_of_fitting_answers_with_wilsons_interval() -> None:
    prompts = [Prompt(id=str(n), text="?", json_schema=OBJECT) for n in range(4)] + [Prompt(id="x", text="?")]
    answers = {"0": '{"name": "a"}', "1": "no", "2": '{"name": "b"}', "3": '{"name": "c"}', "x": "text"}
    found, problems = structured_validity(prompts, answers)
    expected = stats.binomtest(3, 4).proportion_ci(0.95, method="wilson")
    assert found is not None
    assert (found.value, found.low, found.high, found.n) == pytest.approx(
        (75, 100 * expected.low, 100 * expected.high, 4)
    )
    assert list(problems) == ["1"]
    assert structured_validity(prompts[4:], answers) == (None, {})


def test_expected_texts_are_looked_for_without_case() -> None:
    prompts = [Prompt(id="a", text="?", must_contain=("Paris", "France")), Prompt(id="b", text="?")]
    found, problems = expected_text(prompts, {"a": "PARIS is in france", "b": ""})
    assert found is not None and (found.value, found.n, problems) == (100, 1, {})
    assert expected_text(prompts, {"a": "Paris"})[1] == {"a": "lacks 'France'"}


def test_agreement_is_how_far_answers_run_together() -> None:
    before = {"a": "abcd", "b": "same", "c": "", "d": "only here"}
    found = greedy_agreement(before, {"a": "abXd", "b": "same", "c": ""}, baseline_id="r")
    assert found is not None
    assert found.value == pytest.approx((50 + 100 + 100) / 3)
    assert (found.n, found.baseline) == (3, "r")
    assert "2 of 3 answers are identical" in found.detail
    assert greedy_agreement({}, {"a": "x"}, baseline_id="r") is None


def test_losses_of_an_engine_are_those_of_transformers(tmp_path: Path) -> None:
    engine, _, source = write_tiny_engine(
        tmp_path, tp_size=2, limits=Limits(max_seq_len=64, max_input_len=32)
    )
    texts = [
        Text("one", "the capital of France is Paris and"),
        Text("long", "on and on " * 60),
        Text("-", "x"),
    ]
    found = measure_passages(engine, texts, progress=silent)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    assert [item.name for item in found][:2] == ["one", "long"]
    assert found[1].num_tokens == 63
    for text, passage in zip(texts, found, strict=False):
        ids = torch.tensor([tokenizer.encode(text.text).ids[:64]])
        with torch.inference_mode():
            mean = float(model(ids, labels=ids).loss)
        assert passage.loss / passage.num_tokens == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e6])
def test_an_engine_that_computes_no_numbers_has_no_perplexity_that_would_break_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: float
) -> None:
    engine, _, _ = write_tiny_engine(tmp_path, limits=Limits(max_seq_len=64, max_input_len=32))
    monkeypatch.setattr("engines.perplexity._loss", lambda _logits, _ids: loss)
    with pytest.raises(VerificationFailed, match=r"perplexity: one: the engine's loss is .* no numbers"):
        measure_passages(engine, [Text("one", "the capital of France is Paris and")], progress=silent)


def test_answers_of_an_engine_are_greedy_and_refusals_are_named(tmp_path: Path) -> None:
    engine, _, source = write_tiny_engine(tmp_path, limits=Limits(max_seq_len=64, max_input_len=32))
    questions = [
        Question("a", "the capital of", 8),
        Question("b", "on and on", 5),
        Question("too long", "word " * 60, 4),
    ]
    answers, refused = answer_greedily(engine, questions, progress=silent)
    assert (set(answers), set(refused)) == ({"a", "b"}, {"too long"})
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    for question in questions[:2]:
        ids = tokenizer.encode(question.text).ids
        with torch.inference_mode():
            for _ in range(question.max_tokens):
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        prompt = len(tokenizer.encode(question.text).ids)
        assert answers[question.id] == tokenizer.decode(ids[prompt:])


def test_the_passages_that_ship_are_eight_with_different_names() -> None:
    texts = load_texts()
    assert len({text.name for text in texts}) == len(texts) == 8
    assert all(len(text.text) > 200 and not text.text.startswith("\n") for text in texts)


def test_a_users_text_is_cut_at_empty_lines(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("one\nmore\n\n\n\ntwo\n")
    assert [text.text for text in load_texts(path)] == ["one\nmore", "two"]
    path.write_bytes(b"\xef\xbb\xbfone\r\nmore\r\n  \r\ntwo\r\n")
    assert [text.text for text in load_texts(path)] == ["one\nmore", "two"], "as Windows writes it"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputRefused, match="not UTF-8"):
        load_texts(path)
    path.write_text(" \n\n ")
    with pytest.raises(InputRefused, match="holds no text"):
        load_texts(path)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny engine, its run, and two prompts."""
    folder = tmp_path_factory.mktemp("evaluated")
    path, manifest, _ = write_tiny_engine(folder, limits=Limits(max_seq_len=256, max_input_len=128))
    level, samples = level_of([[0.1, 0.1], [0.1, 0.2]])
    write_run(folder / "run", run_of("run", [level], engine={"name": manifest.name}), samples)
    prompts = [
        {"id": "s-1", "text": "the", "max_tokens": 4, "json_schema": {"type": "object"}},
        {"id": "e-1", "text": "of", "max_tokens": 4, "must_contain": [""]},
    ]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    return path


def evaluate(engine: Path, *more: str) -> int:
    return main(["evaluate", str(engine), "--prompts", str(engine.parent / "prompts.jsonl"), *more])


def test_scores_are_kept_with_the_run_and_compared_with_it(
    engine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = engine.parent / "run"
    assert evaluate(engine, "--run", str(run)) == 0
    kept = read_run(run).quality
    assert kept is not None
    assert set(kept) == {"perplexity", "structured_validity", "expected_text"}
    assert kept["expected_text"].value == 100
    capsys.readouterr()
    assert (
        evaluate(engine, "--baseline", str(run), "--max-drop", "0", "--min-agreement", "100", "--json") == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "evaluation"
    assert found["scores"]["perplexity_increase"]["value"] == pytest.approx(0, abs=1e-9)
    assert found["scores"]["greedy_agreement"]["value"] == 100
    assert found["scores"]["greedy_agreement"]["baseline"] == "run"
    drop = found["scores"]["expected_text_drop"]
    assert (drop["value"], drop["low"], drop["high"], drop["n"]) == (0, 0, 0, 1), "all answers are equal"


def test_quality_that_fell_is_exit_7(engine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = engine.parent / "better.json"
    assert evaluate(engine, "--out", str(kept)) == 0
    value = json.loads(kept.read_text())
    for passage in value["passages"]:
        passage["loss"] -= 0.05 * passage["num_tokens"]
    kept.write_text(json.dumps(value))
    capsys.readouterr()
    assert evaluate(engine, "--baseline", str(kept), "--max-drop", "5", "--out", str(kept) + "2") == 7
    said = "--max-quality-drop 5: avg perplexity_increase is worse by 5.1 % [5.1, 5.1]"
    assert said in capsys.readouterr().err
    assert evaluate(engine, "--baseline", str(kept), "--max-drop", "6", "--out", str(kept) + "2") == 0
    value["answers"]["s-1"] = "other"
    kept.write_text(json.dumps(value))
    assert evaluate(engine, "--baseline", str(kept), "--min-agreement", "90", "--out", str(kept) + "2") == 7


def test_a_server_is_asked_over_grpc_and_its_perplexity_is_said_to_be_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("triton_repo.client.greedy_answers.Client", lambda _url, **_options: FakeServer())
    prompts = [
        {"id": "e-1", "text": "w1 w2", "max_tokens": 4, "must_contain": [decode(greedy([1, 2], 4))]},
        {"id": "s-1", "text": "w3", "max_tokens": 2, "json_schema": {"type": "string"}},
        {"id": "long-1", "text": "w1 " * 100, "max_tokens": 2, "must_contain": ["x"]},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, prompts)))
    out = tmp_path / "q.json"
    assert main(["evaluate", "localhost:9", "--prompts", "p.jsonl", "--out", str(out)]) == 0
    kept = json.loads(out.read_text())
    assert kept["answers"] == {"e-1": decode(greedy([1, 2], 4)), "s-1": decode(greedy([3], 2))}
    assert (kept["scores"]["expected_text"]["value"], kept["scores"]["structured_validity"]["value"]) == (
        100,
        0,
    )
    assert kept["problems"]["long-1"].startswith("refused: ")
    assert kept["problems"]["s-1"].startswith("is not JSON")
    assert "perplexity: not measured: needs the engine" in capsys.readouterr().out


def test_what_cannot_be_evaluated_is_refused(
    engine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    level, samples = level_of([[0.1], [0.1]])
    write_run(tmp_path / "other", run_of("other", [level], engine={"name": "another"}), samples)
    assert evaluate(engine, "--run", str(tmp_path / "other")) == 4
    assert "is a run of another" in capsys.readouterr().err
    assert evaluate(engine, "--baseline", str(tmp_path / "other")) == 4
    assert "its quality was not measured" in capsys.readouterr().err
    assert evaluate(engine, "--max-drop", "1", "--out", str(tmp_path / "q.json")) == 2
    assert "give --baseline" in capsys.readouterr().err
    assert not (tmp_path / "q.json").exists(), "it is said before anything is asked"
    write_run(tmp_path / "run", run_of("run", [level]), samples)
    with claimed(tmp_path / "run"):
        assert evaluate(engine, "--run", str(tmp_path / "run")) == 3
    assert "run: another tpforge is writing it" in capsys.readouterr().err
    assert evaluate(engine, "--out", str(tmp_path)) == 4
    assert "is a folder; give the name of a file" in capsys.readouterr().err
    (tmp_path / "p.jsonl").write_text('{"id": "s-9", "text": "the", "json_schema": {"pattern": "["}}')
    assert main(["evaluate", str(engine), "--prompts", str(tmp_path / "p.jsonl")]) == 4
    assert 's-9: pattern is "["' in capsys.readouterr().err
    assert main(["evaluate", "nobody"]) == 2
    assert "neither an engine nor HOST:PORT" in capsys.readouterr().err
