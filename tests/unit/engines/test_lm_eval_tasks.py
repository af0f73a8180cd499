"""Likelihoods are those of transformers; lm-eval's own API gets its scores from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from engines.likelihood import LikelihoodModel
from engines.lm_eval_tasks import run_tasks, scores_of
from tests.support.tiny_engine import write_tiny_engine
from tpforge.errors import EnvironmentUnusable
from tpforge.manifest import Limits

TASK = """\
task: tpforge_tiny
dataset_path: json
dataset_kwargs:
  data_files: {data}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1
"""


class Tiny:
    """A tiny engine at two ranks, and transformers on its source."""

    def __init__(self, folder: Path) -> None:
        self.engine, self.manifest, source = write_tiny_engine(
            folder, tp_size=2, limits=Limits(max_seq_len=48, max_input_len=32)
        )
        self.model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        self.tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))

    def log_probs(self, tokens: list[int]) -> torch.Tensor:
        """Of each token but the first, by the ones before it."""
        with torch.inference_mode():
            logits = self.model(torch.tensor([tokens])).logits[0, :-1].double().log_softmax(-1)
        chosen: torch.Tensor = logits.gather(1, torch.tensor(tokens[1:])[:, None])[:, 0]
        return chosen


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    return Tiny(tmp_path_factory.mktemp("tiny"))


def test_the_likelihood_of_a_continuation_is_that_of_transformers(tiny: Tiny) -> None:
    whole = tiny.tokenizer.encode("the capital of France is Paris").ids
    context = tiny.tokenizer.encode("the capital of France").ids
    expected = float(tiny.log_probs(whole)[len(context) - 1 :].sum())
    with LikelihoodModel(tiny.engine) as model:
        found = model.continuation("the capital of France", " is Paris")
        assert found.log_prob == pytest.approx(expected, abs=1e-4)
        # A blank at the end of the context belongs to the first word of what follows.
        assert model.continuation("the capital of France ", "is Paris") == found


def test_what_greedy_decoding_says_is_greedy_and_else_not(tiny: Tiny) -> None:
    with LikelihoodModel(tiny.engine) as model:
        said = model.generate("the capital", until=[], max_tokens=3)
        tokens = model.encode("the capital")
        with torch.inference_mode():
            for _ in range(3):
                tokens.append(int(tiny.model(torch.tensor([tokens])).logits[0, -1].argmax()))
        assert said == tiny.tokenizer.decode(tokens[-3:])
        assert not model.continuation("the capital", " to to to to").is_greedy
        assert model.generate("the capital", until=[said[1:2]], max_tokens=3) == said[:1]


def test_a_text_longer_than_the_engine_is_scored_once_a_token(tiny: Tiny) -> None:
    text = " the capital of France is Paris and on" * 16
    with LikelihoodModel(tiny.engine) as model:
        end = model.config.end_ids[0]
        tokens = [end, *model.encode(text, special=False)]
        assert len(tokens) > 2 * 48
        expected, at = 0.0, 1
        while at < len(tokens):
            stop = min(len(tokens), at + 47)
            window = tokens[max(0, stop - 48) : stop]
            expected += float(tiny.log_probs(window)[-(stop - at) :].sum())
            at = stop
        assert model.rolling(text) == pytest.approx(expected, abs=1e-3)
        short = " the capital"
        assert model.rolling(short) == pytest.approx(model.continuation("", short).log_prob, abs=1e-6)


def test_scores_have_lm_evals_standard_error_as_interval() -> None:
    results = {"alias": "t", "acc,none": 0.5, "acc_stderr,none": 0.1}
    found = scores_of(
        {
            "results": {"t": {**results, "ppl,strict": 9.0, "ppl_stderr,strict": "N/A"}},
            "higher_is_better": {"t": {"acc": True, "ppl": False}},
            "n-samples": {"t": {"original": 30, "effective": 20}},
            "versions": {"t": 2.0},
        }
    )  # fmt: skip
    assert set(found) == {"t acc", "t ppl strict"}
    assert (found["t acc"].low, found["t acc"].high, found["t acc"].n) == pytest.approx(
        (0.304, 0.696, 20), abs=1e-4
    )
    assert (found["t ppl strict"].higher_is_better, found["t ppl strict"].low) == (False, None)


def test_without_lm_eval_it_says_how_to_install_it(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(EnvironmentUnusable, match=r"pip install 'lm-eval>=0\.4'"):
        run_tasks(tiny.engine, ["x"], progress=print)


@pytest.mark.filterwarnings("ignore")
def test_a_task_of_the_users_own_runs_through_lm_eval(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'tpforge[eval]'")
    with LikelihoodModel(tiny.engine) as model:
        rows = []
        for question, choices in (("the capital of", [" France", " er"]), ("on and", [" on", " Paris"])):
            scores = [model.continuation(question, choice).log_prob for choice in choices]
            rows.append({"question": question, "choices": choices, "answer": scores.index(max(scores))})
    rows.append({**rows[0], "answer": 1 - rows[0]["answer"]})
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "tpforge_tiny.yaml").write_text(TASK.format(data=tmp_path / "data.jsonl"))
    found = run_tasks(tiny.engine, ["tpforge_tiny"], folder=tmp_path, progress=lambda _text: None)
    assert found["tpforge_tiny acc"].value == pytest.approx(2 / 3)
    assert found["tpforge_tiny acc"].n == 3
