"""`[trial]` of model.toml: what it may say, and that a slip is named."""

from pathlib import Path

import pytest

from duly.models.repository import Repository
from duly.trials.rules import AtLimit
from tests import graphs


def scan(folder: Path, toml: str) -> tuple[object, list[str]]:
    graphs.save(folder, "m", graphs.doubling(), toml)
    versions, problems = Repository(folder).scan()
    return (versions[0].config.trial if versions else None), [problem.reason for problem in problems]


def test_an_empty_table_is_enough(tmp_path: Path) -> None:
    assert scan(tmp_path / "without", "") == (None, [])
    trial, problems = scan(tmp_path / "with", "[trial]\n")
    assert not problems
    assert trial is not None


def test_the_rules_are_what_it_says(tmp_path: Path) -> None:
    said = "agreement_min = 0.9\nrisk = 0.01\nshadow_s_max = 1.5\nerrors_max = 3\n"
    said += 'at_limit = "GO_ON"\ndrift = "ROLL_BACK"\n'
    graphs.save(tmp_path, "m", graphs.doubling(), f"[trial]\n{said}")
    ((version,), problems) = Repository(tmp_path).scan()
    assert not problems
    assert version.config.trial is not None
    rules = version.config.trial.rules()
    assert (rules.agreement_min, rules.risk, rules.shadow_ns_max) == (0.9, 0.01, 1_500_000_000)
    assert (rules.at_limit, rules.drift_ends, rules.errors_max) == (AtLimit.GO_ON, True, 3)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("agreement_mim = 0.9", "trial.agreement_mim: there is no such key; did you mean agreement_min?"),
        ("agreement_min = 1.0", "trial.agreement_min: should be less than 1, got 1.0"),
        ("risk = 0.5", "trial.risk: should be less than or equal to 0.2, got 0.5"),
        ("shadow_share = 0", "trial.shadow_share: should be greater than 0, got 0"),
        ("canary_share = 1.5", "trial.canary_share: should be less than or equal to 1, got 1.5"),
        ("canary_s_max = 1e9", "trial.canary_s_max: should be less than or equal to 2592000, got 1000000000.0"),
        ("frames_min = 0", "trial.frames_min: should be greater than or equal to 1, got 0"),
        ('at_limit = "WAIT"', "trial.at_limit: should be 'ROLL_BACK' or 'GO_ON', got \"WAIT\""),
    ],
)
def test_a_slip_is_named_with_what_would_be_right(tmp_path: Path, said: str, told: str) -> None:
    _, problems = scan(tmp_path, f"[trial]\n{said}\n")
    assert problems == [f"m/model.toml: {told}"]
