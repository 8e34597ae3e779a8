"""The native picker does what its Python definitions say: categories, costs, arms, fallbacks."""

import os
import random
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fingerpost.accesslog.envoy import decision_parts
from fingerpost.category import OTHER, SIZE_NAMES, CategoryTable
from fingerpost.routing.arms import arm_of, time_key
from fingerpost.routing.router import write_table
from fingerpost.routing.table_file import Arm, PickerSettings
from tests.support.picker_harness import Harness, Sent, build, made_table
from tests.support.picker_requests import key_of, requests

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    folder = tmp_path_factory.mktemp("picker")
    return Harness(build(folder), folder)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(st.lists(requests, min_size=60, max_size=60), st.randoms(use_true_random=False))
def test_categories_are_the_same_as_everywhere(harness, sent, rng):
    """3,600 requests; a table of keys cut from them at random, and of templates with words and wildcards."""
    templates = ("/users/*", "/users/*/orders", "/*/orders", "/users/7/orders", "/", "/v2/*/*/users")
    plain = CategoryTable((), templates)
    keys = {key_of(each)[: rng.randrange(1, 6)] for each in sent if rng.random() < 0.7}
    routed = {(f"{key[0].partition(' ')[0]} {plain._routes.match(key[0].partition(' ')[2])}", *key[1:]) for key in keys}
    table = CategoryTable(tuple(sorted(routed)), templates)
    found = harness.run(made_table(["h0"], table.names, routes=table.routes), sent)
    assert [each["category"] for each in found] == [table.assign(key_of(each)) for each in sent]


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(st.lists(requests, min_size=60, max_size=60), st.randoms(use_true_random=False))
def test_a_body_of_undeclared_size_has_the_category_of_some_size(harness, sent, rng):
    """As of gRPC, and of bodies in chunks: nobody knows the size before it is there."""
    sent = [replace(each, length=None if rng.random() < 0.8 else each.length) for each in sent]
    sized = [(*key_of(each)[:1], rng.choice(SIZE_NAMES), *key_of(each)[2:]) for each in sent]
    keys = {key[: rng.randrange(1, 6)] for key in sized if rng.random() < 0.7}
    table = CategoryTable(tuple(sorted(keys)))
    found = replace(harness, body=True).run(made_table(["h0"], table.names), sent)
    assert [each["category"] for each in found] == [
        table.assign(key_of(each)) if each.length else table.assign_unsized(key_of(each)) for each in sent
    ]


def test_the_least_cost_is_chosen_among_healthy_hosts(harness):
    rng = np.random.default_rng(2)
    hosts = [f"h{number}" for number in range(20)]
    slope = rng.uniform(0.01, 0.1, (1, 2, 21)).astype(np.float32)
    offset = rng.uniform(0, 0.05, (1, 2, 21)).astype(np.float32)
    slope[0, 0, 3] = np.inf
    table = made_table(
        hosts,
        ["GET /a", OTHER],
        slope=slope,
        offset=offset,
        settings=PickerSettings(exploration=0.0),
    )
    for seed in range(12):
        load = random.Random(seed)
        # The last host is not in the table: it counts as its last column says.
        listed = [(name, load.randrange(6), int(load.random() < 0.8), 1) for name in [*hosts[1:], "new"]]
        load.shuffle(listed)
        with_hosts = replace(harness, hosts=listed)
        found = with_hosts.run(table, [Sent(path=b"/a")])[0]
        columns = {name: hosts.index(name) if name in hosts else 20 for name, *_ in listed}
        costs = {
            name: slope[0, 0, columns[name]] * (active + 1) + offset[0, 0, columns[name]]
            for name, active, healthy, _ in listed
            if healthy
        }
        assert found["host"] == min(costs, key=costs.__getitem__)
        assert float(found["predicted_cost"]) == pytest.approx(min(costs.values()), rel=1e-5)
        assert float(found["propensity"]) == 1.0


def test_a_host_of_another_zone_is_taken_where_it_is_better_than_the_bound(harness):
    """Costs are compared with those of other zones times the factor; the log has them as they are."""
    zones = replace(harness, policy="zone=north\nzone_factor=1.5\n")
    table = made_table(["near", "far", "nowhere"], [OTHER], settings=PickerSettings(exploration=0.0))
    listed = [("near", 0, 1, 1, 0, "north"), ("far", 0, 1, 1, 0, "south"), ("nowhere", 9, 1, 1, 0, "-")]

    def chosen(costs, **changes):
        table.slope[0, 0] = [*costs, 1.0]
        [found] = replace(zones, hosts=listed, **changes).run(table, [Sent()])
        return found["host"], float(found["predicted_cost"]), found["propensity"]

    assert chosen([0.012, 0.01, 1.0]) == ("near", 0.012, "1")
    assert chosen([0.016, 0.01, 1.0]) == ("far", 0.01, "1")
    # Of a host without a zone nothing is known: it is as near as any.
    assert chosen([0.02, 0.02, 0.001]) == ("nowhere", 0.01, "1")
    # A proxy that does not know its own zone has no preference.
    assert chosen([0.012, 0.01, 1.0], policy="") == ("far", 0.01, "1")
    assert {replace(zones, hosts=listed[:2]).run(None, [Sent()])[0]["host"] for _ in range(3)} == {"near"}


def test_a_policy_has_its_own_table_and_service(harness, tmp_path):
    own = tmp_path / "own.table"
    write_table(own, made_table(["h0"], ["GET /a", OTHER], version="own"))
    of_filter = made_table(["h0"], ["GET /a", OTHER], version="filter's")
    named = replace(harness, policy=f"table={own}\nservice=shop\n")

    def versions(of):
        return [(each["policy"], each["table_version"]) for each in of.run(of_filter, [Sent(path=b"/a")])]

    # The harness logs what the header's name has beyond the usual one before the decision itself.
    assert versions(named) == [("-shopfingerpost", "own")]
    assert versions(harness) == [("fingerpost", "filter's")]
    # The route leads to a cluster of another name, such as one that gathers others: the filter's table holds.
    assert versions(replace(harness, cluster="all")) == [("fingerpost", "filter's")]
    own.unlink()
    assert versions(named) == [("-shopleast_request", "")]


@pytest.mark.parametrize(
    "settings",
    ["table=relative", "table", "tables=/a", "zone=", "zone_factor=0.9", "zone_factor=1x", "zone_factor=nan",
     "service=a b", "service=" + "a" * 65, "table=/a\ntable=/b"],
)  # fmt: skip
def test_a_policy_with_other_settings_is_refused_with_the_reason(harness, settings):
    done = subprocess.run(
        [harness.program, "run", "/absent", replace(harness).hosts_file()],
        env={**os.environ, "POLICY": settings}, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 3
    last = settings.rpartition("\n")[2].partition("=")
    assert f"refused: {last[0]}={last[2]};" in done.stderr.decode()


def test_exploration_has_its_share_and_its_propensity(harness):
    table = made_table(["h0", "h1", "h2", "h3"], [OTHER], settings=PickerSettings(exploration=0.4))
    table.slope[0, 0] = [0.01, 0.02, 0.03, 0.04, 0.05]
    four = replace(harness, hosts=[(f"h{n}", 0, 1, 1) for n in range(4)])
    found = four.run(table, [Sent()] * 4000)
    counts = Counter(each["host"] for each in found)
    assert counts["h0"] == pytest.approx(0.7 * 4000, abs=130)
    assert counts["h3"] == pytest.approx(0.1 * 4000, abs=90)
    for each in found:
        assert float(each["propensity"]) == pytest.approx(0.7 if each["host"] == "h0" else 0.1, rel=1e-5)
        assert each["host"] == "h0" or each["explored"] == "1"


def test_the_harness_throws_the_same_dice_every_time(harness):
    two = replace(harness, hosts=[(f"h{n}", 0, 1, 1) for n in range(2)])
    table = made_table(["h0", "h1"], [OTHER], settings=PickerSettings(exploration=0.5))
    first, second = (two.run(table, [Sent()] * 50) for _ in range(2))
    assert first == second


def test_ties_break_at_random(harness):
    two = replace(harness, hosts=[(f"h{n}", 0, 1, 1) for n in range(2)])
    table = made_table(["h0", "h1"], [OTHER], settings=PickerSettings(exploration=0.0))
    found = two.run(table, [Sent()] * 400)
    assert 130 < Counter(each["host"] for each in found)["h0"] < 270
    assert {float(each["propensity"]) for each in found} == {0.5}


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (None, "no_table"),
        (b"FPTABLE\x01 but broken", "no_table"),
        (made_table(["h0"], [OTHER], expires_us=1), "expired"),
        (made_table(["h0"], ["GET /b"]), "no_category"),
        (made_table(["h0"], [OTHER], slope=np.full((1, 1, 2), np.inf, dtype=np.float32)), "no_row"),
    ],
)
def test_without_predictions_it_is_least_request(harness, table, reason):
    hosts = replace(harness, hosts=[("h0", 9, 1, 1), ("h1", 9, 0, 1), ("h2", 0, 1, 1)])
    found = hosts.run(table, [Sent(path=b"/a")] * 300)
    assert {each["fallback"] for each in found} == {reason}
    assert {each["policy"] for each in found} == {"least_request"}
    counts = Counter(each["host"] for each in found)
    # Of two drawn among two, both are the loaded one a quarter of the time.
    assert counts["h1"] == 0
    assert counts["h2"] == pytest.approx(225, abs=40)


def test_large_fleets_are_sampled(harness):
    hosts = [f"h{number}" for number in range(200)]
    table = made_table(hosts, [OTHER], settings=PickerSettings(scan_limit=100, sample=20, exploration=0.0))
    many = replace(harness, hosts=[(name, 0, 1, 1) for name in hosts])
    found = many.run(table, [Sent()] * 400)
    assert len({each["host"] for each in found}) > 100
    assert {each["propensity"] for each in found} == {""}


def test_arms_are_those_of_the_definition(harness):
    arms = (
        Arm("a", "least_request", 0, 0.3, "1"),
        Arm("b", "random", 0, 0.6, "2"),
        Arm("c", "fingerpost", 0, 1.0, "3"),
    )
    by_header = PickerSettings(arm_mode="header", arm_header="cookie", salt="s1", exploration=0.0)
    table = made_table(["h0"], [OTHER], arms=arms, settings=by_header)
    keys = [f"user-{number}".encode() for number in range(300)]
    found = harness.run(table, [Sent(cookie=key) for key in keys])
    expected = [arm_of(table, key) for key in keys]
    assert [each["arm"] for each in found] == [arm.name for arm in expected]
    assert [each["policy"] for each in found] == [arm.policy for arm in expected]
    assert [each["model_version"] for each in found] == [arm.model_version for arm in expected]
    assert set(Counter(each["arm"] for each in found)) == {"a", "b", "c"}


def test_arms_by_request_are_drawn_by_an_id_of_the_pickers_own(harness):
    """The same request again and again has now one arm and now another: nothing that a client sends decides it."""
    arms = (Arm("a", until=0.25), Arm("b", until=1.0))
    table = made_table(["h0"], [OTHER], arms=arms, settings=PickerSettings(arm_mode="request", salt="s"))
    found = Counter(each["arm"] for each in harness.run(table, [Sent(cookie=b"7")] * 2000))
    assert found["a"] == pytest.approx(500, abs=100)


def test_propensities_are_of_what_was_seen_when_it_was_chosen(harness):
    """Another thread's requests change the counts meanwhile; the best host keeps the share that it was chosen with."""
    table = made_table(["h0", "h1", "h2", "h3"], [OTHER], settings=PickerSettings(exploration=0.2))
    table.slope[0, 0] = [0.01, 0.0101, 0.0102, 0.0103, 0.05]
    four = replace(harness, hosts=[(f"h{n}", 0, 1, 1) for n in range(4)])
    found = four.race(table, 4000)
    assert len({each["host"] for each in found}) == 4
    best, rest = 0.85, 0.05
    assert {round(float(each["propensity"]), 6) for each in found if not each["explored"]} == {best}
    assert {round(float(each["propensity"]), 6) for each in found if each["explored"]} == {best, rest}


@pytest.mark.parametrize(
    ("healthy", "shares"),
    [
        # Of 4, 4 and 2 hosts; each priority bears 1.4 times its healthy part, the first ones first.
        ((4, 4, 2), (1.0, 0.0, 0.0)),
        ((3, 4, 2), (1.0, 0.0, 0.0)),
        ((1, 4, 2), (0.35, 0.65, 0.0)),
        ((0, 1, 2), (0.0, 0.35, 0.65)),
        ((1, 1, 0), (0.5, 0.5, 0.0)),
        ((1, 0, 0), (1.0, 0.0, 0.0)),
    ],
)
def test_priorities_share_the_traffic_as_envoy_does(harness, healthy, shares):
    sizes = (4, 4, 2)
    listed = [
        (f"p{priority}-{place}", 0, int(place < healthy[priority]), 1, priority)
        for priority, size in enumerate(sizes)
        for place in range(size)
    ]
    names = [name for name, *_ in listed]
    table = made_table(names, [OTHER], settings=PickerSettings(exploration=0.0))
    # One host of each is the best, and its propensity is the share of its priority.
    table.slope[0, 0, [names.index(f"p{priority}-0") for priority in range(3)]] = 0.001
    found = replace(harness, hosts=listed).run(table, [Sent()] * 2000)
    assert {each["fallback"] for each in found} == {""}
    counts = Counter(each["host"] for each in found)
    for priority, share in enumerate(shares):
        assert counts[f"p{priority}-0"] == pytest.approx(2000 * share, abs=100)
        told = {float(each["propensity"]) for each in found if each["host"] == f"p{priority}-0"}
        assert told == ({share} if share else set())
    assert sum(counts[f"p{priority}-0"] for priority in range(3)) == 2000


def test_thousands_of_templates_with_one_parent(harness):
    templates = (*(f"/shops/shop{number}/*" for number in range(8190)), "/shops/*/x", "/*/shop7/y")
    names = CategoryTable(tuple((f"GET {route}",) for route in templates[::500] + templates[-2:]), templates)
    paths = ["/shops/shop500/1", "/shops/shop501/1", "/shops/nobody/x", "/other/shop7/y", "/shops/shop7/y", "/shops"]
    sent = [Sent(path=path.encode()) for path in paths]
    found = harness.run(made_table(["h0"], names.names, routes=names.routes), sent)
    assert [each["category"] for each in found] == [names.assign(key_of(each)) for each in sent]


def test_a_file_that_could_not_be_read_is_looked_at_again():
    """Only its permissions change, not its time nor its size. Root reads everything: another user asks."""
    with tempfile.TemporaryDirectory(dir="/tmp") as text:
        folder = Path(text)
        folder.chmod(0o755)
        listed = Harness(build(folder), folder).hosts_file()
        table = folder / "picker.table"
        write_table(table, made_table(["h0"], [OTHER]))
        table.chmod(0)
        user = {"user": 65534} if os.geteuid() == 0 else {}
        command = [folder / "harness", "run", table, listed]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **user) as running:

            def ask():
                running.stdin.write(Sent().packed())
                running.stdin.flush()
                return decision_parts(running.stdout.readline().decode().strip().partition("\t")[2])["fallback"]

            assert [ask() for _ in range(3)] == ["no_table"] * 3
            table.chmod(0o644)
            deadline = time.monotonic() + 20
            while ask():
                assert time.monotonic() < deadline, "not in time"
                time.sleep(0.02)
            running.stdin.close()


def test_arms_by_time_change_with_it(harness):
    arms = (Arm("a", until=0.5), Arm("b"))
    table = made_table(["h0"], [OTHER], arms=arms, settings=PickerSettings(arm_mode="time", arm_seconds=1_000_000_000))
    found = harness.run(table, [Sent()] * 5)
    assert {each["arm"] for each in found} == {arm_of(table, time_key(1_000_000_000, time.time())).name}
    assert len({arm_of(table, time_key(60, minute * 60.0)).name for minute in range(30)}) == 2
