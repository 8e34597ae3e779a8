"""What is announced of a host: as it goes over the wire, and what is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.agent.announcer import announced
from fingerpost.announcement import (
    MAX_BYTES,
    STATES,
    Announcement,
    Notice,
    announcement_from_wire,
    notice_from_json,
    split_address,
)
from fingerpost.errors import FingerpostError, RefusedError

WHOLE = Announcement("10.0.0.7:8000", "east", "c5.large", 8, 3.5)


@pytest.mark.parametrize("about", [WHOLE, Announcement(), Announcement("[fd00::7]:80"), Announcement(zone="east")])
@pytest.mark.parametrize("state", STATES)
def test_a_notice_comes_back_as_it_was(about, state):
    assert announcement_from_wire(about.to_wire()) == about
    told = Notice("shop", "web-1", state, "life-1", about)
    assert notice_from_json(told.to_json()) == told


def test_an_operator_need_not_say_where_the_host_is():
    assert notice_from_json(Notice("shop", "web-1", "removed").to_json()).about is None
    assert notice_from_json(b'{"service": "shop", "host": "a", "zone": "east"}').about == Announcement(zone="east")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"service": "a/b"}, "service:bad_name"),
        ({"host": None}, "host:bad_name"),
        ({"boot_id": "a b"}, "boot_id:bad_name"),
        ({"state": "gone"}, "state:unknown"),
        ({"address": "web-1:80"}, "address:malformed"),
        ({"address": "10.0.0.7"}, "address:malformed"),
        ({"address": "10.0.0.7:0"}, "address:malformed"),
        ({"address": "10.0.0.7:80000"}, "address:malformed"),
        ({"address": "fd00::7:80"}, "address:malformed"),
        ({"address": "[10.0.0.7]:80"}, "address:malformed"),
        ({"address": "[fe80::1%eth0]:80"}, "address:malformed"),
        ({"address": 7}, "address:malformed"),
        ({"address": "0.0.0.0:80"}, "address:unspecified"),
        ({"zone": "../etc"}, "zone:bad_name"),
        ({"class": 3}, "class:bad_name"),
        ({"slots": 0}, "slots:too_small"),
        ({"slots": 1.5}, "slots:type"),
        ({"slots": True}, "slots:type"),
        ({"slots": float("nan")}, "slots:type"),
        ({"cores": -1}, "cores:too_small"),
        ({"cores": 1e9}, "cores:too_large"),
        ({"cores": "4"}, "cores:type"),
    ],
)
def test_each_field_is_checked(changes, reason):
    with pytest.raises(RefusedError) as refused:
        notice_from_json(json.dumps({"service": "shop", "host": "web-1", **changes}).encode())
    assert refused.value.reason == reason


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b"[" * 4000, b" " * (MAX_BYTES + 1)])
def test_what_is_no_notice_is_refused(body):
    with pytest.raises(RefusedError, match=r"notice:(malformed|too_large)"):
        notice_from_json(body)


@given(st.binary(max_size=200) | st.text(max_size=80).map(str.encode))
def test_any_bytes_are_a_notice_or_refused(body):
    try:
        notice_from_json(body)
    except RefusedError as error:
        assert error.reason


def test_addresses_have_one_spelling():
    assert split_address("[FD00:0::7]:8000") == ("[fd00::7]", 8000)
    assert announcement_from_wire({"address": "[FD00:0::7]:8000"}).address == "[fd00::7]:8000"


@pytest.mark.parametrize(
    ("given", "told"),
    [({"address": "web-1:80"}, "--address 'web-1:80'"), ({"zone": "a b"}, "--zone"), ({"host_class": "/"}, "--class")],
)
def test_what_is_misspelt_on_the_command_line_is_named(given, told):
    options = {"address": "", "engine_url": "", "zone": "", "host_class": "", "slots": None, **given}
    with pytest.raises(FingerpostError, match=told):
        announced(**options)


@pytest.mark.process
def test_the_own_address_is_that_by_which_the_engine_is_reached():
    assert announced("auto:8000", "http://127.0.0.1:3000", "", "", 4) == Announcement("127.0.0.1:8000", slots=4)
