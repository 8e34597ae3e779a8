"""The lake in object storage: what engines send reaches the lake once, and a new machine has all of it again."""

import zlib

import boto3
import numpy as np
import pytest

from fingerpost.agent.batches import write_batch
from fingerpost.clock import US, clock_us
from fingerpost.errors import FingerpostError
from fingerpost.features.build import build_features
from fingerpost.features.ingest import ingest
from fingerpost.features.maintenance import apply_retention
from fingerpost.features.object_store import ObjectLake, object_lake
from fingerpost.features.status import bring_status, send_status
from fingerpost.flow_status import decisions, decisions_path, flow_statuses, note_decision, note_started
from fingerpost.flows.schedule import services
from fingerpost.flows.steps import reported
from fingerpost.lake import LIVE_ERRORS, date_of, parquet_files, partition, published_categories, read, write_table
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD
from fingerpost.serving.lake_sync import LakeSync
from fingerpost.serving.live_errors import live_error_table, live_errors
from fingerpost.settings import Settings, get_settings
from tests.support.lakes import SETTINGS
from tests.support.records import record, sample
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process

BEGIN_US = clock_us() // US * US - 600 * US


@pytest.fixture(scope="module")
def server():
    """A server of the protocol, and the variables that lead to it."""
    from moto.server import ThreadedMotoServer

    made = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    variables = {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "eu-west-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        yield boto3.client("s3", region_name="us-east-1", endpoint_url=variables["AWS_ENDPOINT_URL"])
    made.stop()


@pytest.fixture
def bucket(server, request):
    """The URL of a new bucket with a prefix, and what lists its keys."""
    name = f"lake-{zlib.crc32(request.node.name.encode())}"
    server.create_bucket(Bucket=name)

    def keys():
        found = server.list_objects_v2(Bucket=name).get("Contents", [])
        return sorted(each["Key"].removeprefix("fleet/") for each in found)

    return f"s3://{name}/fleet", keys


def land(lake, host, seconds=300, name=""):
    """What an engine has landed of one host."""
    times = range(BEGIN_US, BEGIN_US + seconds * US, US // 2)
    for kind, columns, rows in (
        ("samples", HOST_SAMPLE, [sample(time=at, host=host) for at in times[::10]]),
        ("requests", REQUEST_RECORD, [record(time=at, host=host) for at in times]),
    ):
        write_batch(lake, kind, columns, rows, name or f"{host}-1")


def ingested(store, lake, service="shop"):
    """As the ingest flow does it; returns how many files were taken in."""
    batches = store.fetch(service)
    report = ingest(lake, service, 5, 86_400)
    store.push(service)
    store.drop(batches)
    return report.files


def test_what_engines_see_of_errors_reaches_the_platform(bucket, tmp_path):
    url, keys = bucket
    engine, platform = tmp_path / "engine", tmp_path / "platform"
    store = ObjectLake(url, platform)
    store.fetch("shop")
    cells = np.zeros((1, 1, 3))
    for minute in range(2):
        at_us = BEGIN_US + minute * 60 * US
        found = live_errors(at_us, "1", ("a",), np.ones((1, 1)), cells, cells + 0.2, cells + 0.3)
        path = partition(engine, LIVE_ERRORS, "shop", date_of(at_us)) / f"{at_us}.parquet"
        write_table(path, live_error_table("shop", [found]))
        assert ObjectLake(url, engine).send() == 1
        assert store.fetch("shop") == []
        assert read(platform, LIVE_ERRORS, "shop").num_rows == 2 * (minute + 1)
    assert len(keys()) == 2
    apply_retention(platform, "shop", 1, 1, now_s=BEGIN_US / US + 3 * 86_400)
    store.push("shop")
    assert keys() == []


def rows(lake, kind="requests"):
    return read(lake, kind, "shop").sort_by([("host", "ascending"), ("time", "ascending")])


def test_what_several_engines_send_is_one_lake_that_a_new_machine_has_again(bucket, tmp_path):
    url, keys = bucket
    engines = [tmp_path / name for name in ("engine-1", "engine-2")]
    for engine, host in zip(engines, ("h1", "h2"), strict=True):
        land(engine, host)
        assert ObjectLake(url, engine).send() == 2
        assert [*parquet_files(engine)] == []
    assert len(keys()) == 4
    platform = tmp_path / "platform"
    store = ObjectLake(url, platform)
    assert store.services() == ["shop"]
    assert (ingested(store, platform), ingested(store, platform)) == (4, 0)
    assert not [key for key in keys() if key.startswith("inbox/")]
    assert rows(platform).num_rows == 1200
    build_features(platform, "shop", SETTINGS)
    store.push("shop")
    # Nothing is sent that is there already.
    assert store.push("shop") == (0, 0)
    other = tmp_path / "other"
    assert ObjectLake(url, other).fetch("shop") == []
    for kind in ("requests", "samples", "windows"):
        assert rows(other, kind).to_pandas().equals(rows(platform, kind).to_pandas())
    again = build_features(other, "shop", SETTINGS)
    assert again.training_rows == build_features(platform, "shop", SETTINGS).training_rows


def test_a_batch_that_was_replaced_while_it_was_taken_in_comes_again(bucket, tmp_path):
    url, _ = bucket
    engine, platform = tmp_path / "engine", tmp_path / "platform"
    store = ObjectLake(url, platform)
    land(engine, "h1", 60)
    ObjectLake(url, engine).send()
    batches = store.fetch("shop")
    land(engine, "h1", 120)
    ObjectLake(url, engine).send()
    ingest(platform, "shop", 5, 86_400)
    store.push("shop")
    store.drop(batches)
    assert rows(platform).num_rows == 120
    assert ingested(store, platform) == 2
    assert rows(platform).num_rows == 240


def test_an_engine_and_a_platform_that_were_killed_lose_and_double_nothing(bucket, tmp_path):
    url, keys = bucket
    engine, platform = tmp_path / "engine", tmp_path / "platform"
    land(engine, "h1", 60)
    # Killed when it had taken a batch and not sent it.
    [first, _] = parquet_files(engine)
    first.rename(first.with_name(f".{first.name}.taken"))
    assert ObjectLake(url, engine).send() == 2
    # Killed when it had ingested and not sent; the machine is lost.
    store = ObjectLake(url, tmp_path / "lost")
    store.fetch("shop")
    ingest(tmp_path / "lost", "shop", 5, 86_400)
    # Killed when it had sent and not dropped.
    store = ObjectLake(url, platform)
    store.fetch("shop")
    ingest(platform, "shop", 5, 86_400)
    store.push("shop")
    assert [key for key in keys() if key.startswith("inbox/")]
    assert ingested(store, platform) == 2
    assert rows(platform).num_rows == 120


def test_what_is_removed_and_merged_here_is_so_there(bucket, tmp_path):
    url, keys = bucket
    platform = tmp_path / "platform"
    store = ObjectLake(url, platform)
    land(platform, "h1", 60)
    land(platform, "h2", 60)
    ingested(store, platform)
    before = keys()
    [first, second] = parquet_files(platform / "requests")
    first.unlink()
    second.write_bytes(second.read_bytes() + b"longer")
    assert store.push("shop") == (1, 1)
    assert len(keys()) == len(before) - 1


def test_an_engines_thread_sends_and_follows_and_says_when_it_cannot(bucket, tmp_path, monkeypatch):
    url, keys = bucket
    monkeypatch.setattr("fingerpost.serving.lake_sync._EVERY_S", 0.05)
    published = published_categories(tmp_path / "platform", "shop")
    published.parent.mkdir(parents=True)
    published.write_text("{}")
    platform = ObjectLake(url, tmp_path / "platform")
    platform.push("shop")
    settings = Settings(home=tmp_path / "home", lake_url=url)
    # Two workers of one engine, and one whose bucket is not there.
    syncs = [LakeSync(settings), LakeSync(settings)]
    lost = LakeSync(Settings(home=tmp_path / "lost", lake_url="s3://nowhere-at-all/x"))
    for each in (*syncs, lost):
        each.start()
    try:
        wait_for(lambda: published_categories(settings.lake, "shop").read_text() == "{}")
        land(settings.lake, "h1", 60)
        wait_for(lambda: len([key for key in keys() if key.startswith("inbox/")]) == 2)
        published.write_text('{"new": 1}')
        platform.push("shop")
        wait_for(lambda: published_categories(settings.lake, "shop").read_text() == '{"new": 1}')
        assert [each.problem for each in syncs] == [None, None]
        wait_for(lambda: "FINGERPOST_LAKE_URL=s3://nowhere-at-all/x" in (lost.problem or ""))
    finally:
        for each in (*syncs, lost):
            each.stop()


def test_an_engine_elsewhere_knows_how_each_flow_went(bucket, server, tmp_path, monkeypatch):
    url, keys = bucket
    monkeypatch.setenv("FINGERPOST_HOME", str(tmp_path / "platform"))
    monkeypatch.setenv("FINGERPOST_LAKE_URL", url)
    monkeypatch.setenv("FINGERPOST_SERVICE", "shop")
    get_settings.cache_clear()

    @reported
    def drift_flow():
        raise FingerpostError("no reference")

    @reported
    def features_flow():
        # Whoever asks while it runs sees that.
        assert "status/service=shop/features.json" in keys()
        return {}

    with pytest.raises(FingerpostError, match="no reference"):
        drift_flow()
    features_flow()
    name = url.split("/")[2]
    for key, content in (("other/x.json", b"{}"), ("service=shop/huge.json", b" " * 300_000)):
        server.put_object(Bucket=name, Key=f"fleet/status/{key}", Body=content)
    engine = tmp_path / "engine"
    store = ObjectLake(url, engine)
    store.follow()
    found = flow_statuses(engine, "shop")
    assert {flow: (status.state, status.failures) for flow, status in found.items()} == {
        "drift": ("failed", 1),
        "features": ("ok", 0),
    }
    assert "no reference" in found["drift"].text
    assert found["features"].succeeded_us >= found["features"].started_us > 0
    assert not (engine / "status" / "service=shop" / "huge.json").exists()
    get_settings.cache_clear()


def test_decisions_of_several_machines_are_one_list(bucket, tmp_path):
    url, _ = bucket
    for machine, action in (("platform", "wait"), ("desk", "promote")):
        settings = Settings(home=tmp_path / machine, lake_url=url, service="shop")
        bring_status(settings, decisions_path(settings.lake, "shop"))
        send_status(settings, *note_decision(settings.lake, "shop", {"id": machine, "when": "t", "action": action}))
    ObjectLake(url, tmp_path / "engine").follow()
    assert [each["action"] for each in decisions(tmp_path / "engine", "shop")] == ["wait", "promote"]


@pytest.mark.usefixtures("server")
def test_storage_that_is_away_holds_up_no_flow(tmp_path, caplog):
    settings = Settings(home=tmp_path, lake_url="s3://nowhere-at-all/x", service="shop")
    noted = note_started(settings.lake, "shop", "train", clock_us(), planned_us=clock_us() - 90 * US)
    bring_status(settings, noted[0])
    send_status(settings, *noted)
    assert flow_statuses(settings.lake, "shop")["train"].lag_s == pytest.approx(90, abs=20)
    assert "train.json is told on this machine alone, until the next ingest" in caplog.text


def test_services_are_found_that_nobody_has_ingested(bucket, tmp_path):
    url, _ = bucket
    settings = Settings(home=tmp_path, lake_url=url, service="shop")
    batch = tmp_path / "engine" / "inbox" / "requests" / "service=blog" / "date=2026-01-01" / "b.parquet"
    batch.parent.mkdir(parents=True)
    batch.write_bytes(b"x")
    ObjectLake(url, tmp_path / "engine").send()
    ObjectLake(url, settings.lake).announce()
    assert services(settings) == ["shop", "blog"]


def test_an_object_that_is_no_file_of_a_lake_is_refused(bucket, server, tmp_path):
    url, _ = bucket
    name = url.split("/")[2]
    server.put_object(Bucket=name, Key="fleet/inbox/requests/service=shop/../../../../out.parquet", Body=b"x")
    store = ObjectLake(url, tmp_path / "lake")
    with pytest.raises(FingerpostError, match=r"FINGERPOST_LAKE_URL=.*invalid path"):
        store.fetch("shop")
    with pytest.raises(FingerpostError, match="can be no file of a lake"):
        store._get({"path": "inbox/../../out.parquet", "size": 1})
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("value", ["s3://", "s3:///x", "gs://b/x", "/srv/lake"])
def test_a_url_that_is_none_is_refused(value, tmp_path):
    with pytest.raises(ValueError, match="s3://BUCKET"):
        Settings(home=tmp_path, lake_url=value)
    with pytest.raises(ValueError, match="FINGERPOST_LAKE_URL"):
        Settings(home=tmp_path, lake="s3://bucket/x")
    assert object_lake(Settings(home=tmp_path)) is None
