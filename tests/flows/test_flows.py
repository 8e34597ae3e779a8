"""Flows on a real Prefect server: schedules, promotion, retention, alerts; and a prefect.yaml that says the same."""

import asyncio
import json
import os
import threading
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fingerpost.errors import FingerpostError
from fingerpost.features.build import FeaturesReport
from fingerpost.flow_status import decisions, flow_statuses
from fingerpost.flows.alerts import send_alert
from fingerpost.flows.features import first_training_key
from fingerpost.flows.run import verdict
from fingerpost.flows.schedule import MAX_SERVICES, add_new, deployments, services
from fingerpost.flows.steps import worth_trying_again
from fingerpost.flows.table import FLOWS
from fingerpost.settings import Settings, get_settings
from tests.support.otlp_receiver import receiving

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def prefect_server():
    """Prefect's own database and server, for this module."""
    os.environ.update({"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120", "DO_NOT_TRACK": "true"})
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def webhook():
    """A webhook that keeps what it is sent, at `url`; it answers with `status`."""
    state = {"alerts": [], "status": 200}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            state["alerts"].append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(state["status"])
            self.end_headers()

        def log_message(self, *_args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    state["url"] = f"http://127.0.0.1:{server.server_address[1]}/hook"
    yield state
    server.shutdown()
    server.server_close()


@pytest.fixture
def in_force(made, webhook, monkeypatch):
    """The settings of a made registry, in force for the flows, with alerts."""
    monkeypatch.setenv("FINGERPOST_HOME", str(made.settings.home))
    monkeypatch.setenv("FINGERPOST_MLFLOW_URL", made.settings.mlflow_url)
    monkeypatch.setenv("FINGERPOST_ALERT_URL", webhook["url"])
    get_settings.cache_clear()
    yield made
    get_settings.cache_clear()


def test_prefect_yaml_says_what_the_settings_say():
    import yaml

    found = {}
    for each in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]:
        [schedule] = each.get("schedules") or [{}]
        found[each["entrypoint"]] = (each["name"], schedule.get("interval", schedule.get("cron")), each["description"])
        assert each["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}
        assert each["parameters"] == {"service": each["name"]}
    defaults = Settings.model_construct(**{name: field.default for name, field in Settings.model_fields.items()})
    wanted = {
        entry.entrypoint: (defaults.service, entry.when and entry.when(defaults), entry.description)
        for entry in FLOWS.values()
    }
    assert found == wanted


def test_deployments_follow_the_settings():
    settings = Settings(ingest_every_s=7, drift_cron="5 5 * * *")
    made = {each.flow_name: each for each in deployments(settings, "blog")}
    [schedule] = made["ingest"].schedules
    assert schedule.schedule.interval == timedelta(seconds=7)
    assert made["drift"].schedules[0].schedule.cron == "5 5 * * *"
    assert made["pipeline"].schedules in (None, [])
    assert all(each.concurrency_limit == 1 for each in made.values())
    assert {each.name for each in made.values()} == {"blog"}
    assert all(each.parameters == {"service": "blog"} for each in made.values())


def test_flows_of_many_services_spread_over_the_time():
    settings = Settings()
    anchors = {
        each.schedules[0].schedule.anchor_date
        for service in ("shop", "blog", "search")
        for each in deployments(settings, service)
        if each.flow_name in ("ingest", "shadow")
    }
    assert len(anchors) == 6


def test_what_takes_minutes_has_places_of_its_own():
    assert {entry.name for entry in FLOWS.values() if entry.long} == {"train", "drift", "retention", "pipeline"}


def test_every_service_that_has_data_is_served(tmp_path):
    settings = Settings(home=tmp_path, service="shop", services=["blog", "shop"])
    assert services(settings) == ["shop", "blog"]
    for folder in ("requests/service=search", "inbox/samples/service=mail", "requests/service=..", "hosts"):
        (settings.lake / folder).mkdir(parents=True)
    (settings.lake / "hosts" / "service=files.json").touch()
    assert services(settings) == ["shop", "blog", "mail", "search"]
    for number in range(MAX_SERVICES):
        (settings.lake / "requests" / f"service=a{number}").mkdir()
    assert services(settings)[:2] == ["shop", "blog"]
    assert len(services(settings)) == MAX_SERVICES


@pytest.mark.usefixtures("prefect_server", "in_force")
def test_a_flow_is_of_the_service_it_is_given(monkeypatch):
    from prefect.client.orchestration import get_client

    from fingerpost.flows.ingest import ingest_flow

    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        assert ingest_flow("Blog.EU")["files"] == 0
        monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    flow, step = receiver.spans["flow ingest"], receiver.spans["step ingest"]
    assert step.parent_span_id == flow.span_id
    assert [each.value.string_value for each in flow.attributes] == ["Blog.EU"]
    with get_client(sync_client=True) as client:
        keys = {each.key for each in client.read_artifacts()}
    assert "ingest-blog-eu" in keys
    with pytest.raises(FingerpostError, match="invalid service"):
        ingest_flow("../shop")


@pytest.mark.usefixtures("prefect_server")
def test_a_service_that_appears_is_scheduled(tmp_path):
    from prefect.client.orchestration import get_client
    from prefect.runner import Runner

    settings = Settings(home=tmp_path)
    served = set()

    async def look(runners):
        await add_new(runners, settings, served)

    runners = {False: Runner(name="quick"), True: Runner(name="long")}
    asyncio.run(look(runners))
    assert served == {"shop"}
    (settings.lake / "requests" / "service=blog").mkdir(parents=True)
    asyncio.run(look(runners))
    assert served == {"shop", "blog"}
    with get_client(sync_client=True) as client:
        names = {each.name for each in client.read_deployments()}
    assert {"shop", "blog"} <= names


def features_report(rows, hosts=3):
    return FeaturesReport(0, 0, rows, [f"h{number}" for number in range(hosts)], [], "1", "abc", "", [], [], 0)


def test_a_first_training_is_asked_for_once_there_is_enough_and_when_that_has_doubled():
    keys = [first_training_key(2000, features_report(rows)) for rows in (0, 1999, 2000, 3999, 4000, 7999, 8000)]
    assert keys == [None, None, "abc-1", "abc-1", "abc-2", "abc-2", "abc-3"]
    assert first_training_key(0, features_report(10_000)) is None
    assert first_training_key(2000, features_report(10_000, hosts=1)) is None


@pytest.mark.usefixtures("prefect_server")
def test_one_training_is_asked_for_while_no_model_serves(in_force):
    from fingerpost.flows.features import _first_training

    settings = in_force.settings.model_copy(update={"service": "new"})
    # Nobody serves the deployment yet.
    assert _first_training(settings, features_report(2000)) is None
    [train] = [each for each in deployments(settings, "new") if each.flow_name == "train"]
    train.apply()
    first = _first_training(settings, features_report(2000))
    assert first
    assert _first_training(settings, features_report(3000)) == first
    assert _first_training(settings, features_report(4000)) not in (None, first)
    assert _first_training(in_force.settings, features_report(9000)) is None


@pytest.mark.usefixtures("prefect_server")
def test_the_flow_promotes_and_tells(in_force, webhook):
    from fingerpost.flows.promote import promote_flow

    waits = promote_flow()
    assert waits["decision"]["action"] == "wait"
    assert promote_flow()["decision"]["record"] == waits["decision"]["record"]
    assert webhook["alerts"] == []
    in_force.good_results()
    done = promote_flow()
    assert done["decision"]["action"] == "promote"
    assert in_force.champion == "2"
    [alert] = webhook["alerts"]
    assert (alert["kind"], alert["service"]) == ("promotion", "shop")
    assert "version 2 instead of 1" in alert["text"]
    again = promote_flow()
    assert again["decision"] is None
    assert again["watch"]["state"] == "watching"
    # The engine's page and metrics read both out of the lake.
    lake = in_force.settings.lake
    status = flow_statuses(lake, "shop")["promote"]
    assert (status.state, status.failures, status.text) == ("ok", 0, "there is nothing to decide")
    assert "/runs/flow-run/" in status.url
    assert [each["action"] for each in decisions(lake, "shop")] == ["wait", "promote"]


@pytest.mark.usefixtures("prefect_server")
def test_a_failed_flow_is_told_of_once(in_force, webhook):
    from fingerpost.flows.drift import drift_flow

    for _ in range(2):
        with pytest.raises(Exception, match="does not tell the window"):
            drift_flow()
    assert [alert["kind"] for alert in webhook["alerts"]] == ["failed flow"]
    assert "drift" in webhook["alerts"][0]["text"]
    status = flow_statuses(in_force.settings.lake, "shop")["drift"]
    assert (status.state, status.failures, status.succeeded_us) == ("failed", 2, 0)
    assert "does not tell the window" in status.text
    assert in_force.champion == "1"


@pytest.mark.usefixtures("prefect_server", "in_force")
def test_retention_runs_on_an_empty_lake():
    from fingerpost.flows.retention import retention_flow

    assert retention_flow() == {"removed": 0, "left_over": 0, "partitions_merged": 0, "files_merged": 0, "reports": 0}


def test_a_webhook_that_fails_harms_nothing(webhook, tmp_path):
    settings = Settings(home=tmp_path, alert_url=webhook["url"])
    webhook["status"] = 500
    assert not send_alert(settings, "drift", "x")
    webhook["status"] = 200
    assert send_alert(settings, "drift", "x", {"cells": 3})
    assert not send_alert(settings, "drift", "x")
    assert send_alert(settings, "drift", "y")
    assert [alert["text"] for alert in webhook["alerts"]] == ["x", "x", "y"]
    assert webhook["alerts"][1]["details"] == {"cells": 3}
    assert not send_alert(Settings(home=tmp_path, alert_url="http://127.0.0.1:9/none"), "drift", "z")
    assert not send_alert(Settings(home=tmp_path), "drift", "z")


@pytest.mark.parametrize(("error", "again"), [(OSError("away"), True), (KeyError("x"), False)])
def test_what_may_be_gone_the_next_time_is_tried_again(error, again):
    from prefect.states import Failed

    assert worth_trying_again(None, None, Failed(data=error)) == again


TRAINED = {"model_version": "3", "champion": True, "challenger": False, "reason": "better by 0.04"}


@pytest.mark.parametrize(
    ("flow", "result", "words"),
    [
        ("train", TRAINED, "version 3 is champion: better by 0.04"),
        ("train", {**TRAINED, "champion": False, "challenger": True}, "version 3 is challenger: better by 0.04"),
        ("pipeline", {"train": {**TRAINED, "champion": False}}, "version 3 is registered only: better by 0.04"),
        ("drift", {"champion": {"verdict": "drift", "reasons": ["a", "b"]}}, "drift: a; b"),
        ("drift", {"retrain": None}, "there is no champion yet"),
        ("promote", {"decision": {"action": "reject", "reason": "worse"}}, "reject: worse"),
        ("promote", {"decision": None}, "there is nothing to decide"),
        ("experiment", {"action": "none", "why": "no challenger"}, "none: no challenger"),
        ("shadow", {"status": "better", "reason": "certain"}, "better: certain"),
        ("ingest", {"rows": 3}, "done"),
    ],
)
def test_a_flow_says_what_it_came_to(flow, result, words):
    assert verdict(flow, result) == words
