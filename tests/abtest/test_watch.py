"""The watch after a promotion: the champion before keeps some slots; what is worse than it is rolled back."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from fingerpost.abtest.experiment.pairs import switchback_pairs
from fingerpost.abtest.experiment.store import settle_us
from fingerpost.abtest.promotion.concurrent import errors_shown, read_watch, watch_of, watch_slot_s
from fingerpost.abtest.promotion.promote import consider_challenger, promote_version, rollback
from fingerpost.abtest.promotion.record import history
from fingerpost.abtest.promotion.watch import check_promotion
from fingerpost.clock import US
from fingerpost.experiment import CHAMPION, EXPERIMENT_TAG
from fingerpost.settings import Settings
from fingerpost.training.registry import WATCH_TAG
from tests.support.experiment_records import BEGIN, keep_closing, keep_records, made_records
from tests.support.registry_harness import registry_settings

MIX = {"light": (0.5, 1.0), "heavy": (0.5, 10.0)}
SETTINGS = Settings(watch_slot_s=4.0)


def watch_at(rate_rps, watch_s=900.0):
    """The watch as it is planned at a rate of requests."""
    until = datetime.fromtimestamp(BEGIN / US, UTC) + timedelta(seconds=watch_s)
    return watch_of(SETTINGS, "2", "1", until, BEGIN, rate_rps)


def read(experiment, **arguments):
    """What the watch says after all slots; the effect is that of the version before against the present one."""
    records = made_records(experiment, rate_rps=arguments.pop("rate_rps", 60), **arguments)
    return read_watch(switchback_pairs(records, experiment, experiment.end_us), SETTINGS)


def test_both_take_turns_at_first_and_then_the_former_champion_has_a_tenth():
    experiment = watch_at(100.0)
    turns = [experiment.slot_at(experiment.begin_us + second * US) for second in range(0, 240, 4)]
    assert turns == list(range(60))
    later = [experiment.slot_at(experiment.begin_us + (240 + second) * US) for second in range(0, 400, 4)]
    assert sum(slot is not None for slot in later) == 20
    assert (experiment.champion, experiment.challenger, experiment.purpose) == ("2", "1", "watch")
    assert experiment.end_us <= BEGIN + 900 * US


@pytest.mark.parametrize(("rate", "slot_s"), [(100.0, 4.0), (2.0, 80 / 3), (0.01, 120.0), (0.0, 120.0)])
def test_slots_are_long_enough_for_the_traffic(rate, slot_s):
    assert watch_slot_s(4.0, rate) == pytest.approx(slot_s)
    assert watch_at(rate).slot_s == pytest.approx(slot_s)


def test_a_short_watch_has_turns_alone():
    experiment = watch_at(100.0, 30.0)
    assert (experiment.steps, experiment.one_in) == ((), 2)
    assert 1 <= experiment.pairs <= 4


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({"effect": -0.4, "tail": 0.5}, "latency is 1."),
        ({"error_rates": (0.08, 0.002), "tail": 0.5}, "of the requests fail"),
        ({"error_rates": (0.5, 0.0), "tail": 0.5}, "of the requests fail"),
    ],
)
def test_what_is_worse_is_found(made, words):
    reading = read(watch_at(100.0), seed=1, **made)
    assert any(words in each for each in reading.broken)


def test_a_heavier_tail_is_found_by_p99():
    experiment = watch_at(100.0)
    records = made_records(experiment, rate_rps=100, seed=2, tail=0.4)
    slow = (records["arm"] == "champion") & (np.random.default_rng(2).random(len(records)) < 0.03)
    records["duration_s"] = records["duration_s"].where(~slow, records["duration_s"] * 4)
    reading = read_watch(switchback_pairs(records, experiment, experiment.end_us), SETTINGS)
    assert reading.p99.broken
    assert not reading.latency.broken


@pytest.mark.parametrize("seed", range(8))
def test_what_is_no_worse_is_kept_whatever_the_time_brings(seed):
    """Load that comes and goes, and all requests becoming heavier in the midst of it."""
    experiment = watch_at(100.0)
    records = made_records(experiment, rate_rps=40, seed=seed, tail=0.8, categories=MIX, error_rates=(0.01, 0.01))
    outage = records["time_us"] > experiment.begin_us + 100 * US
    records["duration_s"] = records["duration_s"].where(~outage, records["duration_s"] * 5)
    reading = read_watch(switchback_pairs(records, experiment, experiment.end_us), SETTINGS)
    assert reading.broken == []
    assert reading.enough


def test_errors_that_come_and_go_for_both_are_no_harm():
    rng = np.random.default_rng(5)
    bursts = (rng.random((500, 80)) < 0.05) * rng.random((500, 80)) * 0.5
    rises = bursts * rng.choice((-1.0, 1.0), bursts.shape)
    assert errors_shown(rises[:, :], 0.01).any(axis=1).mean() < 0.05


def promoted(made, **after):
    """A promotion that is watched, and the records of its slots."""
    made.settings = made.settings.model_copy(update={"watch_slot_s": 15.0, "watch_s": 1200.0})
    promote_version(made.settings, "2", "ann", "test", skip_gates=True)
    experiment = made.registry.experiment()
    experiment_records = made_records(experiment, rate_rps=10, tail=0.5, **after)
    keep_records(made.settings, experiment_records)
    return experiment, datetime.fromtimestamp(experiment.begin_us / US, UTC)


@pytest.fixture
def slots_of_traffic(monkeypatch):
    """The lake is empty until the slots are known: the rate is told."""
    monkeypatch.setattr("fingerpost.abtest.promotion.concurrent.usual_rate_rps", lambda *_: 10.0)


@pytest.mark.process
@pytest.mark.usefixtures("slots_of_traffic")
def test_a_slower_champion_is_rolled_back(made):
    experiment, begin = promoted(made, effect=-0.5, seed=1)
    assert (made.champion, made.challenger, experiment.purpose) == ("2", "1", "watch")
    assert consider_challenger(made.settings, "flow promote") is None
    early = check_promotion(made.settings, "watch", begin + timedelta(seconds=60))
    assert early.state == "watching"
    found = check_promotion(made.settings, "watch", begin + timedelta(minutes=15))
    assert found.state == "rolled back"
    assert "latency is " in found.reason
    assert (made.champion, made.challenger) == ("1", None)
    assert made.registry.note(WATCH_TAG) is None
    assert made.registry.note(EXPERIMENT_TAG) is None
    assert history(made.registry)[0].action == "rollback"
    assert check_promotion(made.settings, "watch", begin + timedelta(minutes=16)) is None


@pytest.mark.process
@pytest.mark.usefixtures("slots_of_traffic")
def test_what_is_no_worse_is_kept(made):
    _, begin = promoted(made, seed=2)
    for minutes in (5, 15):
        assert check_promotion(made.settings, "watch", begin + timedelta(minutes=minutes)).state == "watching"
    # Another process goes on from what the registry holds, and waits for the last records.
    again = registry_settings(made.settings.home, watch_slot_s=15.0, watch_s=1200.0)
    until = datetime.fromisoformat(made.registry.note(WATCH_TAG)["until"])
    settled = until + timedelta(seconds=settle_us(again) / US + 1)
    assert check_promotion(again, "watch", until + timedelta(seconds=1)).state == "watching"
    assert check_promotion(again, "watch", settled).state == "kept"
    assert (made.champion, made.challenger) == ("2", None)
    assert made.registry.note(WATCH_TAG) is None
    assert made.registry.note(EXPERIMENT_TAG) is None
    assert history(made.registry)[0].action == "kept"


@pytest.mark.process
@pytest.mark.usefixtures("slots_of_traffic")
def test_a_champion_whose_arm_the_engine_closed_is_rolled_back_once_that_stands(made):
    promote_version(made.settings, "2", "ann", "test", skip_gates=True)
    experiment = made.registry.experiment()
    begin = datetime.fromtimestamp(experiment.begin_us / US, UTC)
    keep_closing(made.settings, experiment, "60% of 200 requests failed", experiment.begin_us)
    assert check_promotion(made.settings, "watch", begin + timedelta(seconds=40)).state == "watching"
    found = check_promotion(made.settings, "watch", begin + timedelta(seconds=70))
    assert (found.state, "60% of 200 requests failed" in found.reason) == ("rolled back", True)
    assert made.champion == "1"


@pytest.mark.process
def test_without_requests_nothing_is_rolled_back(made):
    promote_version(made.settings, "2", "ann", "test", skip_gates=True)
    found = check_promotion(made.settings, "watch", datetime.now(UTC) + timedelta(hours=2))
    assert (found.state, found.reading["enough"]) == ("kept", False)


@pytest.mark.process
def test_a_watch_over_what_is_no_champion_ends(made):
    promote_version(made.settings, "2", "ann", "test", skip_gates=True)
    rollback(made.settings, "ann", "by hand")
    assert check_promotion(made.settings, "watch") is None
    made.registry.set_note(WATCH_TAG, {"version": "2", "previous": "1", "since": "x", "until": "y"})
    assert check_promotion(made.settings, "watch") is None
    assert made.registry.note(WATCH_TAG) is None
    assert made.registry.version_of(CHAMPION) == "1"
