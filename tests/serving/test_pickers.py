"""Which pickers follow a table, and how old the table of each is."""

import pytest

from fingerpost.clock import US, clock_us
from fingerpost.serving.page.pickers import pickers_of, said_of
from fingerpost.serving.pickers import GONE_S, Picker, Pickers
from fingerpost.serving.store import Limits, ReportStore

TTL_S = 30.0


@pytest.mark.process
def test_pickers_of_all_workers_are_listed_the_oldest_table_first(tmp_path):
    now_us = clock_us()
    # Two workers of one store.
    first, second = (Pickers(ReportStore(f"sqlite:///{tmp_path}/s.db", Limits(9, 9, 60 * US))) for _ in range(2))
    first.note("shop", "router/edge-1", now_us - 9 * US)
    first.note("shop", "endpoint-picker/gateway", now_us - 40 * US)
    first.note("blog", "router/edge-1", now_us)
    for who in ("", "router", "router/", "router/<b>", "desk/x", "router/" + "x" * 65):
        first.note("shop", who, now_us)
    second.note("shop", "router/edge-1", now_us - 2 * US)
    second.save()
    first.save()
    found = second.listing("shop", now_us)
    assert [(each.kind, each.name, each.age_s(now_us)) for each in found] == [
        ("endpoint-picker", "gateway", 40.0),
        ("router", "edge-1", 2.0),
    ]
    assert [each.name for each in first.listing("blog", now_us)] == ["edge-1"]
    assert first.listing("shop", now_us + round(GONE_S * US) - 10 * US) == found[1:]
    first.note("shop", "router/edge-2", now_us - round(2 * GONE_S * US))
    first.save()
    first.note("shop", "router/edge-3", now_us)
    first.save()
    assert {each.name for each in first.listing("shop", now_us - round(2 * GONE_S * US))} == {
        "edge-1",
        "edge-3",
        "gateway",
    }


def test_a_picker_that_asks_no_more_is_said_to_be_wrong():
    now_us = 10**9 * US
    ages_s = [400, 300, 200, 100, 35, 1]
    found = pickers_of([Picker("shop", "router", f"e{age}", now_us - age * US) for age in ages_s], now_us, TTL_S)
    assert found["known"] == 6
    # What was told 5 s ago may be known since now.
    assert [each["expired"] for each in found["listed"]] == [True] * 4 + [False] * 2
    said = said_of(found["listed"])
    assert said[0].startswith("router e400 has asked for no table for 400 s")
    assert said[3:] == ["So have 1 more."]
    assert said_of(found["listed"][4:]) == []
