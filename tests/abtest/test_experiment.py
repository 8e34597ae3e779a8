"""Experiments by switchback: slots, arms, and what is refused."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.clock import US
from fingerpost.errors import FingerpostError
from fingerpost.experiment import CONTROL, TREATMENTS, Experiment, experiment_from_json

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


STEPS = ((2, 20, 5.0), (3, 5, 5.0))


def test_a_new_version_begins_with_few_and_short_slots() -> None:
    experiment = Experiment(**{**GOOD, "pairs": 10, "steps": STEPS})
    seconds = range(0, (experiment.end_us - BEGIN) // US)
    slots = [experiment.slot_at(BEGIN + second * US) for second in seconds]
    assert [slot for slot in dict.fromkeys(slots) if slot is not None] == list(range(20))
    routed = [experiment.arm_at(BEGIN + second * US) == "challenger" for second in seconds]
    # Of 200 s a slot of 5 s in each hundred; then one in five; then every other.
    assert [sum(routed[at : at + 100]) for at in (0, 100)] == [5, 5]
    assert [sum(routed[at : at + 25]) for at in (200, 225, 250)] == [5, 5, 5]
    assert [sum(routed[at : at + 20]) for at in (275, 295, 315)] == [10, 10, 10]
    assert experiment.end_us == BEGIN + (200 + 75 + 5 * 20) * US
    assert [experiment.slot_length_s(slot) for slot in (0, 9, 10, 19)] == [5.0, 5.0, 10.0, 10.0]


@given(st.integers(0, 500), st.integers(2, 7))
def test_between_two_changes_nothing_changes(second: int, one_in: int) -> None:
    experiment = Experiment(**{**GOOD, "pairs": 10, "steps": STEPS, "one_in": one_in})
    now = BEGIN - 20 * US + second * US
    following = experiment.next_change_us(now)
    assert following > now or now >= experiment.end_us
    for at in range(now, min(following, experiment.end_us), US):
        assert experiment.slot_at(at) == experiment.slot_at(now)
    if now < following < experiment.end_us:
        assert experiment.slot_at(following + 1) != experiment.slot_at(now)


def test_the_champion_takes_over_where_nobody_looks() -> None:
    experiment = Experiment(**{**GOOD, "until_us": BEGIN + 60 * US})
    assert experiment.slot_in_force(BEGIN + 59 * US) == 5
    assert experiment.slot_in_force(BEGIN + 60 * US) is None
    assert experiment.slot_at(BEGIN + 60 * US) == 6


def test_what_is_as_by_default_is_not_written() -> None:
    """So that an engine of before reads what it can."""
    assert set(Experiment(**GOOD).to_note()) == set(GOOD)
    stepped = Experiment(**{**GOOD, "steps": STEPS, "purpose": "watch"})
    assert experiment_from_json(stepped.to_json()) == stepped


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": ((50, 20, 5.0),)}, "steps"),
        ({"steps": ((1, 1, 5.0),)}, "steps"),
        ({"steps": ((1, 20, 0.1),)}, "steps"),
        ({"steps": ((1.5, 20, 5.0),)}, "steps"),
        ({"steps": (("1", 20, 5.0),)}, "steps"),
        ({"steps": ((1, 20),)}, "steps"),
        ({"steps": "many"}, "steps"),
        ({"one_in": 1}, "one_in"),
        ({"until_us": -1}, "until_us"),
        ({"purpose": "play"}, "purpose"),
    ],
)
def test_bad_steps_are_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(FingerpostError, match=f"cannot have {named} ="):
        Experiment(**{**GOOD, **change})


def test_it_survives_the_registry() -> None:
    experiment = Experiment(**GOOD)
    assert experiment_from_json(experiment.to_json()) == experiment
    assert experiment.version_of("challenger") == "2"


def test_several_challengers_take_turns_each_beside_the_champion() -> None:
    experiment = Experiment(**{**GOOD, "pairs": 60, "others": ("3", "4")})
    assert experiment_from_json(experiment.to_json()) == experiment
    for pair in range(60):
        both = {experiment.arm_of(2 * pair), experiment.arm_of(2 * pair + 1)}
        assert both == {CONTROL, TREATMENTS[pair % 3]}
    assert [experiment.version_of(arm) for arm in experiment.arms] == ["1", "2", "3", "4"]
    without = Experiment(**{**GOOD, "pairs": 60, "others": ("3", "4"), "out": ("challenger-2",)})
    for slot in range(120):
        at_us, arm = experiment.slot_begin_us(slot), experiment.arm_of(slot)
        assert experiment.arm_at(at_us) == arm
        assert without.arm_at(at_us) == (CONTROL if arm == "challenger-2" else arm)


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
        ({"others": ("2",)}, "others"),
        ({"others": ("3", "3")}, "others"),
        ({"others": ("3", "4", "5", "6")}, "others"),
        ({"others": ("3",), "purpose": "watch"}, "others"),
        ({"out": ("somebody",)}, "out"),
    ],
)
def test_bad_values_are_named(change: dict[str, object], named: str) -> None:
    with pytest.raises(FingerpostError, match=named):
        Experiment(**{**GOOD, **change})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"id": "x"}', "nonsense"])
def test_what_is_no_experiment_is_refused(text: str) -> None:
    with pytest.raises(FingerpostError, match="not an experiment"):
        experiment_from_json(text)
