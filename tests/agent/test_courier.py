"""An agent that shares nothing with the platform but the network: all that it knows gets there, once."""

import json
import time

import pytest

from fingerpost.agent.courier import Courier
from fingerpost.agent.sender import Target
from fingerpost.cli.stack.ports import free_ports
from fingerpost.engine_api import EngineError
from fingerpost.features.ingest import ingest
from fingerpost.lake import parquet_files, published_categories, read, take_batch
from tests.support.agent_harness import log_line, running_agent
from tests.support.engine_harness import RunningEngine
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process
TOKEN = "a secret of the fleet"  # noqa: S105


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with RunningEngine(tmp_path_factory.mktemp("platform"), free_ports(1)[0], engine_token=TOKEN) as made:
        yield made


def lake_of(engine):
    return engine.home / "lake"


def courier(engine, lake, host="h1", token=TOKEN):
    return Courier(lake, "shop", host, Target(engine.url, token))


def batch(lake, kind, name, size=100):
    """A file in an agent's inbox; what is in it is for ingest to judge."""
    path = lake / "inbox" / kind / "service=shop" / "date=2026-01-01" / f"{name}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"PAR1" + b"x" * size + b"PAR1")
    return path


def landed(engine, host):
    return {path.name for path in parquet_files(lake_of(engine) / "inbox") if path.name.startswith(f"{host}-")}


def test_a_fleet_reports_over_the_network_alone(engine, tmp_path):
    log, home = tmp_path / "access.log", tmp_path / "home"
    start_s = time.time() - 20  # of a window that is over
    starts = [f"{start_s + number / 1e4:.6f}" for number in range(200)]  # alike records are sampled alike
    lines = (log_line(host="far", path=f"/p{number % 7}", start=at, propensity=0.9) for number, at in enumerate(starts))
    log.write_bytes(b"".join(line + b"\n" for line in lines))
    env = {"FINGERPOST_ENGINE_TOKEN": TOKEN, "FINGERPOST_ENGINE_URL": engine.url}
    env["FINGERPOST_AGENT_DECISIONS_PER_S"] = "100"
    arguments = ("--host", "far", "--access-log", str(log), "--deliver", "engine")
    with running_agent(home, *arguments, **env) as process:
        kinds = ("requests", "reported_windows")
        wait_for(lambda: all(any(parquet_files(lake_of(engine) / "inbox" / kind)) for kind in kinds), 60)
    assert process.returncode == 0
    # Nothing stays at the host but what it must remember.
    assert list(parquet_files(home / "lake" / "inbox")) == []
    report = ingest(lake_of(engine), "shop", 5.0, 30 * 86400.0)
    assert (report.refused, report.refused_files, report.host_samples) == ({}, {}, 0)
    windows = read(lake_of(engine), "reported_windows", "shop").to_pandas()
    assert set(windows["host"]) == {"far"} and windows["requests"].sum() == 200
    # Of the records a sample of those with a decision, 30 of a report.
    found = read(lake_of(engine), "requests", "shop").to_pandas()
    assert 0 < len(found) < 80 and set(found["weight"]) == {200 / 30}
    with engine.client() as client:
        wait_for(lambda: any(each["host"] == "far" for each in client.hosts("shop")))
        cells = engine.wait_for(lambda: json.loads(client.table("shop").body)["evidence"])
    assert sum(value or 0 for row in cells for value in row) > 50


def test_samples_go_first_and_each_batch_once(engine, tmp_path):
    for kind in ("requests", "samples"):
        batch(tmp_path, kind, "order-1790000000000000")
    batch(tmp_path, "requests", "another-1790000000000000")
    carrier = courier(engine, tmp_path, "order")
    assert [kind for kind, _ in carrier._waiting()] == ["samples", "requests"]
    carrier.deliver()
    assert carrier.counts == {"batches_delivered": 2}
    assert landed(engine, "order") == {"order-1790000000000000.parquet"}
    [left] = parquet_files(tmp_path / "inbox")
    assert left.name.startswith("another-")


def test_a_batch_that_grows_while_it_is_sent_is_sent_again_whole(engine, tmp_path):
    path = batch(tmp_path, "requests", "grows-1790000000000000-log.1", 100)
    carrier = courier(engine, tmp_path, "grows")
    taken = take_batch(path)
    # The agent reports again, from the same beginning.
    batch(tmp_path, "requests", "grows-1790000000000000-log.1", 300)
    carrier.deliver()
    [there] = [each for each in parquet_files(lake_of(engine) / "inbox") if each.name.startswith("grows-")]
    assert there.stat().st_size == 308
    assert not taken.exists()
    assert not path.exists()


def test_what_is_no_batch_is_set_aside_and_holds_up_no_other(engine, tmp_path):
    bad = batch(tmp_path, "requests", "bad-1790000000000000")
    bad.write_bytes(b"no parquet at all")
    batch(tmp_path, "requests", "bad-1790000000000001")
    carrier = courier(engine, tmp_path, "bad")
    carrier.deliver()
    assert carrier.counts == {"batches_refused": 1, "batches_delivered": 1}
    assert landed(engine, "bad") == {"bad-1790000000000001.parquet"}
    carrier.deliver()
    assert carrier.counts["batches_refused"] == 1


def test_without_the_token_batches_wait(engine, tmp_path):
    path = batch(tmp_path, "requests", "waits-1790000000000000")
    stranger = courier(engine, tmp_path, "waits", "")
    with pytest.raises((EngineError, OSError)):
        stranger.deliver()
    assert not path.exists()
    courier(engine, tmp_path, "waits").deliver()
    assert landed(engine, "waits") == {"waits-1790000000000000.parquet"}


def test_while_the_engine_is_away_batches_wait_and_it_is_told(tmp_path):
    carrier = Courier(tmp_path, "shop", "h1", Target("http://127.0.0.1:9"))
    batch(tmp_path, "requests", "h1-1790000000000000")
    carrier.start()
    wait_for(lambda: carrier.problem)
    assert "batches wait here" in carrier.problem
    carrier.stop()
    assert len([*(tmp_path / "inbox").rglob("*.parquet*")]) == 1


def test_categories_are_brought_to_where_agents_read_them(engine, tmp_path):
    carrier = courier(engine, tmp_path)
    carrier.fetch_categories()
    assert not published_categories(tmp_path, "shop").exists()
    published = published_categories(lake_of(engine), "shop")
    published.parent.mkdir(parents=True, exist_ok=True)
    from fingerpost.category import CategoryTable

    table = CategoryTable.from_names(["GET /a|0|none|other|none", "other"], ["/a"])
    published.write_text(json.dumps(table.to_json()))
    own = published_categories(tmp_path, "shop")

    def brought():
        carrier.fetch_categories()
        return own.exists()

    wait_for(brought)
    assert CategoryTable.from_json(json.loads(own.read_text())).names == table.names
    before = own.stat().st_mtime_ns
    carrier.fetch_categories()
    assert own.stat().st_mtime_ns == before
