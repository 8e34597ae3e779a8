"""A host's load as its proxies know it: their own requests now, and those of others by what the host told."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fingerpost.accesslog.envoy import decision_parts
from fingerpost.category import OTHER
from fingerpost.middleware.core import Instrument
from fingerpost.routing.cost import cost_at
from fingerpost.routing.endpoint_picker.choice import Chooser
from fingerpost.routing.endpoint_picker.endpoints import Endpoints, endpoint_of
from fingerpost.routing.endpoint_picker.requests import Request
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.routing.inflight import GONE_ROUNDS, GONE_S, MAX_COUNT, ORCA_HEADER, faded, others_of, told_requests
from fingerpost.routing.table_file import PickerSettings
from fingerpost.simulator.choice import REPORTED, choose, heard
from fingerpost.simulator.policies import FINGERPOST
from fingerpost.simulator.state import OTHERS, OUT, TOLD_AT, new_state
from tests.support.picker_harness import Harness, build, made_table

MAX_LINE = 2000


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    folder = tmp_path_factory.mktemp("picker")
    return Harness(build(folder), folder)


@pytest.mark.parametrize(
    ("report", "told"),
    [
        ("TEXT cpu_utilization=0.5,named_metrics.inflight=3.000000", 3),
        ("TEXT named_metrics.inflight = 2.6, x=1", 3),
        ("TEXT inflight=12", 12),
        (f"TEXT x=1, inflight={MAX_COUNT}", MAX_COUNT),
        ('JSON {"cpu_utilization": 0.5, "named_metrics": {"inflight": 4}}', 4),
        ('JSON {"named_metrics":{"x":1,"inflight":4.4}}', 4),
        *(
            (bad, None)
            for bad in (
                *("", "TEXT", "TEXT ", "TEXT inflight", "TEXT inflight=", "TEXT inflight=x", "TEXT inflight=-3"),
                *("TEXT inflight=1e9", "TEXT inflight=99999999", f"TEXT inflight={MAX_COUNT + 1}", "TEXT inflight=3."),
                *("TEXT in.inflight=3", "TEXT named.inflight=3", "TEXT xinflight=3", "TEXT inflight=1_0"),
                *("JSON {}", 'JSON {"inflight"', 'JSON {"inflight":', 'JSON {"inflight":"3"}', "inflight=3"),
                *("BIN AAAA", "TEXT " + "x=1," * 3000 + "inflight=3"),
            )
        ),
    ],
)
@pytest.mark.process
def test_what_hosts_tell_is_read_alike_by_both_pickers(harness, report, told):
    assert told_requests(report) == told
    if not report or len(report) > MAX_LINE:
        return
    # In C it is read off the cost: slope 1, so the cost is one more than the requests in flight. A host's first report
    # tells that it reports at all; the second one counts.
    table = made_table(["h0"], [OTHER], slope=np.ones((1, 1, 2), dtype=np.float32))
    requests = [
        *("send /", f"answer 0 {ORCA_HEADER} {report}", "end 0", "send /", f"answer 1 {ORCA_HEADER} {report}", "end 1")
    ]
    found = harness.play(table, [*requests, "send /", "end 2"])
    expected = 0 if told is None else others_of(told, 1)
    assert float(decision_parts(found[-1])["predicted_cost"]) == pytest.approx(1 + expected, rel=0.02)


def test_the_middleware_writes_what_is_read():
    """The count is of now, though the rest of the report is made ten times a second at most."""
    host = Instrument("shop", "h", None, None, 1.0, 1, None, "text", host_headers=False)
    for encoding in ("text", "json"):
        host._orca, host.load._marks[-1] = encoding, (-1.0, *host.load._marks[-1][1:])
        under_way = []
        for count in range(1, 5):
            under_way.append(host.begin())
            [(name, report)] = host.headers(under_way[-1], 200)
            assert (name, told_requests(report)) == (ORCA_HEADER, count)
        for each in under_way:
            host.end(each, dict)


def test_others_are_what_a_host_told_less_the_own_and_fade():
    assert [others_of(told, 3) for told in (0, 3, 10)] == [0, 0, 7]
    np.testing.assert_allclose(faded(8, 0, [0.0, GONE_S / 2, GONE_S, 10 * GONE_S, -1.0]), [8, 4, 0, 0, 8])
    np.testing.assert_allclose(faded(8, [0.0, GONE_ROUNDS / 4, 2 * GONE_ROUNDS], [GONE_S / 8] * 3), [7, 6, 0])


# Of each host: slope, what it told, the picker's own then, and now, and how many seconds ago that was.
loads = st.tuples(
    *(st.integers(1, 40).map(lambda part: part / 1000), st.integers(0, 30), st.integers(1, 30), st.integers(0, 9)),
    st.sampled_from([0, 30, 150, 270, 400]),
)


@pytest.mark.process
@settings(max_examples=30, deadline=None)
@given(st.lists(loads, min_size=2, max_size=6))
@example([(0.01, 20, 1, 1, 0), (0.01, 5, 1, 1, 0), (0.02, 0, 1, 0, 400)])
def test_all_pickers_know_the_same_load(harness, drawn):
    slope, told, then, now, age_s = (np.array(each) for each in zip(*drawn, strict=True))
    names = [f"h{number}" for number in range(len(drawn))]
    # A category for each host, in which it alone serves, and one in which all do.
    rows = np.full((1, len(names) + 1, len(names) + 1), np.inf, dtype=np.float32)
    rows[0, :-1, :-1][np.eye(len(names), dtype=bool)] = 1.0
    rows[0, -1, :-1] = slope
    table = made_table(
        names,
        [*(f"GET /{name}" for name in names), OTHER],
        slope=rows,
        offset=np.zeros_like(rows),
        settings=PickerSettings(exploration=0.0),
    )
    # The oldest news first; each makes the ones before it older.
    order = np.argsort(-age_s, kind="stable")
    rounds = np.zeros(len(names))
    rounds[order] = np.arange(len(names))[::-1] / len(names)
    others = faded([others_of(*each) for each in zip(told.tolist(), then.tolist(), strict=True)], rounds, age_s)
    cost = cost_at(rows[0, -1, :-1], 0.0, now + others)

    # Every host reports once, so that its requests are counted; then as many are under way as there were.
    commands, sent, clock = [], 0, int(age_s.max())
    for name in names:
        commands += [f"send /{name}", f"answer {sent} {ORCA_HEADER} TEXT inflight=1", f"end {sent}"]
        sent += 1
    for place in order:
        commands += [f"wait {1000 * (clock - age_s[place])}", *[f"send /{names[place]}"] * int(then[place])]
        sent += int(then[place])
        commands += [f"answer {sent - 1} {ORCA_HEADER} TEXT inflight={told[place]}"]
        clock = age_s[place]
    commands += [
        f"wait {1000 * clock}",
        *(f"active {place} {count}" for place, count in enumerate(now)),
        "send /x",
        f"end {sent}",
    ]
    found = Harness(harness.program, harness.folder, [(name, 0, 1, 1) for name in names]).play(table, commands)
    assert cost[names.index(found[-2])] == pytest.approx(cost.min(), rel=0.01)
    assert float(decision_parts(found[-1])["predicted_cost"]) == pytest.approx(cost.min(), rel=0.01)

    upstreams = [Upstream(name, f"10.0.0.{number}", 80) for number, name in enumerate(names)]
    endpoints = Endpoints(upstreams)
    for place in order:
        endpoints.inflight[place] = then[place]
        endpoints.told(endpoint_of(upstreams[place]), int(told[place]), -float(age_s[place]))
    endpoints.inflight[:] = now
    np.testing.assert_allclose(endpoints.load(np.arange(len(names)), 0.0), now + others)

    count = len(names)
    fleet = SimpleNamespace(
        slots=np.full(count, 8),
        servers=np.full(count, 8.0),
        limits=np.full(count, np.inf),
        starts_up=np.ones(count, bool),
        service_s=np.ones((1, 1, count)),
    )
    state = new_state(fleet, 1, FINGERPOST, 1, False)
    for place in order:
        # In the simulator both counts are without the request that was answered.
        state.views_i[OUT, 0, place] = then[place] - 1
        heard(state, FINGERPOST, 0, place, 0, 0.0, 0.0, int(told[place]) - 1, -float(age_s[place]), False)
    views = state.views_f[:, 0]
    lines = np.stack([rows[0, -1, :-1], np.zeros(len(names))]).astype(np.float64)
    np.testing.assert_allclose(faded(views[OTHERS], rounds, -views[TOLD_AT]), others)
    state.views_i[OUT, 0] = now
    simulated = choose(state, lines, REPORTED, FINGERPOST, 0, 0, 0.0, 0.0)
    assert cost[simulated] == pytest.approx(cost.min())


@pytest.mark.process
def test_a_proxys_own_requests_are_no_others(harness):
    """One proxy alone: whatever a host tells of its requests, none of them is another one's."""
    table = made_table(["h0"], [OTHER], slope=np.ones((1, 1, 2), dtype=np.float32))
    commands = ["send /", f"answer 0 {ORCA_HEADER} TEXT inflight=1", "end 0"]
    for number in range(1, 5):
        commands += [f"active 0 {number - 1}", "send /", f"answer {number} {ORCA_HEADER} TEXT inflight={number}"]
    found = harness.play(table, [*commands, "active 0 4", "send /", "end 5"])
    assert float(decision_parts(found[-1])["predicted_cost"]) == 5.0
    # What has ended is not counted either, nor what was sent again to another host.
    two = Harness(harness.program, harness.folder, [("h0", 0, 1, 1), ("h1", 0, 1, 1)])
    table = made_table(["h0", "h1"], [OTHER], slope=np.array([[[1, 4, 9]]], dtype=np.float32))
    reports = f"{ORCA_HEADER} TEXT inflight="
    found = two.play(
        table,
        [
            *("send /", f"answer 0 {reports}1", "end 0", "send /", "retry 1", "send /", f"answer 2 {reports}1"),
            *("send /", f"answer 3 {reports}3", "send /", "end 4"),
        ],
    )
    assert found[:6] == ["h0", found[1], "h0", "h1", "h0", "h0"]
    # Two of its own, and one of another proxy.
    assert float(decision_parts(found[-1])["predicted_cost"]) == pytest.approx(2.0, rel=0.02)


@pytest.mark.process
def test_a_host_that_was_left_out_comes_back_with_its_count(harness):
    two = Harness(harness.program, harness.folder, [("h0", 0, 1, 1), ("h1", 0, 1, 1)])
    table = made_table(["h0", "h1"], [OTHER], slope=np.array([[[1, 4, 9]]], dtype=np.float32))
    report = f"{ORCA_HEADER} TEXT inflight="
    commands = ["send /", f"answer 0 {report}1", "end 0", "send /", f"answer 1 {report}9", "end 1"]
    found = two.play(table, [*commands, "health 0 0", "send /", "health 0 1", "send /", "wait 300000", "send /"])
    assert found[4:] == ["h1", "h1", "h0"]


def test_the_endpoint_picker_takes_the_host_that_told_less():
    upstreams = [Upstream(f"h{number}", f"10.0.0.{number}", 80) for number in range(2)]
    chooser = Chooser(Endpoints(upstreams))
    chooser.use(made_table(["h0", "h1"], [OTHER], settings=PickerSettings(exploration=0.0)))
    chooser.endpoints.told("10.0.0.0:80", 7, 1e9)
    chooser.endpoints.told("10.0.0.1:80", 6, 1e9)
    chosen = chooser.choose(Request("GET", "/"))
    assert chosen.endpoints[0] == "10.0.0.1:80"
    assert chosen.predicted_cost == pytest.approx(0.07)
