"""Secrets are masked wherever they are shown, logged or stored."""

import json
import logging
import subprocess
import sys
import time

import httpx
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.cli.stack.ports import free_ports
from fingerpost.cli.stack.processes import ProcessGroup
from fingerpost.flows.alerts import send_alert
from fingerpost.flows.steps import without_secrets
from fingerpost.flows.table import FLOWS
from fingerpost.logs import configure_logs
from fingerpost.masking import described, mask_error, masked, masked_line, masked_setting
from fingerpost.settings import Settings
from tests.support.engine_harness import RunningEngine

SECRET = "hunter2"  # noqa: S105


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:hunter2@db:5432/x", "postgresql://me:***@db:5432/x"),
        ("postgresql+psycopg://me:hunter2@db/x", "postgresql+psycopg://me:***@db/x"),
        ("http://me:hun@hunter2/hunter2@db/x", "http://me:***@db/x"),
        ("https://hunter2@mlflow.example/", "https://***@mlflow.example/"),
        ("redis://:hunter2@cache", "redis://:***@cache"),
        ("postgresql://db/x?user=me&password=hunter2&sslmode=on", "postgresql://db/x?user=me&password=***&sslmode=on"),
        ("https://s3/x?X-Amz-Signature=hunter2", "https://s3/x?X-Amz-Signature=***"),
        ("http://h/?access_token=hunter2#there", "http://h/?access_token=***#there"),
        (
            "cannot reach 'http://a:hunter2@b' nor http://c:hunter2@d.",
            "cannot reach 'http://a:***@b' nor http://c:***@d.",
        ),
        ('{"url": "http://a:hunter2@b", "n": 1}', '{"url": "http://a:***@b", "n": 1}'),
        ("http://127.0.0.1:5000/api me@example.org a=b", "http://127.0.0.1:5000/api me@example.org a=b"),
        ("sqlite:////home/me/x.db", "sqlite:////home/me/x.db"),
    ],
)
def test_passwords_in_urls_are_masked_and_nothing_else(text, shown):
    assert masked(text) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize("text", ["a." * 50_000, "a://" * 50_000, "?token" * 50_000, "?" + "w" * 200_000 + "="])
def test_no_text_takes_long(text):
    began = time.process_time()
    masked(text)
    assert time.process_time() - began < 5


def test_every_setting_that_can_hold_a_secret_is_masked():
    url = f"postgresql://me:{SECRET}@db/x"
    for name, field in Settings.model_fields.items():
        value = url if name != "alert_url" else f"https://hooks.example/services/{SECRET}"
        value = SECRET if name.endswith(("_token", "_auth")) else value
        assert SECRET not in str(masked_setting(name, value)), field
    assert masked_setting("alert_url", f"https://u:{SECRET}@hooks.example/x") == "https://hooks.example/***"
    assert masked_setting("engine_token", "") == ""


@pytest.mark.process
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_the_command_that_shows_settings_shows_no_secret(form, monkeypatch):
    for name, value in {
        "STORE_URL": f"postgresql://me:{SECRET}@db/x",
        "MLFLOW_URL": f"http://me:{SECRET}@mlflow",
        "PREFECT_URL": f"http://me:{SECRET}@prefect/api",
        "TUNING_STORAGE": f"postgresql://me@db/x?password={SECRET}",
        "ENGINE_URL": f"http://me:{SECRET}@engine",
        "ALERT_URL": f"https://hooks.example/{SECRET}",
        "PREFECT_AUTH": f"me:{SECRET}",
        "ENGINE_TOKEN": SECRET,
        "OTLP_TOKEN": SECRET,
    }.items():
        monkeypatch.setenv(f"FINGERPOST_{name}", value)
    monkeypatch.setenv("COLUMNS", "400")
    command = [sys.executable, "-m", "fingerpost", "settings", *form]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert SECRET not in done.stdout
    assert "postgresql://me:***@db/x" in done.stdout


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "value"),
    [("MLFLOW_URL", f"ftp://me:{SECRET}@x"), ("ALERT_URL", f"ftp://x/{SECRET}"), ("PREFECT_AUTH", SECRET)],
)
def test_a_setting_that_is_refused_is_not_shown_either(name, value, monkeypatch):
    monkeypatch.setenv(f"FINGERPOST_{name}", value)
    done = subprocess.run(
        [sys.executable, "-m", "fingerpost", "settings"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert f"FINGERPOST_{name}=" in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.process
def test_a_server_that_is_away_is_named_without_its_password(monkeypatch, tmp_path):
    monkeypatch.setenv("FINGERPOST_HOME", str(tmp_path))
    monkeypatch.setenv("FINGERPOST_PREFECT_URL", f"http://me:{SECRET}@127.0.0.1:9/api")
    done = subprocess.run(
        [sys.executable, "-m", "fingerpost", "run", "ingest"], capture_output=True, text=True, timeout=120, check=False
    )
    assert "http://me:***@127.0.0.1:9/api" in done.stderr
    assert SECRET not in done.stderr


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_log_line_holds_a_password_whoever_writes_it(form, capsys):
    configure_logs("INFO", form)
    try:
        raise OSError(f"no answer from http://me:{SECRET}@mlflow/api")
    except OSError:
        logging.getLogger("some.library").exception("trying http://me:%s@mlflow", SECRET)
    told = capsys.readouterr().err
    assert SECRET not in told
    assert "no answer from http://me:***@mlflow/api" in told
    if form == "json":
        assert json.loads(told.splitlines()[0])["message"] == "trying http://me:***@mlflow"


def test_errors_are_masked_before_they_are_cut():
    error = OSError(f"http://{'m' * 290}:{SECRET}@db/x")
    assert SECRET not in described(error)
    assert len(described(error)) <= 300
    assert described(KeyError("x")) == "KeyError: 'x'"


def test_errors_of_flows_hold_no_password():
    @without_secrets
    def work():
        try:
            raise OSError(2, f"http://me:{SECRET}@mlflow")
        except OSError as error:
            raise ValueError(f"API request to http://me:{SECRET}@mlflow failed: {error}") from error

    with pytest.raises(ValueError, match=r"me:\*\*\*@mlflow") as raised:
        work()
    assert SECRET not in f"{raised.value.__cause__!r} {raised.value.__cause__}"
    # A circle ends.
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    mask_error(first)
    assert all(hasattr(entry.load().fn, "__wrapped__") for entry in FLOWS.values())


@pytest.mark.process
def test_an_engine_without_registry_and_store_names_them_without_passwords(tmp_path):
    (port,) = free_ports(1)
    urls = {"mlflow_url": f"http://me:{SECRET}@127.0.0.1:9", "store_url": f"postgresql://me:{SECRET}@127.0.0.1:9/x"}
    with RunningEngine(tmp_path, port, **urls) as engine:
        engine.wait_for(lambda: "me:***@127.0.0.1:9" in engine.client().health()["problems"].get("registry", ""), 120)
        engine.wait_for(lambda: "store" in engine.client().health()["problems"])
        for path in ("/v1/health", "/v1/models", "/v1/hosts", "/metrics"):
            assert SECRET not in httpx.get(f"{engine.url}{path}", trust_env=False, timeout=30).text
        for each in psutil.Process(engine.process.pid).children(recursive=True):
            assert SECRET not in " ".join(each.cmdline())
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert kept == []


@pytest.mark.process
def test_a_process_that_ends_is_told_of_without_what_its_log_holds(tmp_path):
    dies = f"print('cannot reach postgresql://me:{SECRET}@db'); raise SystemExit(3)"
    with ProcessGroup(tmp_path, {}) as stack:
        child = stack.start("part", [sys.executable, "-c", dies])
        child.process.wait(30)
        told = child.failure()
        assert "postgresql://me:***@db" in told
        assert SECRET not in told


@pytest.mark.process
def test_an_alert_that_fails_tells_nothing_of_its_path(tmp_path, endpoint, caplog):
    # It does not know POST.
    url = httpx.URL(endpoint["url"]).copy_with(path=f"/services/{SECRET}")
    assert not send_alert(Settings(home=tmp_path, alert_url=str(url)), "drift", "x")
    assert not send_alert(Settings(home=tmp_path, alert_url=f"http://127.0.0.1:9/{SECRET}"), "drift", "x")
    assert "status 501" in caplog.text
    assert "http://127.0.0.1:9/***: ConnectError" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (
            '203.0.113.9 - - [26/Nov/2026:07:10:14 +0000] "GET /a/42?key=SECRET HTTP/1.1" 200 5 "https://x.example/?SECRET"',
            '0.0.0.0 - - [26/Nov/2026:07:10:14 +0000] "GET /a/42?*** HTTP/1.1" 200 5 "https://x.example/?***"',
        ),
        ('2001:db8::1 "GET /app;jsessionid=SECRET.n1/x" 10:05:03 rt=0.002', ':: "GET /app;***/x" 10:05:03 rt=0.002'),
        ('{"authorization":"Bearer SECRET","cookie":["SECRET"]}', '{"authorization":***,"cookie":***}'),
        ("Authorization: Basic SECRETSECRET=", "Authorization: *** ***"),
        ("/reset/SECRETm90LWEtcmVhbC10b2tlbi0xMjM0NTY3ODk=", "/reset/***"),
        ("/verify/SECRETiOiJub25lIn0.eyJzdWIiOiJ4In0.bm90LWEtc2lnbmF0dXJl 200", "/verify/*** 200"),
        ("/bot100000001:SECRETealTokenJustAnExample0000000/sendMessage", "/***/sendMessage"),
        ("/people/SECRET@shop.example/x", "/people/***/x"),
    ],
)
def test_a_line_of_a_log_is_kept_without_who_asked_and_what_for(line, kept):
    assert masked_line(line) == kept


@given(st.text())
def test_any_line_is_masked_once_and_for_all(line):
    assert masked_line(masked_line(line)) == masked_line(line)
