"""Hosts that become slower or faster: noticed within a few requests, and judged by what they did since."""

import numpy as np
import pytest

from fingerpost.routing.changes import HostChanges
from fingerpost.routing.factors import Ended
from fingerpost.routing.guard import Guard, Outcomes

HOSTS, KINDS, SLOTS = 12, 4, 8.0
SERVICE_S = 0.05 * np.random.default_rng(1).lognormal(0, 0.4, (HOSTS, KINDS))
NAMES, CATEGORIES = [f"h{host}" for host in range(HOSTS)], [f"c{kind}" for kind in range(KINDS)]
TOLD, UNTOLD = np.full(HOSTS, SLOTS), np.full(HOSTS, np.nan)


def ended(rng, count, times=1.0, hosts=HOSTS):
    """Requests at random hosts, each `times` as long as expected."""
    host = rng.integers(0, hosts, count)
    seconds = rng.exponential(1.0, count) * np.broadcast_to(times, hosts)[host]
    each = np.ones(count)
    return Ended(host, np.zeros(count, dtype=np.int64), seconds, each, each, each)


def test_hosts_that_stay_as_they_are_hardly_ever_count_as_changed():
    rng, changes, found = np.random.default_rng(1), HostChanges(HOSTS), 0
    for second in range(1000):
        now = changes.observe(ended(rng, 200), float(second))
        list(changes.since_change(now))
        found += len(now)
    assert found < 200_000 / 2000


def test_what_all_hosts_have_in_common_is_no_change_of_any():
    rng, changes = np.random.default_rng(1), HostChanges(HOSTS)
    found = sum(len(changes.observe(ended(rng, 600, 4.0), float(second))) for second in range(30))
    assert found == 0


def test_one_request_however_slow_proves_nothing():
    changes, slow = (
        HostChanges(1),
        Ended(*(np.zeros(1, dtype=np.int64),) * 2, *(np.array([each]) for each in (1e6, 1, 1, 1))),
    )
    assert not len(changes.observe(slow, 0.0))


@pytest.mark.parametrize(("times", "requests"), [(5.0, 20), (0.2, 25)])
def test_a_change_is_proven_by_few_requests_and_only_those_since_then_are_kept(times, requests):
    took = []
    for seed in range(50):
        rng, changes = np.random.default_rng(seed), HostChanges(3)
        changes.observe(ended(rng, 300, hosts=3), 0.0)
        speeds = np.array([times, 1.0, 1.0])
        for number in range(1, 300):
            changed = changes.observe(ended(rng, 3, speeds, 3), float(number) / 20)
            if 0 in changed:
                break
            list(changes.since_change(changed))
        kept = [each.seconds for each in changes.since_change(np.array([0]))]
        took.append(number)
        assert sum(map(len, kept)) <= 3 * number
    assert np.median(took) <= requests


def test_evidence_of_a_host_moves_with_it():
    rng, changes = np.random.default_rng(1), HostChanges(3)
    changes.observe(ended(rng, 12, [3.0, 1.0, 1.0], 3), 0.0)
    changes.align(np.array([-1, 0, 2]), np.array([0]))
    slow, proven = np.array([1.0, 5.0, 1.0]), set()
    for number in range(1, 9):
        proven |= set(changes.observe(ended(rng, 9, slow, 3), float(number)).tolist())
    assert proven == {1}


class Fleet:
    """A guard that is fed with requests sent at random, half a second after the other."""

    def __init__(self, slots):
        self.guard, self.rng, self._slots, self.now_s = Guard(NAMES, CATEGORIES), np.random.default_rng(1), slots, 0.0
        self.rate = SLOTS / SERVICE_S

    def run(self, seconds, speeds, requests=125, only=None):
        for _ in range(int(2 * seconds)):
            count = requests
            host = self.rng.integers(0, HOSTS, count) if only is None else self.rng.choice(only, count)
            kind = self.rng.integers(0, KINDS, count)
            took = SERVICE_S[host, kind] * speeds[host] * self.rng.exponential(1.0, count)
            found = np.full(count, 1.0 if np.isfinite(self._slots).all() else np.nan)
            seen = Outcomes(host, kind, took, found, np.zeros(count, dtype=bool), np.zeros(count, dtype=np.int64))
            self.now_s += 0.5
            self.guard.observe(seen, ["1"], self.rate, self._slots, self.now_s)
            self.found = self.guard.correct("1", self.rate, self._slots, self.now_s)
        return self.found.cost_factor / np.median(self.found.cost_factor)


@pytest.mark.parametrize("slots", [TOLD, UNTOLD], ids=["told", "untold"])
def test_a_class_that_becomes_five_times_slower_costs_more_within_two_seconds_and_less_when_it_recovers(slots):
    fleet, slow, well = Fleet(slots), np.where(np.arange(HOSTS) % 3 == 0, 5.0, 1.0), np.ones(HOSTS)
    assert np.abs(np.log(fleet.run(60, well))).max() < np.log(1.4)
    after = fleet.run(2, slow)
    assert after[::3].min() > 2.5
    assert after[1::3].max() < 1.4
    assert fleet.run(20, slow)[::3].min() > 3
    assert fleet.run(5, well)[::3].max() < 1.6


@pytest.mark.parametrize("slots", [TOLD, UNTOLD], ids=["told", "untold"])
def test_a_host_that_is_left_stays_so_for_a_while_without_requests_and_is_tried_again(slots):
    fleet, slow = Fleet(slots), np.where(np.arange(HOSTS) == 0, 5.0, 1.0)
    fleet.run(30, np.ones(HOSTS))
    fleet.run(5, slow)
    others = np.arange(1, HOSTS)
    assert fleet.run(10, slow, only=others)[0].min() > 2
    assert fleet.run(150, slow, only=others)[0].max() < 1.3
