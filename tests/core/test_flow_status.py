"""What the lake tells of the flows: written by runs, read by the engine's page; damaged files count as absent."""

import json

from fingerpost.clock import US
from fingerpost.flow_status import (
    FAILED,
    OK,
    RUNNING,
    decisions,
    flow_statuses,
    note_decision,
    note_ended,
    note_started,
)


def test_a_run_that_succeeds_then_one_that_fails(tmp_path):
    note_started(tmp_path, "shop", "ingest", 100 * US, "http://prefect/1", 92 * US)
    begun = flow_statuses(tmp_path, "shop")["ingest"]
    assert (begun.state, begun.lag_s) == (RUNNING, 8.0)
    note_ended(tmp_path, "shop", "ingest", 103 * US, False, "done", {"files": 2})
    found = flow_statuses(tmp_path, "shop")["ingest"]
    assert (found.state, found.succeeded_us, found.took_s, found.details) == (OK, 103 * US, 3.0, {"files": 2})
    for number in (1, 2):
        note_started(tmp_path, "shop", "ingest", (200 + number) * US)
        note_ended(tmp_path, "shop", "ingest", (210 + number) * US, True, "x" * 1000)
        found = flow_statuses(tmp_path, "shop")["ingest"]
        assert (found.state, found.failures, found.succeeded_us) == (FAILED, number, 103 * US)
        assert len(found.text) == 500
        assert found.details == {"files": 2}
    assert flow_statuses(tmp_path, "other") == {}


def test_what_is_damaged_or_cannot_be_written_is_absent(tmp_path):
    note_started(tmp_path, "shop", "train", US)
    folder = tmp_path / "status" / "service=shop"
    (folder / "drift.json").write_text("{")
    (folder / "shadow.json").write_text(json.dumps({"flow": "../x", "service": "shop", "state": "ok", "started_us": 1}))
    (folder / "decisions.json").write_text('{"a": 1}')
    assert set(flow_statuses(tmp_path, "shop")) == {"train"}
    assert decisions(tmp_path, "shop") == []
    blocked = tmp_path / "file"
    blocked.write_text("")
    note_started(blocked, "shop", "train", US)
    note_decision(blocked, "shop", {"id": "1", "when": "now", "action": "wait"})


def test_decisions_are_kept_in_order_and_bounded(tmp_path):
    for number in range(120):
        note_decision(tmp_path, "shop", {"id": str(number), "when": "t", "action": "wait", "why": "y" * 2000})
    note_decision(tmp_path, "shop", {"id": "119", "when": "t", "action": "promote"})
    found = decisions(tmp_path, "shop")
    assert [each["id"] for each in found] == [str(number) for number in range(20, 120)]
    assert found[-1]["action"] == "promote"
    assert len(found[0]["why"]) == 500
