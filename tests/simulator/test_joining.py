"""A host that joins a running fleet, with the shipped delays, baseline and router: how much of the traffic it gets."""

import numpy as np
import pytest

from fingerpost.simulator.run import Bench
from fingerpost.simulator.scenario import Scenario

pytestmark = pytest.mark.process

JOINS_S, HOSTS = 30.0, 11
EVEN = 1 / HOSTS


@pytest.fixture(scope="module")
def shares():
    """The part of the requests that the host gets, by second since it joined."""
    scenario = Scenario.model_validate(
        {
            "name": "joining",
            "fleet": {"kind": "classes", "hosts": HOSTS, "classes": 4, "categories": 8},
            "slots": 4,
            "events": [{"host": HOSTS - 1, "at_s": JOINS_S, "kind": "join"}],
            "predictions": {"kind": "baseline"},
            "warmup_s": 30,
            "duration_s": 37,
        }
    )
    chunks = []
    Bench(scenario, 1).run("fingerpost", 0.4, 1, watch=chunks.append)
    since = np.concatenate([each.records.sent_s for each in chunks]) - JOINS_S
    mine = np.concatenate([each.records.host for each in chunks]) == HOSTS - 1
    return lambda begin, end: float(mine[(since >= begin) & (since < end)].mean())


def test_half_of_an_even_share_after_half_a_minute(shares):
    assert shares(27, 36) > 0.5 * EVEN


def test_it_begins_small(shares):
    """Its caches are cold, and what is expected of it may be wrong."""
    assert 0 < shares(1, 6) < 0.5 * EVEN
