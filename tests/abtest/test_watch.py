"""The watch after a promotion: rolls back what is worse, keeps what is not, goes on where it was killed."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fingerpost.abtest.promotion.guardrails import load_requests, read_guardrails
from fingerpost.abtest.promotion.promote import promote_version, rollback
from fingerpost.abtest.promotion.record import history
from fingerpost.abtest.promotion.watch import check_promotion
from fingerpost.clock import US
from fingerpost.experiment import CHAMPION
from fingerpost.lake import partition, write_atomically
from fingerpost.schemas import REQUEST_RECORD_SCHEMA
from fingerpost.training.registry import WATCH_TAG
from tests.conftest import record
from tests.support.registry_harness import registry_settings

SLOT_S, RATE = 60.0, 2


def write_requests(lake, begin, minutes, slower=1.0, failing=0.002, heavy=0.5, seed=0, arm=None):
    """Requests of two routes, one of which takes ten times as long, with bursts that whole slots share."""
    rng = np.random.default_rng(seed)
    rows = []
    for minute in range(minutes):
        burst = rng.lognormal(0, 0.15)
        for number in range(round(RATE * 60)):
            is_heavy = rng.random() < heavy
            duration = 0.02 * (10 if is_heavy else 1) * rng.lognormal(0, 0.4) * burst * slower
            at = int(begin.timestamp() * US) + minute * 60 * US + number * US // RATE
            status = 503 if rng.random() < failing else 200
            route = "/heavy" if is_heavy else "/light"
            rows.append(record(time=at, route=route, status=status, duration_s=duration, arm=arm))
    by_day = {}
    for row in rows:
        by_day.setdefault(datetime.fromtimestamp(row["time"] / US, UTC).strftime("%Y-%m-%d"), []).append(row)
    for day, part in by_day.items():
        table = pa.Table.from_pylist(
            part, schema=pa.schema([each.with_nullable(True) for each in REQUEST_RECORD_SCHEMA])
        )
        path = partition(lake, "requests", "shop", day) / f"{begin:%H%M}-{seed}-{arm}.parquet"
        write_atomically(path, lambda temporary, table=table: pq.write_table(table, temporary))


def promoted(made, **after):
    """A promotion with an hour of requests before it and half an hour, made otherwise, after; and its watcher."""
    promote_version(made.settings, "2", "ann", "test", skip_gates=True)
    since = datetime.fromisoformat(made.registry.note(WATCH_TAG)["since"])
    write_requests(made.settings.lake, since - timedelta(minutes=60), 60)
    write_requests(made.settings.lake, since, 30, seed=1, **after)
    return since


def test_a_slower_champion_is_rolled_back(made):
    since = promoted(made, slower=1.8)
    found = check_promotion(made.settings, "watch", since + timedelta(minutes=10))
    assert found.state == "rolled back"
    assert "p99 is 1." in found.reason
    assert made.champion == "1"
    assert made.registry.note(WATCH_TAG) is None
    assert history(made.registry)[0].action == "rollback"
    assert check_promotion(made.settings, "watch", since + timedelta(minutes=11)) is None


def test_a_failing_champion_is_rolled_back(made):
    since = promoted(made, failing=0.08)
    found = check_promotion(made.settings, "watch", since + timedelta(minutes=10))
    assert found.state == "rolled back"
    assert "failed requests rose" in found.reason


@pytest.mark.parametrize("heavy", [0.5, 0.95])
def test_what_is_no_worse_is_kept_also_when_the_requests_become_heavier(made, heavy):
    since = promoted(made, heavy=heavy)
    for minutes in range(3, 30, 3):
        assert check_promotion(made.settings, "watch", since + timedelta(minutes=minutes)).state == "watching"
    # Another process goes on from what the registry holds.
    again = registry_settings(made.settings.home)
    assert check_promotion(again, "watch", since + timedelta(hours=2)).state == "kept"
    assert made.champion == "2"
    assert made.registry.note(WATCH_TAG) is None
    assert history(made.registry)[0].action == "kept"


def test_without_requests_nothing_is_rolled_back(made):
    promote_version(made.settings, "2", "ann", "test", skip_gates=True)
    found = check_promotion(made.settings, "watch", datetime.now(UTC) + timedelta(hours=2))
    assert (found.state, found.reading["enough"]) == ("kept", False)


def test_a_watch_over_what_is_no_champion_ends(made):
    promoted(made)
    rollback(made.settings, "ann", "by hand")
    assert check_promotion(made.settings, "watch") is None
    made.registry.set_note(WATCH_TAG, {"version": "2", "previous": "1", "since": "x", "until": "y"})
    assert check_promotion(made.settings, "watch") is None
    assert made.registry.note(WATCH_TAG) is None
    assert made.registry.version_of(CHAMPION) == "1"


def test_the_challengers_requests_of_before_are_left_out(tmp_path):
    begin = datetime.now(UTC).replace(second=0, microsecond=0) - timedelta(minutes=40)
    write_requests(tmp_path, begin, 20)
    write_requests(tmp_path, begin, 20, slower=9, arm="challenger")
    assert len(load_requests(tmp_path, "shop", begin, begin + timedelta(minutes=20))) == 20 * 60 * RATE


def test_alike_times_hardly_ever_raise_an_alarm(tmp_path):
    begin = datetime(2026, 3, 1, tzinfo=UTC)
    write_requests(tmp_path, begin, 23 * 60)
    everything = load_requests(tmp_path, "shop", begin, begin + timedelta(days=1))
    alarms = 0
    for start in range(0, 19 * 60, 30):
        cut = begin + timedelta(minutes=start + 60)
        before = everything[(everything["time"] >= cut - timedelta(minutes=60)) & (everything["time"] < cut)]
        for minutes in (5, 15, 60):
            after = everything[(everything["time"] >= cut) & (everything["time"] < cut + timedelta(minutes=minutes))]
            alarms += bool(read_guardrails(before, after, SLOT_S, 1.25, 0.01).broken)
    assert alarms == 0
