"""An engine that others than this machine can reach takes a token for everything, and of a role for what changes it."""

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
ROLES = {role: f"the-token-of-role-{role}" for role in ("agent", "proxy", "person")}
WRONG_ROLE = {
    "/v1/reports": ("person", "agent or proxy"),
    "/v1/batches": ("person", "agent or proxy"),
    "/v1/members": ("proxy", "agent or person"),
    "/v1/events": ("agent", "person"),
    "/v1/events/withdrawn": ("proxy", "person"),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    home, (port,) = tmp_path_factory.mktemp("open"), free_ports(1)
    write_roles(home, ROLES.items())
    options = {"bind_host": ANY, "engine_token": TOKEN, "engine_roles_file": home / "roles"}
    with RunningEngine(home, port, **options, fingerprint_ttl_s=900) as running:
        running.url = f"http://{own_address()}:{port}"
        yield running


def write_roles(home, tokens):
    """As an orchestrator does: the file is there, whole, or as it was."""
    made = home / "roles.made"
    made.write_text("".join(f"{role} {token}\n" for role, token in tokens))
    made.replace(home / "roles")


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
    described = get(engine, "/v1/openapi.json", TOKEN).json()["paths"]
    return [
        (path, method, operation)
        for path, methods in described.items()
        for method, operation in methods.items()
        if method not in ("get", "head") and path not in QUESTIONS
    ]


def get(engine, path, token="", **options):
    headers = {"authorization": f"Bearer {token}"} if token else {}
    return httpx.get(f"{engine.url}{path}", headers=headers, trust_env=False, timeout=30, **options)


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


def test_a_token_of_another_role_is_refused_with_the_role_that_is_needed(engine):
    assert set(WRONG_ROLE) == TAKEN
    before = engine.metric("refused_total", '{reason="token:role"}') if has_refused(engine) else 0.0
    for path, (role, needed) in WRONG_ROLE.items():
        headers = {"authorization": f"Bearer {ROLES[role]}"}
        answer = httpx.post(f"{engine.url}{path}", headers=headers, trust_env=False)
        assert answer.status_code == 403
        assert answer.json()["error"] == f"the token is of role {role}: POST {path} needs one of role {needed}"
    assert engine.metric("refused_total", '{reason="token:role"}') == before + len(WRONG_ROLE)


def has_refused(engine):
    return 'reason="token:role"' in get(engine, "/metrics").text


def test_reading_takes_a_token_of_any_role(engine):
    for path in ("/", "/docs", "/page/page.js", "/v1/page", "/v1/hosts", "/v1/health", "/v1/openapi.json"):
        for token in ("", "wrong"):
            answer = get(engine, path, token)
            assert (answer.status_code, answer.json()) == (401, {"error": "a bearer token is needed"}), path
            # So that a browser asks for it.
            assert answer.headers["www-authenticate"].startswith("Basic realm=")
        assert [get(engine, path, token).status_code for token in (TOKEN, *ROLES.values())] == [200] * 4, path
        assert get(engine, path, auth=("anybody", ROLES["person"])).status_code == 200
        assert get(engine, path, auth=("anybody", "wrong")).status_code == 401
    for path in ("/v1/predict", "/v1/route"):
        assert httpx.post(f"{engine.url}{path}", json={"service": "shop"}, trust_env=False).status_code == 401
    # A browser sends a password with what other pages make it ask, too.
    headers, password = {"content-type": MEDIA_TYPE}, ("anybody", ROLES["agent"])
    answer = httpx.post(f"{engine.url}/v1/reports", headers=headers, auth=password, trust_env=False)
    assert answer.status_code == 401
    for name in ("missing", "unknown"):
        assert engine.metric("refused_total", f'{{reason="token:{name}"}}') > 0
    # What clusters and Prometheus ask.
    assert [get(engine, path).status_code for path in ("/metrics", "/livez")] == [200] * 2
    assert get(engine, "/readyz").status_code in (200, 503)


def test_tokens_are_replaced_while_the_engine_runs(engine):
    new = "the-next-token-of-role-agent"

    def read(token):
        return get(engine, "/v1/hosts", token).status_code

    assert (read(ROLES["agent"]), read(new)) == (200, 401)
    write_roles(engine.home, [*ROLES.items(), ("agent", new)])
    assert (read(ROLES["agent"]), read(new)) == (200, 200)
    write_roles(engine.home, [("agent", new)])
    assert (read(ROLES["agent"]), read(new), read(ROLES["person"])) == (401, 200, 401)
    (engine.home / "roles").write_text("agent\n")
    assert (read(new), read(ROLES["person"])) == (200, 401)
    assert "line 1 is not `ROLE TOKEN`" in get(engine, "/v1/health", new).json()["problems"]["tokens"]
    write_roles(engine.home, ROLES.items())
    assert (read(ROLES["agent"]), read(new)) == (200, 401)


def test_there_are_no_other_doors(engine):
    """BentoML has probes beside; nothing that takes a body."""
    described = get(engine, "/docs.json", TOKEN).json()["paths"]
    assert {path for path, methods in described.items() if set(methods) - {"get"}} <= TAKEN | QUESTIONS


def test_with_the_token_fingerprints_are_taken(engine):
    made = MadeFleet.make(2, 3)
    assert send(engine, made, 1).status_code == 401
    assert get(engine, "/v1/hosts?service=shop", TOKEN).json() == {"hosts": []}
    answer = send(engine, made, 1, authorization=f"Bearer {TOKEN}")
    assert (answer.status_code, answer.json()["accepted"]) == (200, 2)
    with engine.client() as client:
        assert client.send_reports(made.packed(2))["accepted"] == 2
        assert len(client.hosts()) == 2
        engine.wait_for(lambda: client.table("shop").body)
        category = made.categories[0]
        assert client.route("shop", category)["category"] == category
        assert len(client.hosts()) == 2


def test_what_a_role_may_do_it_can(engine):
    made = MadeFleet.make(2, 3)
    sent = [
        send(engine, made, 7 + number, authorization=f"Bearer {ROLES[role]}")
        for number, role in enumerate(("agent", "proxy"))
    ]
    assert [each.json()["accepted"] for each in sent] == [2, 2]

    def tell(role, **notice):
        told = {"service": "roles", "host": "h1", **notice}
        headers = {"authorization": f"Bearer {ROLES[role]}"}
        return httpx.post(f"{engine.url}/v1/members", json=told, headers=headers, trust_env=False, timeout=30)

    # An agent speaks for its host; whether a host is taken back or removed is decided by people.
    assert tell("agent", boot_id="b1", address="10.0.0.7:80").json() == {"state": "serving"}
    assert tell("agent", state="draining").json() == {"state": "draining"}
    for notice in ({"state": "removed"}, {"state": "removed", "boot_id": "b1"}, {"state": "serving"}):
        answer = tell("agent", **notice)
        assert answer.status_code == 403
        assert "to remove or resume a host needs one of role person" in answer.json()["error"]
    assert [tell("person", state=each).json() for each in ("serving", "removed")] == [
        {"state": "serving"},
        {"state": "removed"},
    ]
    event = {"kind": "deploy", "service": "roles"}
    headers = {"authorization": f"Bearer {ROLES['person']}"}
    told = httpx.post(f"{engine.url}/v1/events", json=event, headers=headers, trust_env=False, timeout=30)
    assert told.status_code == 204


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
    assert 'reason="kind:unknown"' in get(engine, "/metrics").text


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
