"""Which hosts there are: announced, draining, removed, and gone."""

import pytest

from fingerpost.announcement import DRAINING, REMOVED, SERVING, Announcement, Notice
from fingerpost.clock import US
from fingerpost.errors import RefusedError
from fingerpost.serving.members import Members, Roster, departed, merged
from fingerpost.serving.store import Arrival, Limits, ReportStore
from fingerpost.window_report import pack
from tests.support.made_fleet import MadeFleet

TTL_US = 3600 * US
BACK_US = 60 * US
NOW = 10**9 * US
ABOUT = Announcement("10.0.0.7:8000", "east", "big")


def told(state=SERVING, boot_id="life-1", host="web-1", about=ABOUT, service="shop"):
    return Notice(service, host, state, boot_id, about if boot_id else None)


def after(*notices, step_us=US):
    """The member after some notices, one each `step_us`."""
    member = None
    for number, notice in enumerate(notices):
        member = merged(member, notice, NOW + number * step_us, BACK_US)
    return member


def test_a_host_that_drains_stays_so_while_its_agent_lives():
    drained = after(told(), told(DRAINING, ""), told(), told())
    assert (drained.state, drained.about) == (DRAINING, ABOUT)
    assert drained.heard_us == NOW + 3 * US
    assert after(told(), told(DRAINING), told()).state == DRAINING
    assert after(told(), told(DRAINING), told(boot_id="life-2")).state == SERVING
    assert after(told(), told(DRAINING), told(SERVING, "")).state == SERVING


def test_a_removed_host_comes_back_with_another_life_of_its_agent():
    assert after(told(), told(REMOVED, ""), told(), told(DRAINING)).state == REMOVED
    assert after(told(), told(REMOVED, ""), told(boot_id="life-2")).state == SERVING


def test_an_agent_that_ends_speaks_for_its_own_life_alone():
    assert after(told(), told(boot_id="life-2"), told(DRAINING, "life-1")).state == SERVING


def test_an_operator_may_drain_a_host_before_it_announces_itself():
    drained = after(told(DRAINING, ""), told())
    assert (drained.state, drained.boot_id, drained.about) == (DRAINING, "life-1", ABOUT)


def test_a_host_joins_when_it_begins_to_serve():
    assert after(told(), told()).joined_us == NOW
    assert after(told(), told(DRAINING), told(boot_id="life-2")).joined_us == NOW + 2 * US
    # A host whose agent began another life was down, as far as anyone can tell, and begins cold.
    assert after(told(), told(boot_id="life-2")).joined_us == NOW + US
    assert after(told(), told(boot_id="life-2"), told(boot_id="life-2")).joined_us == NOW + US
    assert after(told(), told(boot_id="life-2"), step_us=2 * BACK_US).joined_us == NOW + 2 * BACK_US
    assert merged(None, told(), NOW, BACK_US, since_us=NOW - 5).joined_us == NOW - 5


def silent(**ago_s):
    return {host: (SERVING, NOW - s * US) for host, s in ago_s.items()}


def test_hosts_leave_after_their_time_of_silence():
    assert departed(silent(a=10, b=3601, c=20), NOW, 0, TTL_US) == ["b"]
    heard = {"a": (DRAINING, NOW - 61 * US), "b": (DRAINING, NOW - 59 * US), "c": (REMOVED, NOW - 61 * US)}
    assert departed(heard, NOW, 0, TTL_US) == ["a"]
    assert departed({"c": (REMOVED, NOW - 2 * TTL_US)}, NOW, 0, TTL_US) == ["c"]


def test_a_fleet_that_falls_silent_as_one_stays():
    """A network that is cut, or an engine that was away, takes no hosts away."""
    assert departed(silent(a=4000, b=4000, c=4000, d=10), NOW, 0, TTL_US) == []
    assert departed(silent(a=10**6, b=10**6), NOW, 0, TTL_US) == ["a", "b"]
    assert departed(silent(a=4000, b=10, c=10), NOW, NOW - 5 * US, TTL_US) == []


@pytest.fixture
def store(tmp_path):
    made = ReportStore(f"sqlite:///{tmp_path / 'store.db'}", Limits(50, 3, BACK_US))
    yield made
    made.close()


@pytest.fixture
def members(store):
    return Members(store, Limits(50, 3, BACK_US), TTL_US, 0)


def report(store, host, received_us=NOW):
    made = MadeFleet.make(1, 2).renamed(host).report(0, 1, received_us)
    row = Arrival("shop", host, host, made.boot_id, 1, received_us, made.end_us, received_us, pack(made))
    assert store.put([row]) == [None]


@pytest.mark.process
def test_the_list_has_hosts_that_report_and_that_were_announced(store, members):
    report(store, "web-2", NOW + 5)
    assert members.take(told(), NOW) == SERVING
    assert members.take(told(DRAINING, "", host="web-3"), NOW) == DRAINING
    assert members.take(told(REMOVED, "", host="web-4"), NOW) == REMOVED
    found = {each["host"]: each for each in members.listing("shop")}
    assert list(found) == ["web-1", "web-2", "web-3"]
    assert (found["web-1"]["address"], found["web-1"]["class"], found["web-1"]["reports"]) == (
        ABOUT.address,
        "big",
        False,
    )
    assert (found["web-2"]["address"], found["web-2"]["reports"], found["web-2"]["heard"]) == ("", True, (NOW + 5) / US)
    assert found["web-3"]["state"] == DRAINING
    assert members.listing("blog") == []


@pytest.mark.process
def test_a_removed_host_is_gone_with_what_it_reported(store, members):
    report(store, "web-1")
    members.take(told(), NOW)
    before = store.mark().change
    members.take(told(REMOVED, ""), NOW)
    assert members.listing("shop") == store.hosts() == []
    [gone] = members.changed("shop", before)
    assert (gone.host, gone.state) == ("web-1", REMOVED)
    # What its agent reports from now on makes it no host.
    report(store, "web-1", NOW + US)
    assert members.listing("shop") == []


@pytest.mark.process
def test_the_tag_changes_with_what_routers_use_and_not_with_each_sign_of_life(members, monkeypatch):
    monkeypatch.setattr("fingerpost.serving.members._LOOK_EVERY_S", -1.0)
    roster = Roster(members)
    members.take(told(), NOW)
    tag, body = roster.listing("shop")
    members.take(told(), NOW + US)
    again, newer = roster.listing("shop")
    assert again == tag
    assert newer != body
    members.take(told(DRAINING), NOW + US)
    assert roster.listing("shop")[0] != tag


@pytest.mark.process
def test_more_hosts_than_have_room_are_refused(members):
    for number in range(50):
        members.take(told(host=f"web-{number}"), NOW)
    with pytest.raises(RefusedError, match="hosts:too_many"):
        members.take(told(host="web-50"), NOW)
    members.take(told(host="web-7"), NOW)


@pytest.mark.process
def test_what_is_kept_is_bounded_over_days_of_churn(store):
    """Each hour 10 of 20 hosts are replaced by others of new names, one in two without a word."""
    members, kept = Members(store, Limits(500, 3, BACK_US), TTL_US, 0), []
    for hour in range(30):
        now_us = NOW + hour * TTL_US
        for place in range(20):
            life = (hour + 1) // 2 if place % 2 else hour // 2
            members.take(told(host=f"web-{place}-{life}", boot_id=f"b{life}"), now_us)
            if place % 4 == 0:
                members.take(told(DRAINING, host=f"web-{place}-{life - 1}", boot_id=f"b{life - 1}"), now_us)
        members.purge(now_us + 2 * US)
        kept.append(len(members.listing("shop")))
    # Those that left without a word stay for an hour.
    assert max(kept) <= 30
    assert set(kept[10:]) <= set(kept[2:10])
