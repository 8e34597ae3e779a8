"""Events are checked before they are known, however they are told."""

import contextlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.clock import US
from fingerpost.errors import FingerpostError, RefusedError
from fingerpost.events import Event, event_from_json, event_from_listing, read_calendar, withdrawal_from_json

NOW_US = 1_780_000_000 * US
DAY_S = 86_400


def told(**fields):
    return event_from_json(json.dumps({"service": "shop", "kind": "deploy", **fields}).encode(), NOW_US)


def test_an_event_travels_and_is_the_same_when_told_twice():
    event = told(host="h1", at=NOW_US / US + 3600, until=NOW_US / US + 7200, note="version 12")
    assert event == Event("deploy", "shop", "h1", NOW_US + 3600 * US, NOW_US + 7200 * US, "version 12", NOW_US)
    again = event_from_json(json.dumps(event.to_json()).encode(), NOW_US + 5)
    assert again.id == event.id != told(host="h2").id
    assert event_from_listing({**event.to_json(), "told": NOW_US / US}) == event
    for each in (event, replace(event, withdrawn_us=NOW_US + US)):
        assert event_from_listing(json.loads(json.dumps(each.listed()))) == each
        assert each.listed()["id"] == event.id
    assert told() == told(at=None, until=None) == Event("deploy", "shop", "", NOW_US, None, "", NOW_US)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"service": "a b"}, "service:bad_name"),
        ({"service": None}, "service:bad_name"),
        ({"kind": "party"}, "kind:unknown"),
        ({"kind": ["deploy"]}, "kind:unknown"),
        ({"host": "../h"}, "host:bad_name"),
        ({"at": "now"}, "at:type"),
        ({"at": True}, "at:type"),
        ({"at": -1}, "at:negative"),
        ({"at": 1e300}, "at:too_large"),
        ({"at": NOW_US / US - 40 * DAY_S}, "at:too_old"),
        ({"at": NOW_US / US + 500 * DAY_S}, "at:future"),
        ({"until": NOW_US / US - 1}, "until:before_at"),
        ({"until": NOW_US / US + 500 * DAY_S}, "until:future"),
        ({"note": 7}, "note:type"),
        ({"note": "x" * 201}, "note:too_long"),
        ({"note": "a\nb"}, "note:not_printable"),
        ({"note": "\ud800"}, "note:not_printable"),
    ],
)
def test_what_is_no_event_is_refused(fields, reason):
    with pytest.raises(RefusedError) as refused:
        told(**fields)
    assert refused.value.reason == reason


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "malformed"),
        (b"[]", "malformed"),
        (b"[" * 4000, "malformed"),
        (b'{"at": NaN}', None),
        (b" " * 5000, "too_large"),
    ],
)
def test_what_is_no_message_is_refused(body, reason):
    with pytest.raises(RefusedError) as refused:
        event_from_json(body, NOW_US)
    assert refused.value.reason == ("service:bad_name" if reason is None else f"event:{reason}")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[]", "event:malformed"),
        (b'{"id": "0123456789abcdef"}', "service:bad_name"),
        (b'{"service": "shop"}', "id:bad_id"),
        (b'{"service": "shop", "id": 7}', "id:bad_id"),
        (b'{"service": "shop", "id": "0123456789ABCDEF"}', "id:bad_id"),
        (b'{"service": "shop", "id": "0123456789abcdef\\n"}', "id:bad_id"),
    ],
)
def test_what_is_no_withdrawal_is_refused(body, reason):
    with pytest.raises(RefusedError) as refused:
        withdrawal_from_json(body)
    assert refused.value.reason == reason
    assert withdrawal_from_json(b'{"service": "shop", "id": "0123456789abcdef"}') == ("shop", "0123456789abcdef")


@given(st.dictionaries(st.sampled_from(["service", "kind", "host", "at", "until", "note"]),
                       st.none() | st.booleans() | st.floats() | st.text() | st.lists(st.integers())))  # fmt: skip
def test_nothing_but_a_refusal_comes_of_anything(fields):
    with contextlib.suppress(RefusedError):
        event_from_json(json.dumps(fields).encode(), NOW_US)


def test_a_calendar_tells_of_planned_events(tmp_path):
    path = tmp_path / "calendar.toml"
    path.write_text(
        '[[event]]\nkind = "campaign"\nat = 2026-11-27T08:00:00Z\nuntil = 2026-11-28T00:00:00+01:00\nnote = "sale"\n'
        '[[event]]\nkind = "deploy"\nservice = "shop"\nhost = "h1"\nat = 2026-11-30T09:00:00\n'
    )
    sale, deploy = read_calendar(path)
    assert (sale.service, sale.told_us, sale.until_us - sale.at_us) == ("", 0, 15 * 3600 * US)
    assert (deploy.service, deploy.host, deploy.at_us) == ("shop", "h1", 1_796_029_200 * US)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("event = 3", "write its events as"),
        ("[[event", "cannot be read"),
        ('[[event]]\nkind = "deploy"', "event 1 .*at:missing"),
        ('[[event]]\nkind = "deploy"\nat = "noon"', "event 1 .*at:type"),
        ('[[event]]\nkind = "deploy"\nat = 2026-11-30T09:00:00\nwhere = "x"', "event 1 .*where:unknown"),
        ('[[event]]\nkind = "deploy"\nat = 2026-11-30T09:00:00\nservice = "a b"', "event 1 .*service:bad_name"),
    ],
)
def test_a_calendar_that_cannot_be_used_says_why(tmp_path, text, words):
    path = tmp_path / "calendar.toml"
    path.write_text(text)
    with pytest.raises(FingerpostError, match=words):
        read_calendar(path)
    with pytest.raises(FingerpostError, match="cannot be read"):
        read_calendar(tmp_path / "none.toml")
