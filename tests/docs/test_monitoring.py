"""Metrics, alerts and dashboards: each described, each linked to what to do, and each with data where the parts run."""

import importlib.util
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

from fingerpost.cli.stack.ports import free_ports
from tests.support.engine_harness import RunningEngine
from tests.support.made_fleet import MadeFleet
from tests.support.page_feed import feed_windows, note_flows
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
# What a rule compares is what has data while all is well.
LIMIT = re.compile(r"\s[<>]=?\s[\d.]+$")
# These have no series before there was an experiment, an access log with decisions, or five minutes of windows.
LATER = re.compile(r'fingerpost_engine_(experiment|routed)_|fingerpost_guard_|horizon="5m"')
needs_prometheus = pytest.mark.skipif(not (PROMTOOL and PROMETHEUS), reason="no prometheus on this machine")


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def rules():
    (group,) = yaml.safe_load((MONITORING / "rules.yml").read_text())["groups"]
    return group["rules"]


def test_the_page_of_metrics_is_what_the_parts_declare():
    made = module(ROOT / "docs" / "make_metrics.py")
    assert made.PAGE.read_text() == made.rendered(), "python docs/make_metrics.py"
    for part, rows in made.families().items():
        for name, kind, labels, text in rows:
            assert re.fullmatch(r"fingerpost_[a-z0-9_]+", name), part
            assert name.endswith("_total") == (kind == "counter")
            assert text and not re.search(r"_(s|ms|us|sec|kb|mb)$", name)
            assert not {"le", "job", "instance"} & set(labels)


def test_dashboards_are_those_of_the_script():
    made = module(MONITORING / "make_dashboards.py")
    for name, text in made.dashboards().items():
        assert (made.FOLDER / name).read_text() == text, "python deploy/monitoring/make_dashboards.py"
    assert {path.name for path in made.FOLDER.iterdir()} == set(made.dashboards())


def test_every_alert_tells_what_to_do():
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    sections = {name.lower(): text for name, text in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", runbook, re.M | re.S)}
    linked = [each["annotations"]["runbook_url"] for each in rules()]
    assert linked == [f"docs/runbook.md#{each['alert'].lower()}" for each in rules()]
    assert set(sections) == {each["alert"].lower() for each in rules()}
    for text in sections.values():
        assert re.findall(r"\*\*(\w[\w ]*):\*\*", text) == ["Means", "Look at", "Do"]


def test_what_is_asked_for_exists():
    declared = {name for rows in module(ROOT / "docs" / "make_metrics.py").families().values() for name, *_ in rows}
    asked = [*(each["expr"] for each in rules()), *module(MONITORING / "make_dashboards.py").expressions()]
    for name in re.findall(r"\bfingerpost_[a-z0-9_]+", " ".join(asked)):
        assert name.removesuffix("_bucket") in declared, name


@needs_prometheus
@pytest.mark.process
def test_promtool_accepts_configuration_and_rules():
    for words in (("config", "prometheus.yml"), ("rules", "rules.yml")):
        done = subprocess.run([PROMTOOL, "check", *words], cwd=MONITORING, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
@pytest.mark.process
def test_every_expression_has_data_from_running_parts(tmp_path):
    """A real Prometheus scrapes an engine, an agent and a router."""
    engine_port, agent_port, router_port, port = free_ports(4)
    made = MadeFleet.make(4, 4)
    log = tmp_path / "access.log"
    log.write_text("")
    with RunningEngine(tmp_path / "engine", engine_port, fingerprint_ttl_s=900) as engine:
        env = {**engine.env, "FINGERPOST_HOME": str(tmp_path), "FINGERPOST_ENGINE_URL": engine.url}
        words = [
            ["agent", "--host", "h9", "--access-log", str(log), "--http-port", str(agent_port)],
            [
                "router",
                "--engine-url",
                engine.url,
                "--table",
                str(tmp_path / "shop.table"),
                "--metrics-port",
                str(router_port),
            ],
        ]
        started = [
            subprocess.Popen([sys.executable, "-m", "fingerpost", *each], env=env, stderr=subprocess.DEVNULL)
            for each in words
        ]
        try:
            note_flows(engine)
            feed_windows(engine, made, 3)
            httpx.post(f"{engine.url}/v1/reports", content=b"x", trust_env=False)
            targets = {"engine": engine_port, "agent": agent_port, "router": router_port}
            for part, of_part in targets.items():
                text = wait_for(lambda at=of_part: exposition(at), 60)
                assert f'fingerpost_build_info{{part="{part}"' in text
                done = subprocess.run(
                    [PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, check=False
                )
                assert done.returncode == 0, (part, done.stdout, done.stderr)
            started.append(prometheus(tmp_path, port, targets))
            asked = {LIMIT.sub("", each["expr"]) for each in rules()}
            asked |= {LIMIT.sub("", each) for each in module(MONITORING / "make_dashboards.py").expressions()}
            missing = {each for each in asked if not LATER.search(each)}

            deadline = time.monotonic() + 60
            while missing and time.monotonic() < deadline:
                missing = {each for each in missing if not query(port, each)}
            assert not missing
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(20)


def exposition(port):
    return httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=10).text


def prometheus(folder, port, targets):
    config = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(MONITORING / "rules.yml")]
    for job in config["scrape_configs"]:
        at = targets[job["job_name"].removeprefix("fingerpost-")]
        job["static_configs"] = [{"targets": [f"127.0.0.1:{at}"]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    command = [PROMETHEUS, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    return subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL)


def query(port, expression):
    # Rates of a few seconds, since nobody waits for five minutes.
    asked = {"query": expression.replace("[5m]", "[10s]")}
    url = f"http://127.0.0.1:{port}/api/v1/query"

    def answer():
        given = httpx.get(url, params=asked, trust_env=False, timeout=10)
        # It says so while it starts.
        return given if given.status_code != 503 else None

    found = wait_for(answer, 60, 0.5).json()
    assert found["status"] == "success", (expression, found)
    return bool(found["data"]["result"])
