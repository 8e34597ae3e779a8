"""Experiments by switchback: slots, arms, and what is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.errors import FingerpostError
from fingerpost.experiment import Experiment, experiment_from_json

BEGIN = 1_790_000_000_000_000
GOOD: dict[str, Any] = {
    **{"id": "x1", "service": "shop", "champion": "1", "challenger": "2"},
    **{"begin_us": BEGIN, "slot_s": 10.0, "washout_s": 2.0, "pairs": 50},
}


def test_each_pair_has_both_arms_and_the_order_varies() -> None:
    experiment = Experiment(**GOOD)
    arms = [experiment.arm_of(slot) for slot in range(100)]
    assert all(set(arms[at : at + 2]) == {"champion", "challenger"} for at in range(0, 100, 2))
    first = arms[::2].count("champion")
    assert 12 < first < 38
    assert arms != [Experiment(**{**GOOD, "id": "x2"}).arm_of(slot) for slot in range(100)]


@given(st.integers(BEGIN - 10**9, BEGIN + 2 * 10**9), st.floats(1, 100), st.integers(1, 60))
def test_every_moment_has_the_arm_of_its_slot(time_us: int, slot_s: float, pairs: int) -> None:
    experiment = Experiment(**{**GOOD, "slot_s": slot_s, "washout_s": 0.0, "pairs": pairs})
    slot = experiment.slot_at(time_us)
    if slot is None:
        assert time_us < BEGIN or time_us >= experiment.end_us
        assert experiment.arm_at(time_us) == "champion"
        return
    assert 0 <= slot < 2 * pairs
    assert experiment.slot_begin_us(slot) - 1 <= time_us <= experiment.slot_begin_us(slot + 1) + 1
    assert experiment.arm_at(time_us) == experiment.arm_of(slot)


def test_it_survives_the_registry() -> None:
    experiment = Experiment(**GOOD)
    assert experiment_from_json(experiment.to_json()) == experiment
    assert experiment.version_of("challenger") == "2"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"slot_s": 0}, "slot_s"),
        ({"slot_s": float("nan")}, "slot_s"),
        ({"washout_s": 10.0}, "washout_s"),
        ({"pairs": 0}, "pairs"),
        ({"challenger": "1"}, "challenger"),
        ({"id": "../x"}, "id"),
        ({"begin_us": True}, "begin_us"),
    ],
)
def test_bad_values_are_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(FingerpostError, match=named):
        Experiment(**{**GOOD, **change})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": "x"}', "nonsense"])
def test_what_is_no_experiment_is_refused(text: str) -> None:
    with pytest.raises(FingerpostError, match="not an experiment"):
        experiment_from_json(text)
