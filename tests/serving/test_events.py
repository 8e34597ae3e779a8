"""Events that the engine was told: kept once, within bounds, landed, and known to what scores."""

from dataclasses import replace

import numpy as np
import pytest

from fingerpost.clock import US, clock_us
from fingerpost.errors import RefusedError
from fingerpost.events import Event
from fingerpost.features.ingest import ingest
from fingerpost.features.outside import events_in_lake
from fingerpost.lake import parquet_files
from fingerpost.serving import outside
from fingerpost.serving.landing import FullError, Landing
from fingerpost.serving.outside import Events
from fingerpost.serving.store import Limits, ReportStore
from fingerpost.settings import Settings

pytestmark = pytest.mark.process

DAY_US = 86_400 * US
NOW_US = clock_us()
EVENT = Event("deploy", "shop", "h1", NOW_US, note="12", told_us=NOW_US)


@pytest.fixture
def store(tmp_path):
    store = ReportStore(f"sqlite:///{tmp_path / 'store.db'}", Limits(10, 10, US, US))
    yield store
    store.close()


def events_of(tmp_path, store, most_bytes=10**6, **settings):
    return Events(store, Landing(tmp_path / "lake", most_bytes), Settings(home=tmp_path, **settings))


def test_an_event_that_is_told_again_stays_as_it_was(tmp_path, store):
    events = events_of(tmp_path, store)
    events.take(EVENT)
    events.take(replace(EVENT, told_us=NOW_US + DAY_US))
    assert events.listing("shop") == [EVENT]
    assert events.listing("other") == []
    [path] = parquet_files(tmp_path / "lake" / "inbox" / "events")
    assert path.stem == f"event-{EVENT.id}"
    assert events.outside("shop").events == (EVENT,)
    # What is told is known at once, in another worker within seconds.
    later = replace(EVENT, at_us=NOW_US + DAY_US)
    events.take(later)
    assert events.outside("shop").events == (EVENT, later)


def test_an_event_that_is_withdrawn_is_not_known_any_more_and_stays_withdrawn(tmp_path, store):
    events = events_of(tmp_path, store)
    later = replace(EVENT, at_us=NOW_US + DAY_US)
    events.take(EVENT)
    events.take(later)
    with pytest.raises(RefusedError, match="id:unknown"):
        events.withdraw("other", later.id, NOW_US)
    for turn in (1, 2):
        events.withdraw("shop", later.id, NOW_US + turn)
    gone = replace(later, withdrawn_us=NOW_US + 1)
    assert events.listing("shop") == [EVENT, gone]
    assert events.outside("shop").events == (EVENT, gone)
    with pytest.raises(RefusedError, match="event:withdrawn"):
        events.take(later)
    assert len(list(parquet_files(tmp_path / "lake" / "inbox" / "events"))) == 3
    report = ingest(tmp_path / "lake", "shop", 5, 30 * 86_400)
    assert dict(report.refused) == {}
    assert sorted(events_in_lake(tmp_path / "lake", "shop"), key=lambda event: event.at_us) == [EVENT, gone]


def test_events_are_bounded_and_past_ones_go(tmp_path, store, monkeypatch):
    monkeypatch.setattr(outside, "MAX_EVENTS", 2)
    events = events_of(tmp_path, store, max_services=1)
    events.take(EVENT)
    events.take(replace(EVENT, host="h2"))
    with pytest.raises(RefusedError, match="events:too_many"):
        events.take(replace(EVENT, host="h3"))
    with pytest.raises(RefusedError, match="services:too_many"):
        events.take(replace(EVENT, service="other"))
    after = Event("config", "shop", "", NOW_US + 9 * DAY_US, told_us=NOW_US + 9 * DAY_US)
    events.take(after)
    assert events.listing("shop") == [after]


def test_what_could_not_be_landed_is_when_it_is_told_again(tmp_path, store):
    with pytest.raises(FullError):
        events_of(tmp_path, store, most_bytes=1).take(EVENT)
    events_of(tmp_path, store).take(EVENT)
    assert len(list(parquet_files(tmp_path / "lake" / "inbox" / "events"))) == 1


def test_a_calendar_or_country_that_cannot_be_used_is_told_and_changes_nothing(tmp_path, store, monkeypatch):
    monkeypatch.setattr(outside, "_LOOK_EVERY_S", 0.0)
    path = tmp_path / "calendar.toml"
    path.write_text('[[event]]\nkind = "campaign"\nat = 2026-11-27T08:00:00Z\n')
    events = events_of(tmp_path, store, calendar=path)
    events.take(EVENT)
    known = events.outside("shop")
    assert (len(known.events), events.problem) == (2, None)
    path.write_text("[[event")
    assert events.outside("shop") is known
    assert "calendar.toml cannot be read" in events.problem
    path.unlink()
    path.write_text("")
    assert events.outside("shop").events == (EVENT,)
    assert events.problem is None
    elsewhere = events_of(tmp_path, store, holidays="XX")
    assert elsewhere.outside("shop").country == ""
    assert "'XX' names no country" in elsewhere.problem
    assert np.isnan(elsewhere.outside("shop").of_hosts(("h1",)).at(NOW_US)["holiday"]).all()
