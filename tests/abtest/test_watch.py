"""The watch after a promotion: rolls back what is worse, keeps what is not, goes on where it was killed."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import mannwhitneyu

from fingerpost.abtest.promotion.promote import promote_version, rollback
from fingerpost.abtest.promotion.record import history
from fingerpost.abtest.promotion.watch import check_promotion, load_requests, read_guardrails
from fingerpost.clock import US
from fingerpost.experiment import CHAMPION
from fingerpost.lake import partition, write_atomically
from fingerpost.schemas import REQUEST_RECORD_SCHEMA
from fingerpost.training.registry import WATCH_TAG
from tests.support.records import record
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


@pytest.mark.process
def test_a_slower_champion_is_rolled_back(made):
    since = promoted(made, slower=1.8)
    found = check_promotion(made.settings, "watch", since + timedelta(minutes=10))
    assert found.state == "rolled back"
    assert "p99 is 1." in found.reason
    assert made.champion == "1"
    assert made.registry.note(WATCH_TAG) is None
    assert history(made.registry)[0].action == "rollback"
    assert check_promotion(made.settings, "watch", since + timedelta(minutes=11)) is None


@pytest.mark.process
def test_a_failing_champion_is_rolled_back(made):
    since = promoted(made, failing=0.08)
    found = check_promotion(made.settings, "watch", since + timedelta(minutes=10))
    assert found.state == "rolled back"
    assert "failed requests rose" in found.reason


@pytest.mark.process
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


@pytest.mark.process
def test_without_requests_nothing_is_rolled_back(made):
    promote_version(made.settings, "2", "ann", "test", skip_gates=True)
    found = check_promotion(made.settings, "watch", datetime.now(UTC) + timedelta(hours=2))
    assert (found.state, found.reading["enough"]) == ("kept", False)


@pytest.mark.process
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


@pytest.mark.process
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


def slots_by_hand(records, usual):
    """Failed share, and p99 of durations relative to the usual ones, of each slot: straight from the records."""
    kind = records["method"].astype(str) + " " + records["route"].astype(str)
    rows = pd.DataFrame({
        "slot": records["time_us"] // round(SLOT_S * US),
        "failed": records["status"] >= 500,
        "relative": records["duration_s"] / kind.map(usual),
    })  # fmt: skip
    groups = rows.groupby("slot")
    groups = rows[rows["slot"].map(groups.size()) >= 20].groupby("slot")
    return groups["failed"].mean(), groups["relative"].quantile(0.99)


@pytest.mark.parametrize("failing", [0.0, 0.05])
def test_slots_of_the_watch_are_those_of_experiments(tmp_path, failing):
    begin = datetime(2026, 3, 1, tzinfo=UTC)
    write_requests(tmp_path, begin, 25, failing=failing, heavy=0.3)
    write_requests(tmp_path, begin + timedelta(minutes=25), 10, seed=1, slower=1.3, failing=failing)
    before = load_requests(tmp_path, "shop", begin, begin + timedelta(minutes=25))
    after = load_requests(tmp_path, "shop", begin + timedelta(minutes=25), begin + timedelta(minutes=34, seconds=50))
    found = read_guardrails(before, after, SLOT_S, 1.25, 0.01)
    usual = before.groupby(before["method"].astype(str) + " " + before["route"].astype(str))["duration_s"].median()
    errors, p99 = zip(*(slots_by_hand(records, usual) for records in (before, after)), strict=True)
    assert (found.slots_before, found.slots_after, found.requests_after) == (25, 10, len(after))
    assert found.errors.before == pytest.approx((before["status"] >= 500).mean())
    assert found.errors.after == pytest.approx((after["status"] >= 500).mean())
    assert found.errors.chance == mannwhitneyu(errors[1], errors[0], alternative="greater").pvalue
    if not failing:
        assert (found.p99.before, found.p99.after) == (np.median(p99[0]), np.median(p99[1]))
        assert found.p99.chance == mannwhitneyu(p99[1], p99[0], alternative="greater").pvalue


def test_a_failed_request_counts_in_errors_and_not_in_p99(tmp_path):
    begin = datetime(2026, 3, 1, tzinfo=UTC)
    write_requests(tmp_path, begin, 30, failing=0.0)
    before = load_requests(tmp_path, "shop", begin, begin + timedelta(minutes=30))
    timeouts = np.arange(len(before)) % 20 == 0
    after = before.assign(
        status=np.where(timeouts, 504, before["status"]), duration_s=np.where(timeouts, 60.0, before["duration_s"])
    )
    found = read_guardrails(before, after, SLOT_S, 1.25, 0.01)
    assert found.errors.broken
    assert found.p99.change == pytest.approx(1.0, abs=0.1)
    assert not found.p99.broken
