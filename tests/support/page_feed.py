"""Fills a running engine with what its page and metrics tell of: windows of a fleet, flows, decisions."""

from typing import Any

import httpx

from fingerpost.clock import US, clock_us
from fingerpost.experiment import CHALLENGER, CHAMPION
from fingerpost.flow_status import note_decision, note_ended, note_started

WINDOW_US = 10 * US


def page_numbers(engine: Any, path: str = "/v1/page", **asked: Any) -> Any:
    """What the page is given."""
    return httpx.get(f"{engine.url}{path}", params=asked, trust_env=False, timeout=20).json()


def feed_windows(engine: Any, made: Any, windows: int) -> None:
    """Sends the latest windows of a fleet one after the other, each once the engine knows of the one before."""
    now_us = clock_us() // WINDOW_US * WINDOW_US
    with engine.client(timeout_s=30) as client:
        for number in range(windows):
            at_us = now_us - (windows - number) * WINDOW_US + 1000
            assert client.send_reports(made.packed(number + 1, at_us))["accepted"] == len(made.hosts)
            engine.wait_for(lambda count=number: len(page_numbers(engine)["traffic"]["series"]["times"]) > count)


def note_flows(engine: Any) -> None:
    """Notes flows that ran and failed, and decisions, in the engine's lake."""
    lake, now_us = engine.home / "lake", clock_us()
    note_started(lake, "shop", "ingest", now_us - 2 * US, "http://127.0.0.1:4200/runs/flow-run/1", now_us - 9 * US)
    note_ended(lake, "shop", "ingest", clock_us(), False, "<b>done</b>", {})
    note_started(lake, "shop", "train", clock_us())
    note_ended(lake, "shop", "train", clock_us(), True, "OSError: no room")
    note_started(lake, "shop", "drift", clock_us())
    note_ended(lake, "shop", "drift", clock_us(), False, "no drift", {CHAMPION: {"verdict": "no drift"}})
    for number, action in enumerate(("rollback", "promote")):
        told = {"id": str(number), "when": "2026-11-27T06:00:00Z", "action": action, "who": "me", "why": "<i>so</i>"}
        note_decision(lake, "shop", {**told, CHAMPION: "1", CHALLENGER: "2", "gates": "errors: pass, none"})
