"""The picker's file: what the router writes is what the native picker reads, and nothing else is."""

import os
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.accesslog.envoy import decision_parts
from fingerpost.errors import FingerpostError, RefusedError
from fingerpost.routing.cost import choice_probabilities, cost_at, cost_terms, routing_cost
from fingerpost.routing.guard import Correction
from fingerpost.routing.picker_table import predictions_from_json, table_from_json, table_of
from fingerpost.routing.table_file import Arm, PickerSettings, decode, encode
from fingerpost.routing.table_watch import TableWatch
from fingerpost.settings import Settings
from tests.support.picker_harness import Harness, build, made_table

names = st.lists(st.text(min_size=1, max_size=12), max_size=6, unique=True)


@given(names, names, st.integers(1, 3), st.floats(0, 1, width=32), st.integers(1, 1000))
def test_what_is_written_is_read(hosts, categories, matrices, exploration, scan):
    shape = (matrices, len(categories), len(hosts) + 1)
    rng = np.random.default_rng(len(hosts))
    table = made_table(
        hosts,
        categories,
        slope=rng.random(shape, dtype=np.float32),
        offset=rng.random(shape, dtype=np.float32),
        explore=rng.random(shape, dtype=np.float32),
        routes=("/a/*",),
        arms=(Arm("a", "random", 0, 0.5, "7"), Arm("b", "fingerpost", matrices - 1, 1.0, "8")),
        settings=PickerSettings(
            scan_limit=scan, exploration=exploration, arm_mode="header", arm_header="x-u", salt="s"
        ),
    )
    read = decode(encode(table))
    assert np.array_equal(read.slope, table.slope)
    assert np.array_equal(read.offset, table.offset)
    assert np.array_equal(read.explore, table.explore)
    assert replace(read, slope=table.slope, offset=table.offset, explore=table.explore) == table


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data):
    with pytest.raises(RefusedError):
        decode(data)
    with pytest.raises(RefusedError):
        decode(encode(made_table(["h"], ["other"]))[: len(data)] + data)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path):
    watch = TableWatch(tmp_path / "table")
    assert watch.newer() is None
    os.mkfifo(tmp_path / "table")
    with pytest.raises(RefusedError, match="table:unreadable"):
        watch.newer()
    (tmp_path / "table").unlink()
    with (tmp_path / "table").open("wb") as file:
        file.truncate(2**28 + 1)
    with pytest.raises(RefusedError, match="table:unreadable"):
        watch.newer()


def test_too_much_is_refused():
    with pytest.raises(ValueError, match="at most 16 arms"):
        encode(made_table(["h"], ["other"], arms=(Arm(),) * 17))
    with pytest.raises(ValueError, match="shape"):
        encode(made_table(["h"], ["other"], slope=np.zeros((1, 1, 1), dtype=np.float32)))


@pytest.mark.process
def test_the_native_reader_takes_good_files_and_no_others(tmp_path):
    """Under the address and undefined-behaviour sanitizers: cut files, changed bytes, and plain noise."""
    program = build(tmp_path, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    good = encode(
        made_table(["h0", "h1"], ["GET /a", "other"], routes=("/a/*", "/*/b"), arms=(Arm("x", until=0.3), Arm()))
    )
    rng = random.Random(1)
    cases = [good, *(good[:size] for size in range(0, len(good), 7)), *(rng.randbytes(size) for size in range(300))]
    for _ in range(600):
        changed = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(16, len(changed))] = rng.choice((0, 1, 127, 255, rng.randrange(256)))
        # With a right checksum, so that what stands behind it is reached.
        cases.append(_signed(bytes(changed)))
    paths = []
    for number, data in enumerate(cases):
        path = tmp_path / f"case{number}"
        path.write_bytes(data)
        paths.append(str(path))
    from tests.support.picker_harness import Harness

    answers = Harness(program, tmp_path).call("parse", *paths).decode().splitlines()
    assert len(answers) == len(cases)
    assert answers[0].startswith("1 ")
    assert all(answer.startswith("0 ") for answer in answers[1 : 1 + len(range(0, len(good), 7))])


def _signed(data: bytes) -> bytes:
    import struct

    from fingerpost.routing.table_file import MAGIC, _checksum

    return MAGIC + struct.pack("<Q", _checksum(data[16:])) + data[16:]


@pytest.mark.process
def test_streams_that_live_on_hold_no_table(tmp_path):
    """Each began with a table of its own, of 2 MB; they are done when the tables are long gone."""
    hosts = [f"h{n}" for n in range(1000)]
    sizes = []
    for number in (1, 2):
        table = made_table(hosts, [*(f"GET /c{n}" for n in range(260)), "other"], version=f"v{number}")
        (tmp_path / f"table{number}").write_bytes(encode(table))
        sizes.append((tmp_path / f"table{number}").stat().st_size)
    harness = Harness(build(tmp_path), tmp_path, [(name, 0, 1, 1) for name in hosts])
    files = (str(tmp_path / "table1"), str(tmp_path / "table2"))
    *logged, used = harness.call("hold", *files, harness.hosts_file(), "8").decode().splitlines()
    said = [decision_parts(line.partition("\t")[2]) for line in logged]
    assert [each["table_version"] for each in said] == ["v2", "v1"] * 4
    assert {(each["policy"], each["category"], each["arm"]) for each in said} == {("fingerpost", "other", "main")}
    # The one in force, and what the program itself needs: hosts, indices.
    assert int(used) < 3 * sizes[0]


@pytest.mark.process
def test_the_storm_leaves_nothing_behind(tmp_path):
    """Requests, retries, copied keys, hosts that come and go, tables swapped and broken, on two threads."""
    program = build(tmp_path, "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    table = encode(made_table([f"h{n}" for n in range(9)], ["GET /a/*/x|0", "other"]))
    for name in ("one", "two"):
        (tmp_path / name).write_bytes(table)
    (tmp_path / "hosts").write_text("".join(f"h{n} {n} 1 1 {n // 8}\n" for n in range(12)))
    files = [str(tmp_path / name) for name in ("one", "two", "hosts")]
    assert Harness(program, tmp_path).call("storm", *files, "40000") == b"done\n"


def engine_table(**changes):
    return {
        "version": "v1",
        "model_version": "7",
        "expires_at": 2e9,
        "hosts": [{"name": "a", "weight": 1.0}, {"name": "b", "weight": 0.5}, {"name": "c"}],
        "categories": ["GET /x", "other"],
        "routes": ["/x/*"],
        "throughput_rps": [[100.0, 50.0, None], [0.0, 10.0, 20.0]],
        "latency_p50_s": [[0.01, 0.02, None], [0.1, 0.1, 0.1]],
        "success_rate": [[1.0, 0.5, None], [1.0, 1.0, 1.0]],
        **changes,
    }


def test_costs_of_the_engines_table():
    table = table_from_json(engine_table(), Settings(latency_weight=0.0), 1)
    slope = table.slope[0]
    assert slope[0].tolist() == pytest.approx([1 / 100, 1 / (50 * 0.5 * 0.5**3), 1 / 75, 1 / 75])
    assert np.isinf(slope[1, 0])  # it said that it serves none
    assert (table.arms[0].model_version, table.expires_us) == ("7", 2 * 10**15)


def joining(weights, rates, settings=None, **changes):
    """The probabilities by the table with which each host is chosen while nothing is in flight, by category."""
    hosts = [{"name": f"h{place}", "weight": weight} for place, weight in enumerate(weights)]
    ones = np.ones_like(rates).tolist()
    rows = {"throughput_rps": rates.tolist(), "latency_p50_s": ones, "success_rate": ones}
    rows["evidence"] = np.full_like(rates, 99.0).tolist()
    given = {"hosts": hosts, "categories": [f"c{row}" for row in range(len(rates) - 1)] + ["other"], **rows, **changes}
    table = table_from_json(engine_table(**given), settings or Settings(latency_weight=0.0), 1)
    cost = cost_at(table.slope[0, :, :-1], table.offset[0, :, :-1], 0)
    return choice_probabilities(cost, table.settings.exploration, table.explore[0, :, :-1])


def test_a_joining_host_has_a_share_of_its_own_that_grows_with_its_weight():
    """By its cost alone it would get nothing, as long as better ones are idle."""
    rates = np.full((2, 10), 100.0)
    rates[:, 0], rates[0, 9] = 400.0, 50.0
    for weight in (0.1, 0.5, 0.95):
        shares = joining([1.0] * 9 + [weight], rates)[:, 9]
        # Half as fast as most in the first category: half of the share there.
        assert shares == pytest.approx([weight / 20, weight / 10], rel=1e-3)
    assert joining([1.0] * 10, rates)[:, 9].max() < 0.002


def test_a_joining_host_leaves_exploration_and_the_best_host_as_they_were():
    rates = np.full((3, 4), 100.0)
    rates[:, 0] = 130.0
    before = joining([1.0, 1.0, 1.0, 1.0], rates, Settings(latency_weight=0.0, exploration=0.04))
    found = joining([1.0, 1.0, 1.0, 0.5], rates, Settings(latency_weight=0.0, exploration=0.04))
    assert found.sum(axis=1) == pytest.approx(1.0)
    assert found[:, 3] == pytest.approx(0.5 / 4, rel=1e-3)
    assert found[:, 1] == pytest.approx(before[:, 1] * (1 - 0.125) * 4 / 3, rel=1e-3)
    # Where nothing is explored otherwise, all but its share goes to the best.
    found = joining([1.0, 1.0, 1.0, 0.5], rates, Settings(latency_weight=0.0, exploration=0.0))
    assert found[:, :3] == pytest.approx(np.array([[0.875, 0, 0]] * 3), rel=1e-3)


def test_a_joining_host_gets_nothing_where_it_fails_or_cannot_serve():
    rates = np.full((3, 4), 100.0)
    rates[0, 3] = 0.0
    success = np.ones((3, 4))
    success[1, 3] = 0.2
    shares = joining([1.0, 1.0, 1.0, 0.5], rates, success_rate=success.tolist())[:, 3]
    assert shares[0] == 0.0
    assert shares[1] == pytest.approx(0.0, abs=1e-6)
    assert shares[2] == pytest.approx(0.125, rel=1e-3)


@given(
    st.lists(st.sampled_from([0.1, 0.35, 0.95, 1.0]), min_size=1, max_size=6),
    st.floats(0, 1),
    st.integers(0, 2**16),
)
def test_whatever_joins_the_probabilities_are_whole_and_none_gets_more_than_an_even_share(weights, exploration, seed):
    weights = [*weights, 1.0]
    rng = np.random.default_rng(seed)
    rates = rng.choice([0.0, 1.0, 50.0, 100.0, 1000.0], (3, len(weights)))
    rates[:, -1] = 100.0
    settings = Settings(latency_weight=0.0, exploration=exploration)
    found = joining(weights, rates, settings)
    assert found.sum(axis=1) == pytest.approx(1.0, rel=1e-4)
    assert (found >= 0).all()
    # As many join: a fleet that doubles at once is not swamped.
    best = rates / np.asarray(rates).max(axis=1, keepdims=True) * np.array(weights)
    joins = (np.array(weights) < 1) & (best < best.max(axis=1, keepdims=True))
    assert found[joins].max(initial=0.0) <= max(weights) / len(weights) + 1e-4


def test_trust_brings_hosts_together():
    table = table_from_json(engine_table(hosts=[{"name": name} for name in "abc"]), Settings(prediction_trust=0.0), 1)
    assert table.slope[0, 0, 0] == pytest.approx(1 / 75)
    assert table.slope[0, 0, 2] == pytest.approx(1 / 75)


def test_a_requests_own_latency_counts_where_hosts_tell_their_slots_and_requests_in_flight():
    """By slots and throughput 8 / 100 s; another host is taken to be as the category's median."""
    latency = [[0.1, 0.02, None], [0.1, 0.1, 0.1]]
    told = [{"name": "a", "slots": 8, "inflight": 2}, {"name": "b", "slots": 4, "inflight": 0}, {"name": "c"}]
    offset = table_from_json(engine_table(hosts=told, latency_p50_s=latency), Settings(), 1).offset[0, 0]
    assert offset.tolist() == pytest.approx([0.08, 0.02 / 0.5**3, 0.05, 0.05])
    halved = table_from_json(engine_table(hosts=told, latency_p50_s=latency), Settings(latency_weight=0.5), 1)
    assert halved.offset[0, 0] == pytest.approx(offset / 2)
    for missing in ("slots", "inflight"):
        silent = [{name: value for name, value in host.items() if name != missing} for host in told]
        assert not table_from_json(engine_table(hosts=silent, latency_p50_s=latency), Settings(), 1).offset.any()


def test_hosts_are_explored_that_are_unknown_or_cost_little_and_would_not_fail():
    told = engine_table(
        hosts=[{"name": name} for name in "abc"],
        throughput_rps=[[100.0, 90.0, 10.0], [100.0, 90.0, 10.0]],
        latency_p50_s=[[0.0] * 3] * 2,
        success_rate=[[1.0, 1.0, 1.0], [1.0, 0.4, 1.0]],
        evidence=[[99.0, 3.0, 50.0], [99.0, 0.0, 0.0]],
    )
    explore = table_from_json(told, Settings(), 1).explore[0]
    # The last column is for hosts that the table does not know.
    np.testing.assert_allclose(explore, [[0.1, 0.5, 0.0, 1.0], [0.1, 0.0, 1.0, 1.0]])
    assert table_from_json(told, Settings(exploration_within=11.0), 1).explore[0, 0, 2] == pytest.approx(51**-0.5)
    # What the guard has found to fail, or to be far slower than predicted, is not explored either.
    guarded = table_of(
        predictions_from_json(told), Settings(), 1, Correction(1.0, np.array([[1, 1], [1, 1], [1, 9.0]]), np.ones(3))
    )
    np.testing.assert_allclose(guarded.explore[0, 1], [0.1, 0.0, 0.0, 1.0])
    # An engine that tells no evidence: all is unknown.
    assert (
        table_from_json({**told, "success_rate": [[1.0] * 3] * 2, "evidence": [[None] * 3] * 2}, Settings(), 1).explore
        == 1
    ).all()


def test_a_table_that_does_not_fit_is_refused():
    for changes in ({"hosts": 3}, {"throughput_rps": [[1.0]]}, {"expires_at": "soon"}, {"routes": None}):
        with pytest.raises(FingerpostError):
            table_from_json(engine_table(**changes), Settings(), 1)
    with pytest.raises(FingerpostError, match="'best'"):
        table_from_json(engine_table(), Settings(arm_shares={"best": 1.0}), 1)


@given(st.integers(0, 500), st.floats(0.1, 1e5), st.floats(0, 10), st.floats(0.01, 1), st.floats(0, 10))
def test_the_terms_are_the_cost(inflight, rate, latency, success, weight):
    slope, offset = cost_terms(rate, latency, success, weight)
    assert slope * (inflight + 1) + offset == pytest.approx(routing_cost(inflight, rate, latency, success, weight))


def test_a_hold_out_goes_by_least_request_also_in_an_experiment():
    settings = Settings(holdout=0.02)
    for arm, name in (("", "main"), ("challenger", "challenger")):
        arms = table_from_json({**engine_table(), "arm": arm}, settings, 1).arms
        assert [(each.name, each.policy) for each in arms] == [(name, "fingerpost"), ("least_request", "least_request")]
        assert [each.until for each in arms] == pytest.approx([0.98, 1.0])
    assert len(table_from_json(engine_table(), Settings(), 1).arms) == 1
    shared = Settings(holdout=0.02, arm_shares={"random": 1.0})
    assert [each.policy for each in table_from_json(engine_table(), shared, 1).arms] == ["random"]
