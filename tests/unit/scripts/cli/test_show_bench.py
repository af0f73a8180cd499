"""The line of a measurement under way."""

from scripts.cli.show_bench import first_tokens


def test_a_long_answer_that_goes_on_is_not_one_without_a_token() -> None:
    assert first_tokens([], any_before=False) == "no token yet"
    assert first_tokens([], any_before=True) == "no new answer"
    assert first_tokens([0.1, 0.2, 0.9], any_before=True) == "TTFT 200 ms"
