"""An engine that others than this machine can reach: what changes anything takes the bearer token."""

import json
import os
import signal
import subprocess
import sys
import time

import httpx
import psutil
import pytest

from fingerpost.cli.stack.ports import free_ports
from fingerpost.features.ingest import ingest
from fingerpost.features.outside import events_in_lake
from fingerpost.packed_message import message
from fingerpost.window_report import MEDIA_TYPE
from tests.support.engine_harness import RunningEngine
from tests.support.made_fleet import MadeFleet

pytestmark = pytest.mark.process

TOKEN = "one-of-our-own"  # noqa: S105
# They take a body, and only read.
QUESTIONS = {"/v1/predict", "/v1/route"}
TAKEN = {"/v1/reports", "/v1/batches", "/v1/members", "/v1/events", "/v1/events/withdrawn"}
ANY = "0.0.0.0"  # noqa: S104


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    home, (port,) = tmp_path_factory.mktemp("open"), free_ports(1)
    with RunningEngine(home, port, bind_host=ANY, engine_token=TOKEN, fingerprint_ttl_s=900) as running:
        running.url = f"http://{own_address()}:{port}"
        yield running


def own_address():
    """An address of this machine that others could reach; the loopback if it has no other."""
    import socket

    found = [
        each.address
        for addresses in psutil.net_if_addrs().values()
        for each in addresses
        if each.family == socket.AF_INET and not each.address.startswith("127.")
    ]
    return found[0] if found else "127.0.0.1"


def changing(engine):
    """The paths and methods of the engine's description that are more than questions."""
    described = httpx.get(f"{engine.url}/v1/openapi.json", trust_env=False).json()["paths"]
    return [
        (path, method, operation)
        for path, methods in described.items()
        for method, operation in methods.items()
        if method not in ("get", "head") and path not in QUESTIONS
    ]


def send(engine, made, sequence, **headers):
    headers = {"content-type": MEDIA_TYPE, **headers}
    body = message(made.packed(sequence))
    return httpx.post(f"{engine.url}/v1/reports", content=body, headers=headers, trust_env=False, timeout=30)


def test_every_endpoint_that_changes_anything_takes_the_token(engine):
    found = changing(engine)
    assert {path for path, _, _ in found} == TAKEN
    for path, method, operation in found:
        assert operation["security"] == [{"bearer": []}]
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"},
                        {"authorization": f"Bearer {TOKEN}x"}):  # fmt: skip
            answer = httpx.request(method, f"{engine.url}{path}", headers=headers, trust_env=False)
            assert (answer.status_code, answer.json()) == (401, {"error": "a bearer token is needed"})
            assert answer.headers["www-authenticate"] == "Bearer"


def test_there_are_no_other_doors(engine):
    """BentoML has probes beside; nothing that takes a body."""
    described = httpx.get(f"{engine.url}/docs.json", trust_env=False).json()["paths"]
    assert {path for path, methods in described.items() if set(methods) - {"get"}} <= TAKEN | QUESTIONS


def test_with_the_token_fingerprints_are_taken(engine):
    made = MadeFleet.make(2, 3)
    assert send(engine, made, 1).status_code == 401
    assert httpx.get(f"{engine.url}/v1/hosts", trust_env=False).json() == {"hosts": []}
    answer = send(engine, made, 1, authorization=f"Bearer {TOKEN}")
    assert (answer.status_code, answer.json()["accepted"]) == (200, 2)
    with engine.client() as client:
        assert client.send_reports(made.packed(2))["accepted"] == 2
        assert len(client.hosts()) == 2
        engine.wait_for(lambda: client.table("shop").body)
        # To ask takes none.
        category = made.categories[0]
        asked = {"service": "shop", "category": category}
        assert httpx.post(f"{engine.url}/v1/route", json=asked, trust_env=False).json()["category"] == category
        assert len(client.hosts()) == 2


def test_events_are_told_listed_and_landed(engine):
    """By the command, as a pipeline of deploys would."""

    def event(*words, **environment):
        env = {**engine.env, "FINGERPOST_ENGINE_URL": engine.url, **environment}
        command = [sys.executable, "-m", "fingerpost", "event", *words]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    planned = ["--at", "2027-01-04T08:00+01:00", "--until", "2027-01-05", "--note", "sale"]
    words = ("campaign", "--service", "shop", *planned)
    refused = event(*words, FINGERPOST_ENGINE_TOKEN="wrong")
    assert (refused.returncode, refused.stderr) == (1, "fingerpost: 401: a bearer token is needed\n")
    for _ in range(2):
        assert "campaign of shop at 2027-01-04 07:00:00Z is known" in event(*words).stdout
    assert "is no time" in event("deploy", "--at", "noon").stderr
    (listed,) = json.loads(event("list", "--service", "shop", "--json").stdout)
    assert (listed["kind"], listed["note"], listed["at"]) == ("campaign", "sale", 1_799_046_000)
    assert (listed["until"], listed["service"]) == (1_799_107_200, "shop")
    (found,) = (engine.home / "lake" / "inbox" / "events" / "service=shop").rglob("*.parquet")
    ingest(engine.home / "lake", "shop", 5, 86_400)
    assert [each.id for each in events_in_lake(engine.home / "lake", "shop")] == [found.stem.removeprefix("event-")]
    assert event("withdraw", listed["id"], "--service", "shop").stdout == f"event {listed['id']} of shop is withdrawn\n"
    assert f"{listed['id']}  2027-01-04 07:00:00Z" in event("list", "--service", "shop").stdout
    assert "event:withdrawn" in event(*words).stderr
    ingest(engine.home / "lake", "shop", 5, 86_400)
    assert [each.withdrawn_us is None for each in events_in_lake(engine.home / "lake", "shop")] == [False]
    # What is no event is counted by its reason.
    headers = {"authorization": f"Bearer {TOKEN}"}
    answer = httpx.post(f"{engine.url}/v1/events", json={"service": "shop"}, headers=headers, trust_env=False)
    assert (answer.status_code, answer.json()) == (400, {"error": "kind:unknown"})
    assert 'reason="kind:unknown"' in httpx.get(f"{engine.url}/metrics", trust_env=False).text


def test_without_a_token_it_does_not_start_there_by_any_way(tmp_path):
    """`fingerpost engine` refuses at once; a worker that BentoML was told to start there says why and serves nobody."""
    (port,) = free_ports(1)
    env = {**os.environ, "FINGERPOST_HOME": str(tmp_path), "FINGERPOST_ENGINE_PORT": str(port)}
    command = [sys.executable, "-m", "fingerpost", "engine"]
    open_to_all = {**env, "FINGERPOST_BIND_HOST": ANY}
    done = subprocess.run(command, env=open_to_all, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "FINGERPOST_ENGINE_TOKEN" in done.stderr

    command = [sys.executable, "-m", "bentoml", "serve", "fingerpost.serving.service:PredictionEngine"]
    log = tmp_path / "bentoml.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--host", ANY, "--port", str(port)], env={**env, "BENTOML_HOME": str(tmp_path / "bentoml")},
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while "anybody could send reports" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            time.sleep(0.1)
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{port}/livez", timeout=2, trust_env=False)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
