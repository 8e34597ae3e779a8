"""An engine that speaks TLS, to callers with a certificate: as agents, routers, commands and probes of `up` ask it."""

import http.client
import os
import socket
import ssl
import subprocess
import sys

import pytest

from fingerpost.agent.sender import Target, ask
from fingerpost.cli.stack.parts import answers, platform_parts
from fingerpost.cli.stack.ports import free_ports
from fingerpost.engine_api import EngineClient, EngineError, get_call
from fingerpost.errors import FingerpostError
from fingerpost.settings import get_settings
from fingerpost.tls import ClientTLS
from tests.support.certificates import make_certificates
from tests.support.engine_harness import RunningEngine

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("papers")
    make_certificates(folder, "localhost", "agent")
    return folder


@pytest.fixture(scope="module")
def engine(tmp_path_factory, papers):
    home, (port,) = tmp_path_factory.mktemp("tls"), free_ports(1)
    options = {
        "engine_url": f"https://localhost:{port}",
        "engine_cert": papers / "localhost.crt",
        "engine_key": papers / "localhost.key",
        "engine_client_ca": papers / "ca.crt",
        "engine_ca": papers / "ca.crt",
        "engine_client_cert": papers / "agent.crt",
        "engine_client_key": papers / "agent.key",
    }
    with RunningEngine(home, port, **options) as running:
        yield running


def shown(papers):
    return ClientTLS(papers / "ca.crt", papers / "agent.crt", papers / "agent.key")


def test_agents_and_routers_are_answered_by_tls(engine, papers):
    with engine.client() as client:
        assert client.health()["status"]
    answer = ask(Target(engine.url, "", shown(papers)), get_call("/v1/hosts"))
    assert answer.status == 200


def test_the_commands_ask_it_by_the_same_settings(engine):
    command = [sys.executable, "-m", "fingerpost", "hosts", "list"]
    done = subprocess.run(command, env=engine.env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    env = {name: text for name, text in engine.env.items() if name != "FINGERPOST_ENGINE_CA"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr


def test_up_sees_that_it_lives(engine, monkeypatch):
    for name in engine.env.keys() - os.environ.keys():
        monkeypatch.setenv(name, engine.env[name])
    get_settings.cache_clear()
    try:
        [part] = [each for each in platform_parts(get_settings()) if each.name == "engine"]
        assert part.health_url == f"{engine.url}/livez"
        assert answers(part.health_url)
        monkeypatch.delenv("FINGERPOST_ENGINE_CA")
        get_settings.cache_clear()
        assert not answers(part.health_url)
    finally:
        get_settings.cache_clear()


def test_others_are_not_let_in(engine, papers):
    nobody = ClientTLS(papers / "ca.crt")
    with pytest.raises((OSError, http.client.HTTPException)):
        ask(Target(engine.url, "", nobody), get_call("/livez"))
    with EngineClient(engine.url, tls=nobody) as client, pytest.raises(EngineError, match="no answer"):
        client.health()
    # Nor by another name than its certificate has, nor without TLS.
    with pytest.raises(ssl.SSLCertVerificationError, match=r"127\.0\.0\.1"):
        ask(Target(engine.url.replace("localhost", "127.0.0.1"), "", shown(papers)), get_call("/livez"))
    with socket.create_connection(("127.0.0.1", int(engine.url.rpartition(":")[2])), timeout=30) as plain:
        plain.sendall(b"GET /v1/hosts HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert b"200" not in plain.recv(4096)


def test_files_that_are_no_certificates_are_named(papers, tmp_path):
    (junk := tmp_path / "junk.pem").write_text("junk")
    for tls in (
        ClientTLS(tmp_path / "absent"),
        ClientTLS(junk),
        ClientTLS(papers / "ca.crt", papers / "agent.crt", papers / "localhost.key"),
    ):
        name = next(str(each) for each in (tls.key, tls.ca) if each)
        with pytest.raises(FingerpostError, match=name):
            EngineClient("https://localhost:9", tls=tls)
        # An agent goes on, and tries again.
        with pytest.raises(EngineError, match=name) as failed:
            ask(Target("https://localhost:9", "", tls), get_call("/livez"))
        assert failed.value.temporary
    env = {**os.environ, "FINGERPOST_HOME": str(tmp_path), "FINGERPOST_ENGINE_CERT": str(junk)}
    command = [sys.executable, "-m", "fingerpost", "engine"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert "FINGERPOST_ENGINE_KEY must both be set" in done.stderr
    env["FINGERPOST_ENGINE_KEY"] = str(junk)
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, "no TLS with" in done.stderr) == (1, True)
