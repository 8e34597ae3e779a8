"""Window reports on the wire: what is packed comes back, and every field is checked."""

import gzip
from dataclasses import replace

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.errors import RefusedError
from fingerpost.packed_message import MAX_UNPACKED_BYTES, message, open_message
from fingerpost.records import SIGNS
from fingerpost.window_report import (
    LOAD_COLUMNS,
    SAMPLE_COLUMNS,
    WINDOW_COLUMNS,
    WindowReport,
    pack,
    unpack,
)

NOW_US = 1_700_000_000_000_000
END_US = 1_699_999_990_000_000
NAMES = ("GET /a|0|none|browser|DE", "GET /b|0|none|browser|DE", "other")


def made(**changes):
    windows = np.full((len(NAMES), len(WINDOW_COLUMNS)), 0.25, dtype=np.float32)
    windows[:, :3] = [[3, 1, 2], [10, 0, 10], [1, 1, 0]]
    windows[2, 3:] = np.nan
    told = WindowReport(
        *("shop", "h1", "host", "h1", "boot", 7, NOW_US, END_US, 10.0, "v1", NAMES, windows),
        np.arange(len(LOAD_COLUMNS), dtype=np.float32) / 16,
        np.array([4.0, 1e9, 2e9, 3.0, np.nan]),
        ((("GET /a", "0", "none", "browser", "DE"), 3), (("GET /b", "0", "none", "browser", "DE"), 11)),
    )
    return replace(told, **changes)


def taken(report):
    return unpack(pack(report), NOW_US - 10**9, NOW_US + 10**6)


def changed(**fields):
    given = msgpack.unpackb(pack(made()))
    for name, value in fields.items():
        if value is None:
            del given[name]
        else:
            given[name] = value
    return msgpack.packb(given)


def test_a_report_comes_back_as_it_was():
    told, back = made(), taken(made())
    for name in vars(told):
        one, other = getattr(told, name), getattr(back, name)
        if isinstance(one, np.ndarray):
            np.testing.assert_array_equal(one, other)
        else:
            assert one == other, name
    assert back.column("requests").tolist() == [3, 10, 1]


def test_a_report_without_a_window_says_only_that_the_host_is_there():
    empty = np.zeros((0, len(WINDOW_COLUMNS)), dtype=np.float32)
    back = taken(made(end_us=0, categories=(), windows=empty, load=None, keys=()))
    assert back.end_us == 0 and back.windows.shape == (0, len(WINDOW_COLUMNS)) and back.load is None


def test_columns_of_another_version_are_left_out_or_unknown():
    given = msgpack.unpackb(pack(made()))
    rows = len(NAMES)
    given["columns"] = ["requests", "errors", "measured", "invented", "latency_p50_s"]
    columns = np.array([[3, 10, 1], [0, 0, 0], [3, 10, 1], [-5, -5, -5], [0.1, 0.2, 0.3]], dtype="<f4")
    given["windows"] = columns.view(np.uint8).reshape(5, rows, 4).transpose(0, 2, 1).tobytes()
    back = unpack(msgpack.packb(given), 0, 2**62)
    assert back.column("latency_p50_s") == pytest.approx([0.1, 0.2, 0.3])
    assert np.isnan(back.column("latency_p99_s")).all()


def test_signs_of_programs_before_and_after_this_one():
    known = [name for name in LOAD_COLUMNS if name not in SIGNS]
    for signs in ({}, {"fan_speed": 0.5}, None):
        back = unpack(changed(signs=signs), 0, 2**62)
        assert np.isnan(back.load[len(known) :]).all()
        np.testing.assert_array_equal(back.load[: len(known)], made().load[: len(known)])
    # Programs that know no signs take a load of so many numbers alone.
    assert len(msgpack.unpackb(pack(made()))["load"]) == 4 * len(known) == 28
    unknown = made().load.copy()
    unknown[len(known) :] = np.nan
    assert msgpack.unpackb(pack(made(load=unknown)))["signs"] == {}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"schema": 0}, "schema:older"),
        ({"schema": 99}, "schema:newer"),
        ({"schema": "1"}, "schema:unknown"),
        ({"schema": True}, "schema:unknown"),
        ({"form": 99}, "schema:newer"),
        ({"service": "../x"}, "service:bad_name"),
        ({"host": None}, "host:bad_name"),
        ({"reporter": ""}, "reporter:bad_name"),
        ({"source": "cloud"}, "source:unknown"),
        ({"sequence": -1}, "sequence:type"),
        ({"time_us": 1}, "time:too_old"),
        ({"time_us": NOW_US + 10**10}, "time:future"),
        ({"window_s": 0}, "window_s:type"),
        ({"window_s": float("nan")}, "window_s:type"),
        ({"end_us": END_US + 1}, "end_us:not_aligned"),
        ({"end_us": NOW_US + 10**9}, "end_us:future"),
        ({"end_us": 10_000_000}, "end_us:too_old"),
        ({"end_us": 0}, "end_us:missing"),
        ({"category_version": 5}, "category_version:type"),
        ({"categories": ["a", "a", "b"]}, "categories:repeated"),
        ({"categories": ["a", "b"]}, "windows:size"),
        ({"categories": ["a" * 600, "b", "c"]}, "categories:too_long"),
        ({"columns": ["requests"]}, "columns:type"),
        ({"load": b"123"}, "load:size"),
        ({"sample": b""}, "sample:size"),
        ({"sample": np.full(len(SAMPLE_COLUMNS), np.inf, "<f4").tobytes()}, "cores:not_finite"),
        ({"sample": np.full(len(SAMPLE_COLUMNS), -1, "<f4").tobytes()}, "cores:negative"),
        ({"load": np.full(7, 2, "<f4").tobytes()}, "cpu_util:too_large"),
        ({"load": np.full(len(LOAD_COLUMNS), 0.5, "<f4").tobytes()}, "load:size"),
        ({"signs": [0.5]}, "signs:type"),
        ({"signs": {"throttled_share": 1}}, "signs:type"),
        ({"signs": {"throttled_share": "0.5"}}, "signs:type"),
        ({"signs": {"throttled_share": 1.5}}, "throttled_share:too_large"),
        ({"signs": {"cpu_pressure": -0.5}}, "cpu_pressure:negative"),
        ({"signs": {"steal_share": 1e300}}, "steal_share:too_large"),
        ({"signs": {"steal_share": float("inf")}}, "steal_share:not_finite"),
        ({"keys": [["a|b", 3]]}, "keys:bad_key"),
        ({"keys": [["GET /|0|none|x|y", 0]]}, "keys:count"),
        ({"keys": {"a": 1}}, "keys:type"),
        ({"landed": 1}, "landed:type"),
    ],
)
def test_what_is_out_of_bounds_is_refused_by_reason(fields, reason):
    with pytest.raises(RefusedError) as caught:
        unpack(changed(**fields), NOW_US - 10**9, NOW_US + 10**6)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("requests", np.nan, "requests:type"),
        ("requests", 1.5, "requests:type"),
        ("errors", 11, "errors:type"),
        ("measured", 4, "measured:type"),
        ("latency_p50_s", -1, "latency_p50_s:negative"),
        ("latency_p50_s", np.inf, "latency_p50_s:not_finite"),
        ("cpu_attributed_share", 1.5, "cpu_attributed_share:too_large"),
        ("throughput_rps", 1e30, "throughput_rps:too_large"),
    ],
)
def test_numbers_of_windows_are_checked(name, value, reason):
    windows = made().windows.copy()
    windows[0, WINDOW_COLUMNS.index(name)] = value
    with pytest.raises(RefusedError) as caught:
        taken(made(windows=windows))
    assert caught.value.reason == reason


@given(st.binary(max_size=200))
def test_any_bytes_are_a_report_or_refused(data):
    with pytest.raises(RefusedError):
        unpack(data, 0, 2**62)


FIELDS = sorted(msgpack.unpackb(pack(made())))


@given(st.dictionaries(st.sampled_from(FIELDS), st.none() | st.integers(-(2**63), 2**64 - 1) | st.text()))
def test_any_field_may_hold_anything(fields):
    given = {**msgpack.unpackb(pack(made())), **fields}
    try:
        unpack(msgpack.packb(given), 0, 2**62)
    except RefusedError:
        return


def test_a_message_holds_many_reports_and_is_bounded():
    assert [unpack(each, 0, 2**62).host for each in open_message(message([pack(made()), pack(made(host="h2"))]))] == [
        "h1",
        "h2",
    ]
    for body, reason in (
        (b"no gzip", "message:malformed"),
        (gzip.compress(msgpack.packb([1, 2])), "message:malformed"),
        (gzip.compress(msgpack.packb([b""] * 1001)), "message:too_many"),
        (gzip.compress(bytes(MAX_UNPACKED_BYTES + 1)), "message:too_large"),
    ):
        with pytest.raises(RefusedError) as caught:
            open_message(body)
        assert caught.value.reason == reason
