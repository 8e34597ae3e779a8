"""One rule for the choice of a host: the native picker, the endpoint picker and the simulator draw as `cost` says."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fingerpost.category import OTHER
from fingerpost.routing.cost import (
    choice_probabilities,
    cost_at,
    cost_terms,
    exploration_shares,
    exploration_weight,
)
from fingerpost.routing.endpoint_picker.choice import Chooser
from fingerpost.routing.endpoint_picker.endpoints import Endpoints, endpoint_of
from fingerpost.routing.endpoint_picker.requests import Request
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.routing.table_file import PickerSettings
from fingerpost.simulator.choice import OWN, REPORTED, explore, fingerpost
from fingerpost.simulator.run import Bench
from fingerpost.simulator.scenario import Scenario
from tests.support.picker_harness import Harness, Sent, build, made_table

DRAWS = 400
# On a grid on which 32-bit floats are exact, so that a tie for one is a tie for all.
slopes = st.one_of(st.integers(1, 8).map(lambda part: part / 64), st.just(np.inf))
offsets = st.integers(0, 8).map(lambda part: part / 64)
weights = st.sampled_from([0.0, 0.25, 0.5, 1.0])
# Of each host: slope, offset, weight for exploration, requests in flight, whether it is up.
hosts = st.lists(st.tuples(slopes, offsets, weights, st.integers(0, 6), st.booleans()), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    folder = tmp_path_factory.mktemp("picker")
    return Harness(build(folder), folder)


def assert_drawn(found, probability):
    """How often each place was chosen, within five standard deviations."""
    count = Counter(found)
    assert all(probability[place] > 0 for place in count)
    for place, share in enumerate(probability):
        margin = 5 * np.sqrt(DRAWS * share * (1 - share)) + 1e-9
        assert abs(count[place] - DRAWS * share) <= margin, (place, count, probability)


@pytest.mark.process
@settings(max_examples=40)
@given(hosts, st.sampled_from([0.0, 0.25, 1.0]), st.booleans())
@example([(np.inf, 0.0, 1.0, 2, True), (np.inf, 0.0, 0.5, 1, True)], 0.25, False)
@example([(0.125, 0.0, 0.5, 0, True)] * 3 + [(0.125, 0.0, 1.0, 0, False)], 0.0, True)
def test_all_pickers_draw_as_the_rule_says(harness, drawn, exploration, newcomer):
    slope, offset, weight, load, up = (np.array(each) for each in zip(*drawn, strict=True))
    up[0] = True
    names = [f"h{number}" for number in range(len(drawn))]
    # What is in no row of the table, such as the last host, costs what its last column says.
    known = len(names) - newcomer
    columns = [*range(known), *([known] if newcomer else [])]
    cells = [np.append(each, each[-1]).astype(np.float32)[None, None] for each in (slope, offset, weight)]
    table = made_table(
        names[:known],
        [OTHER],
        slope=cells[0][..., : known + 1],
        offset=cells[1][..., : known + 1],
        explore=cells[2][..., : known + 1],
        settings=PickerSettings(exploration=exploration),
    )
    cost = cost_at(table.slope[0, 0, columns], table.offset[0, 0, columns], load)
    probability = np.zeros(len(names))
    probability[up] = choice_probabilities(cost[up], exploration, weight[up])
    serves = np.isfinite(probability).all()
    assert serves == np.isfinite(cost[up]).any()

    native = replace(harness, hosts=[(*each, 1) for each in zip(names, load, up.astype(int), strict=True)])
    chooser = Chooser(Endpoints([Upstream(name, f"10.0.0.{n}", 80) for n, name in enumerate(names)]), 0.0)
    chooser._rng = random.Random(1)
    chooser.use(table)
    chooser.endpoints.inflight[:] = load
    addresses = [endpoint_of(Upstream(name, f"10.0.0.{n}", 80)) for n, name in enumerate(names)]
    subset = [address for address, there in zip(addresses, up, strict=True) if there]
    theirs = [chooser.choose(Request("GET", "/"), subset) for _ in range(DRAWS)]
    found = {
        "native": [
            (names.index(each["host"]), each["explored"] == "1", each["propensity"], each["fallback"])
            for each in native.run(table, [Sent()] * DRAWS)
        ],
        "endpoint": [
            (addresses.index(each.endpoints[0]), each.explored, each.propensity, each.fallback) for each in theirs
        ],
    }
    for each in found.values():
        assert {fallback for *_, fallback in each} == {"" if serves else "no_row"}
        if not serves:
            continue
        assert_drawn([place for place, *_ in each], probability)
        for place, explored, propensity, _ in each:
            assert float(propensity) == pytest.approx(probability[place], rel=1e-5)
            assert explored or cost[place] == cost[up].min()

    # The simulator decides in its kernel whether to explore; see below. Where none can serve it is the fewest requests.
    own = load.astype(np.int64)
    least = np.zeros(len(names))
    least[up] = choice_probabilities(cost[up] if serves else own[up])
    lines = np.stack([table.slope[0, 0, columns], table.offset[0, 0, columns]]).astype(np.float64)
    state = np.array([7])
    gone = np.zeros(len(names))
    for kind, others in ((OWN, own * 9.0), (REPORTED, own * 0.0)):
        simulated = [fingerpost(up.astype(np.int64), own, others, gone, lines, kind, 1, state) for _ in range(DRAWS)]
        assert_drawn(simulated, least)
    shares = np.zeros(len(names))
    shares[up] = exploration_shares(cost[up], weight[up])
    planes = np.stack([*lines, weight])
    simulated = [explore(up.astype(np.int64), planes, state) for _ in range(DRAWS)]
    if shares.any():
        assert_drawn(simulated, shares)
    else:
        assert set(simulated) == {-1}


def test_the_simulator_explores_as_the_rule_says():
    scenario = Scenario.model_validate(
        {
            "name": "idle",
            "fleet": {"kind": "matrix", "service_time_s": [[0.001] * 4]},
            "slots": 8,
            "picker": {"exploration": 0.3},
            "warmup_s": 0,
            "duration_s": 10,
        }
    )
    # So few requests that hosts are idle: what is predicted alone decides.
    simulation = Bench(scenario, 1).simulation("fingerpost", 0.003, 1)
    slope, offset = cost_terms(np.array([[100.0, 100.0, 2.0, 1.0]]))
    simulation.install(np.stack([slope, offset, np.array([[0.5, 0.25, 0.0, 1.0]])])[None])
    records = simulation.step(10.0).records
    assert len(records.host) > 500
    probability = choice_probabilities([0.01, 0.01, 0.5, 1.0], 0.3, [0.5, 0.25, 0.0, 1.0])
    shares = np.bincount(records.host, minlength=4) / len(records.host)
    np.testing.assert_allclose(shares, probability, atol=0.06)
    assert records.explored.mean() == pytest.approx(0.3, abs=0.06)
    assert set(records.host[~records.explored]) == {0, 1}


def test_probabilities_sum_to_one_and_are_unknown_where_none_can_serve():
    costs = np.array([[1.0, 2.0, np.inf, 1.0], [np.inf] * 4])
    np.testing.assert_allclose(choice_probabilities(costs, 0.3)[0], [0.45, 0.1, 0.0, 0.45])
    assert np.isnan(choice_probabilities(costs, 0.3)[1]).all()


def test_what_is_explored_costs_little_more_than_the_best_or_is_unknown():
    costs = np.array([1.0, 1.5, 1.6, 9.0, np.inf, 9.0])
    weights = exploration_weight(costs, [99.0, 3.0, 3.0, 0.0, 0.0, np.nan], 1.5)
    np.testing.assert_allclose(weights, [0.1, 0.5, 0.0, 1.0, 0.0, 1.0])
    np.testing.assert_allclose(choice_probabilities(costs, 0.26, weights), [0.75, 0.05, 0.0, 0.1, 0.0, 0.1])
    # With nothing to explore all go to the best.
    np.testing.assert_allclose(choice_probabilities(costs, 0.26, 0.0), [1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert exploration_weight([np.inf, np.inf], 0.0, 1.5).tolist() == [0.0, 0.0]
