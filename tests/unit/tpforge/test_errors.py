"""tpforge.errors: exit codes and lists of problems."""

from tpforge import errors


def test_every_expected_failure_has_its_own_exit_code() -> None:
    codes = {
        "TpforgeError": 1,
        "UsageError": 2,
        "EnvironmentUnusable": 3,
        "InputRefused": 4,
        "PlanError": 4,
        "NothingFits": 5,
        "VerificationFailed": 6,
        "RegressionFound": 7,
    }
    assert {name: getattr(errors, name).exit_code for name in codes} == codes


def test_problems_are_listed_sorted_under_the_headline() -> None:
    error = errors.PlanError.listing("two problems:", ["b: missing", "a: missing"])
    assert isinstance(error, errors.InputRefused)
    assert str(error) == "two problems:\n  a: missing\n  b: missing"
