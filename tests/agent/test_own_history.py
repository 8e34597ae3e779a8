"""The history an agent keeps: the same as the features step's, through restarts and other categories."""

import json
import time
from pathlib import Path

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.agent.host_history import SETTLE_US, HistoryFile, HostHistory
from fingerpost.category import CategoryTable
from fingerpost.clock import US, clock_us
from fingerpost.errors import RefusedError
from fingerpost.features.build import load_categories
from fingerpost.fingerprint import pack, unpack
from fingerpost.history_block import HistoryBlock
from fingerpost.telemetry.history import HISTORY_COLUMNS, HISTORY_HOST_COLUMNS, HISTORY_SCHEMA
from fingerpost.telemetry.recurrence import RECURRENCE_VIEWS
from tests.support.agent_harness import agent, log_line
from tests.support.lakes import records_of, replayed
from tests.support.records import made_fingerprint, record

SEEN = HISTORY_COLUMNS.index("seen_windows")


def follow(own, requests, samples, step_us=2 * US):
    """Hands rows over in steps of time, as an agent does, and closes windows on the way."""
    begin = min(requests[0]["time"], samples[0]["time"])
    end = max(requests[-1]["time"], samples[-1]["time"]) + 2 * SETTLE_US + round(own.window_s * US)
    for low in range(begin, end, step_us):
        own.add_requests([row for row in requests if low <= row["time"] < low + step_us])
        for row in samples:
            if low <= row["time"] < low + step_us:
                own.add_sample(row)
        own.close(low + step_us)


def test_an_agent_has_the_history_that_the_features_step_replays(featured_lake):
    table = load_categories(featured_lake, "shop")
    hosts, history = replayed(featured_lake, table.names)
    for place, host in enumerate(hosts):
        own = HostHistory(table, 5.0, 30.0)
        follow(own, records_of(featured_lake, host), records_of(featured_lake, host, "samples"))
        assert own.history.now_us >= history.now_us
        now_us = own.history.now_us
        np.testing.assert_array_equal(own.history.columns(now_us)[0], history.columns(now_us)[place])
        np.testing.assert_array_equal(own.history.host_values(now_us)[0], history.host_values(now_us)[place])
        assert own.counts["history_late"] == 0


def test_other_categories_are_replayed_from_what_is_still_there(featured_lake, monkeypatch):
    table = load_categories(featured_lake, "shop")
    requests, samples = records_of(featured_lake, "h1"), records_of(featured_lake, "h1", "samples")
    straight, changed = HostHistory(table, 5.0, 30.0), HostHistory(CategoryTable(), 5.0, 30.0)
    follow(straight, requests, samples)
    follow(changed, requests, samples)
    changed.use_table(table)
    np.testing.assert_array_equal(changed.history.columns(), straight.history.columns())
    np.testing.assert_array_equal(changed.history.host_values(), straight.history.host_values())

    # With less kept than there was, what has the same name keeps its history, and the rest has a part of it.
    monkeypatch.setattr("fingerpost.agent.window_buffer.MAX_KEPT", 1000)
    short = HostHistory(CategoryTable(table.keys[:1]), 5.0, 30.0)
    follow(short, requests, samples)
    short.use_table(table)
    assert not short.recent.complete
    seen, all_seen = short.history.columns()[0, :, SEEN], straight.history.columns()[0, :, SEEN]
    assert seen[0] == all_seen[0]
    assert (seen[1:-1] > 0).all() and (seen[1:-1] < all_seen[1:-1]).all()
    # Of the host itself only how far it is off, and what recurs of that, depends on which categories there are.
    off = ("_off", "_drift", *RECURRENCE_VIEWS)
    plain = [place for place, name in enumerate(HISTORY_HOST_COLUMNS) if not name.endswith(off)]
    np.testing.assert_array_equal(short.history.host_values()[:, plain], straight.history.host_values()[:, plain])


def test_a_restart_loses_and_repeats_nothing(featured_lake, tmp_path):
    table = load_categories(featured_lake, "shop")
    requests, samples = records_of(featured_lake, "h2"), records_of(featured_lake, "h2", "samples")
    straight = HostHistory(table, 5.0, 30.0)
    follow(straight, requests, samples)

    own = HostHistory(table, 5.0, 30.0)
    file = HistoryFile(tmp_path / "h2.history", own, "0")
    half, more = len(requests) // 2, len(requests) // 2 + 333
    middle_us = requests[more]["time"]
    file.add_requests(requests[:half])
    early = [row for row in samples if row["time"] < middle_us]
    for row in early:
        own.add_sample(row)
    own.close(requests[half]["time"])
    file.save("0")
    file.committed()
    file.add_requests(requests[half:more])  # in the middle of a window
    own.close(middle_us)
    file.save("half")
    # It ends before it can note how far it was: the same batch comes again.
    again = HostHistory(CategoryTable(), 5.0, 30.0)
    file = HistoryFile(tmp_path / "h2.history", again, "half")
    assert again.table.version == table.version
    file.add_requests(requests[half:])
    for row in samples[len(early) :]:
        again.add_sample(row)
    again.close(straight.history.now_us + SETTLE_US)
    np.testing.assert_array_equal(again.history.columns(), straight.history.columns())
    np.testing.assert_array_equal(again.history.host_values(), straight.history.host_values())


@pytest.mark.parametrize("damage", [b"", b"\xc1", b"cut", b"\x80"])
def test_a_damaged_file_begins_the_history_anew(tmp_path, damage):
    path = tmp_path / "h1.history"
    own = HostHistory(CategoryTable(), 5.0, 30.0)
    own.add_requests([record()])
    HistoryFile(path, own, "0").save("0")
    path.write_bytes(path.read_bytes()[:-20] if damage == b"cut" else damage)
    fresh = HostHistory(CategoryTable(), 5.0, 30.0)
    HistoryFile(path, fresh, "0")
    assert fresh.history.now_us == 0
    other = HostHistory(CategoryTable(), 7.0, 30.0)
    HistoryFile(path, own, "0").save("0")
    HistoryFile(path, other, "0")
    assert other.recent.requests.shape[1] == 0


@pytest.mark.parametrize("change", [{"format": 0}, {"schema": "of before"}, {"window_s": 7.0}, {"state": {}}])
def test_the_history_of_another_version_is_set_aside(tmp_path, caplog, change):
    path = tmp_path / "h1.history"
    own = HostHistory(CategoryTable(), 5.0, 30.0)
    own.add_requests([record()])
    HistoryFile(path, own, "0").save("0")
    path.write_bytes(msgpack.packb({**msgpack.unpackb(path.read_bytes()), **change}))
    fresh = HostHistory(CategoryTable(), 5.0, 30.0)
    file = HistoryFile(path, fresh, "0")
    assert fresh.recent.requests.shape[1] == 0
    assert "the history begins anew" in caplog.text
    assert ("saved by another version, or with another window_s or halflife_s" in caplog.text) == (
        "state" not in change
    )
    file.add_requests([record()])
    file.save("0")  # and takes its place
    assert HistoryFile(path, HostHistory(CategoryTable(), 5.0, 30.0), "0")._skip == 1


def test_what_comes_after_its_window_is_counted_and_left_out():
    own = HostHistory(CategoryTable(), 5.0, 30.0)
    now = clock_us()
    own.add_requests([record(time=now - 20 * US)])
    assert own.close(now)
    before = own.history.columns()
    own.add_requests([record(time=now - 19 * US)])
    own.close(now)
    assert own.counts["history_late"] == 1
    np.testing.assert_array_equal(own.history.columns(), before)
    assert own.block().categories == ("other",)
    own.close(now - 3600 * US)  # the clock went back: it begins anew
    assert own.block().categories == ()


def test_many_kinds_of_requests_are_bounded(monkeypatch):
    monkeypatch.setattr("fingerpost.agent.window_buffer.MAX_KEYS", 50)
    monkeypatch.setattr("fingerpost.agent.window_buffer.MAX_KEPT", 60)
    own = HostHistory(CategoryTable((("POST /r3",),)), 1.0, 30.0)
    begin = clock_us() // US * US - 100 * US
    for second in range(20):
        rows = [
            record(time=begin + second * US + n, route=f"/r{n if second < 10 else n % 5}") for n in range(40 + second)
        ]
        own.add_requests(rows)
        own.close(begin + second * US)
    assert len(own.recent.keys) <= 51
    assert own.history.columns()[0, 0, SEEN] == own.history.columns()[0, 1, SEEN] > 10


def test_agents_send_their_history_and_keep_it(tmp_path):
    log = tmp_path / "access.log"
    now = time.time()
    log.write_bytes(b"".join(log_line(start=f"{now - 9 + 0.01 * n:.6f}") + b"\n" for n in range(300)))
    first = agent(tmp_path, window_s=2.0)
    first.sample_host()
    first.read()
    first.report()
    block = first.last.fingerprint.history
    assert block.schema == HISTORY_SCHEMA
    assert block.cells.shape == (len(block.categories), len(HISTORY_COLUMNS))
    assert block.host_values.shape == (len(HISTORY_HOST_COLUMNS),)
    assert now * US - 4.5 * US < block.as_of_us <= now * US
    second = agent(tmp_path, window_s=2.0)
    second.sample_host()
    second.report()
    assert second.last.fingerprint.history.cells[:, SEEN].max() >= block.cells[:, SEEN].max() > 0
    assert json.loads((Path(tmp_path) / "lake/agents/service=shop/h1.json").read_text())["offset"] > 0


def block(**changes):
    good = {
        **{"schema": "s", "window_s": 5.0, "halflife_s": 30.0, "as_of_us": 1000, "categories": ("a", "b")},
        "cells": np.array([[1, np.nan, 3], [4, 5, 6]], dtype=np.float32),
        "host_values": np.array([1, np.nan], dtype=np.float32),
    }
    return HistoryBlock(**{**good, **changes})


def test_a_history_travels():
    sent = made_fingerprint(history=block())
    got = unpack(pack(sent), 0, 2**62).history
    assert (got.schema, got.as_of_us, got.categories) == ("s", 1000, ("a", "b"))
    np.testing.assert_array_equal(got.cells, sent.history.cells)
    np.testing.assert_array_equal(got.host_values, sent.history.host_values)
    assert unpack(pack(made_fingerprint()), 0, 2**62).history is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cells": np.full((2, 3), np.inf, dtype=np.float32)}, "not_finite"),
        ({"cells": np.full((2, 3), -1e30, dtype=np.float32)}, "not_finite"),
        ({"host_values": np.array([np.inf], dtype=np.float32)}, "not_finite"),
        ({"cells": np.zeros((2, 300), dtype=np.float32)}, "size"),
        ({"cells": np.zeros((1, 3), dtype=np.float32)}, "size"),
        ({"categories": ("a", "a")}, "categories"),
        ({"categories": ("a", "b" * 10_000)}, "categories"),
        ({"as_of_us": 2**61}, "time"),
        ({"as_of_us": True}, "time"),
        ({"window_s": -1.0}, "seconds"),
        ({"halflife_s": float("nan")}, "seconds"),
        ({"schema": 3}, "schema"),
    ],
)
def test_a_bad_history_is_refused_by_name(changes, reason):
    with pytest.raises(RefusedError) as refused:
        unpack(pack(made_fingerprint(history=block(**changes))), 0, 2**62)
    assert refused.value.reason == f"history:{reason}"


wire = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(
    st.dictionaries(st.sampled_from(["schema", "window_s", "halflife_s", "as_of_us", "categories", "cells"]), wire)
    | wire
)
def test_any_history_is_taken_or_refused(given):
    from fingerpost.history_block import block_from_wire, block_to_wire

    full = {**block_to_wire(block()), **given} if isinstance(given, dict) else given
    try:
        taken = block_from_wire(full, 10**6)
    except RefusedError as error:
        assert error.reason.startswith("history:")
    else:
        assert not np.isinf(taken.cells).any()
