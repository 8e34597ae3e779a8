"""What comes from outside takes no more memory than its bounds say, and what refuses it does not hold on to it."""

import gzip
import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.bounded import Bounds, unpacked
from fingerpost.errors import RefusedError
from fingerpost.fingerprint import MAX_CATEGORIES, pack, unpack
from fingerpost.packed_message import MAX_PARTS, message, open_message
from tests.support.records import made_fingerprint

NILS = 8 * 2**20
# A list of millions of nils, such lists in lists, and a depth that sets room aside before any entry has come.
LISTS = {
    "flat": b"\xdd" + NILS.to_bytes(4, "big") + b"\xc0" * NILS,
    "in a list": b"\x91\xdd" + NILS.to_bytes(4, "big") + b"\xc0" * NILS,
    "lists of lists": msgpack.packb([[None] * 900] * 900),
    "deep": b"\xdc\x03\xe8" * 2**20,
    "maps": b"\xdd" + NILS.to_bytes(4, "big") + b"\x80" * NILS,
    "a map": b"\xdf" + NILS.to_bytes(4, "big") + b"\xc0" * NILS,
    "a text": msgpack.packb(["x" * NILS]),
}
SMALL = Bounds(containers=3, array=4, map=2, text=8, binary=8)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False)
    | st.text(max_size=2) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


def held_by(error):
    """The bytes and lists that an error keeps alive by its tracebacks, its cause and its context."""
    found, seen, waiting = [], set(), [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        waiting += [each.__cause__, each.__context__]
        trace = each.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename != __file__:
                found += [value for value in trace.tb_frame.f_locals.values() if isinstance(value, bytes | list)]
            trace = trace.tb_next
    return found


@pytest.mark.parametrize("what", LISTS)
def test_a_small_message_that_unpacks_to_millions_takes_no_memory(what):
    body = gzip.compress(LISTS[what], 1)
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError, match=r"message:(malformed|too_many)") as refused:
            open_message(body)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 4 * len(LISTS[what]) + 2**23  # the text of it, while it is unpacked, and no object an entry
    assert sum(map(len, held_by(refused.value))) <= len(body)


def test_a_message_of_too_many_says_so():
    assert len(open_message(message([b"x"] * MAX_PARTS))) == MAX_PARTS
    for count in (MAX_PARTS + 1, 2**17):
        with pytest.raises(RefusedError, match="message:too_many"):
            open_message(message([b""] * count))


@pytest.mark.parametrize(
    "extra",
    [[[]] * (MAX_CATEGORIES + 1), [[[]] * 64] * 64, dict.fromkeys(map(str, range(65)))],
    ids=["wide", "lists", "map"],
)
def test_a_fingerprint_has_bounds_on_what_it_does_not_know(extra):
    good = msgpack.unpackb(pack(made_fingerprint()))
    for known in ({}, {"later": [1, "a", b"b", {"c": [0.5]}]}):
        assert unpack(msgpack.packb({**good, **known}), 0, 2**62).host == "h1"
    with pytest.raises(RefusedError, match="fingerprint:malformed"):
        unpack(msgpack.packb({**good, "later": extra}), 0, 2**62)


@given(plain)
def test_what_is_within_its_bounds_comes_as_it_was(value):
    def size(each):
        inner = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        parts = [size(one) for one in inner]
        return (
            isinstance(each, dict | list) + sum(count for count, _ in parts),
            all([len(inner) <= (4 if isinstance(each, list) else 2), *(good for _, good in parts)]),
        )

    containers, good = size(value)
    if good and containers <= SMALL.containers:
        assert unpacked(msgpack.packb(value), SMALL) == value
    else:
        with pytest.raises(ValueError, match=r"exceeds|more than"):
            unpacked(msgpack.packb(value), SMALL)


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_are_a_value_error(data):
    try:
        unpacked(data, SMALL)
    except ValueError as error:
        assert sum(map(len, held_by(error))) <= len(data)
