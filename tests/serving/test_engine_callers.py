"""Who may call the engine: no web page of another site, by whatever name it made point here."""

import httpx
import pytest

from fingerpost.cli.stack.ports import free_ports
from fingerpost.packed_message import message
from fingerpost.window_report import MEDIA_TYPE
from tests.support.engine_harness import RunningEngine
from tests.support.made_fleet import MadeFleet

pytestmark = pytest.mark.process

TOKEN = "one-of-our-own"  # noqa: S105


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """On the loopback, where no token is needed to send fingerprints."""
    names = '["engine.example", "*.svc.cluster.local"]'
    home, (port,) = tmp_path_factory.mktemp("callers"), free_ports(1)
    with RunningEngine(home, port, fingerprint_ttl_s=900, allowed_hosts=names) as running:
        yield running


def send(engine, sequence, **headers):
    body = message(MadeFleet.make(2, 3).packed(sequence))
    headers = {"content-type": MEDIA_TYPE, **{name.replace("_", "-"): text for name, text in headers.items()}}
    return httpx.post(f"{engine.url}/v1/reports", content=body, headers=headers, trust_env=False, timeout=30)


def get(engine, path, host):
    return httpx.get(f"{engine.url}{path}", headers={"host": host}, trust_env=False, timeout=30)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "evil.example:3000"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:8888"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/x-www-form-urlencoded"}, 415),
        ({"content_type": "multipart/form-data; boundary=x"}, 415),
    ],
)
def test_a_web_page_stores_nothing(engine, headers, status):
    answer = send(engine, 1, **headers)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"}
    assert httpx.get(f"{engine.url}/v1/hosts", trust_env=False).json() == {"hosts": []}


def test_a_name_that_was_made_to_point_here_reads_nothing_and_hears_why(engine):
    for path in ("/v1/hosts", "/v1/health", "/metrics", "/v1/services/shop/table", "/v1/openapi.json"):
        answer = get(engine, path, "evil.example:3000")
        assert answer.status_code == 403
        assert "'evil.example:3000'" in answer.json()["error"]
        assert "FINGERPOST_ALLOWED_HOSTS" in answer.json()["error"]
    before = engine.metric("refused_total", '{reason="host:unknown"}')
    get(engine, "/v1/hosts", "evil.example")
    assert engine.metric("refused_total", '{reason="host:unknown"}') == before + 1
    # Probes are asked by any name, and tell nothing.
    assert get(engine, "/livez", "evil.example").status_code == 200


def test_own_names_and_own_pages_go_on(engine):
    for host in (
        "localhost:3000",
        "[::1]:3000",
        "10.0.0.7:3000",
        "engine.example",
        "fingerpost.prod.svc.cluster.local",
    ):
        assert get(engine, "/v1/hosts", host).status_code == 200, host
    own = engine.url.removeprefix("http://")
    assert send(engine, 2, host=own, origin=engine.url, sec_fetch_site="same-origin").json()["accepted"] == 2
    assert send(engine, 3).json()["accepted"] == 2


def test_with_the_token_any_name_is_good(tmp_path):
    (port,) = free_ports(1)
    with RunningEngine(tmp_path / "home", port, engine_token=TOKEN, fingerprint_ttl_s=900) as engine:
        bearer = {"authorization": f"Bearer {TOKEN}"}
        assert send(engine, 1, host="anything.example", **bearer).json()["accepted"] == 2
        assert send(engine, 2, host="anything.example", authorization="Bearer wrong").status_code == 403
        headers = {"host": "anything.example", **bearer}
        assert httpx.get(f"{engine.url}/v1/hosts", headers=headers, trust_env=False).status_code == 200
