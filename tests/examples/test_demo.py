"""The demo as a user runs it: every part a real process on this machine."""

import contextlib
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.databases import lend_prefect

pytestmark = pytest.mark.process

# Whatever it is that dies, the fewest hosts show it.
SMALL = ("--once", "--seconds", "60", "--hosts", "3")
TARGETS = {"throughput_rps", "latency_p50_s", "latency_p99_s"}


class RunningDemo:
    """A demo process with ports and a home of its own."""

    def __init__(self, home: Path, ports: list[int], *arguments: str) -> None:
        names = ("envoy", "engine", "mlflow", "prefect", "envoy admin", "page")
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in zip(names, ports, strict=False)}
        self.home = home
        variables = ("ENVOY_PORT", "ENGINE_PORT", "MLFLOW_PORT", "PREFECT_PORT", "ENVOY_ADMIN_PORT", "PAGE_PORT")
        self.env = {
            **os.environ,
            **{f"FINGERPOST_{name}": str(port) for name, port in zip(variables, ports, strict=False)},
            "FINGERPOST_HOST_PORT_BASE": str(ports[-1]),
            "FINGERPOST_HOME": str(home),
            "FINGERPOST_INGEST_EVERY_S": "15",
        }
        lend_prefect(home / "demo")
        self.output = home / "stdout"
        self.messages = home / "stderr"
        with self.output.open("wb") as output, self.messages.open("wb") as messages:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "examples.demo", *arguments], env=self.env, stdout=output, stderr=messages
            )

    @property
    def credential(self) -> str:
        """What Prefect asks for, `user:password`."""
        return (self.home / "demo" / "prefect-credential").read_text()

    def wait_for(self, text: str, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while text not in self.messages.read_text():
            assert self.process.poll() is None, self.messages.read_text()
            assert time.monotonic() < deadline, self.messages.read_text()
            time.sleep(0.2)

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def part(self, *words: str) -> psutil.Process:
        """The process whose command has all these words, once it runs."""
        deadline = time.monotonic() + 120
        while True:
            for each in self.family():
                with contextlib.suppress(psutil.Error):  # it may end while we look
                    if all(any(word in argument for argument in each.cmdline()) for word in words):
                        return each
            assert time.monotonic() < deadline, self.messages.read_text()
            time.sleep(0.2)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(60)


@pytest.fixture(scope="module")
def ports():
    """Ports far from the defaults, free when the module begins."""
    import socket

    def free(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) != 0

    base = next(base for base in range(21000, 60000, 100) if all(free(base + offset) for offset in range(20)))
    return [base, base + 1, base + 2, base + 3, base + 4, base + 5, base + 10]


def assert_gone(family: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


@pytest.fixture(scope="module")
def staying(tmp_path_factory, ports):
    """A demo that has printed its table and stays up; stopped at the end by Ctrl-C, which must leave nothing."""
    demo = RunningDemo(tmp_path_factory.mktemp("demo"), ports, "--json", "--short", "--seconds", "60")
    try:
        demo.wait_for("Ctrl-C stops everything", 300)
        yield demo
    finally:
        demo.end()


def test_the_loop_ends_in_predictions_from_what_it_measured(staying):
    outcome = json.loads(staying.output.read_text())
    assert outcome["hosts"] >= 6
    assert outcome["categories"] >= 5
    assert outcome["request_records"] == outcome["requests_sent"] > 1000
    assert set(outcome["skill"]) == TARGETS
    assert outcome["refused"] == {}
    table = outcome["table"]
    assert len(table) == outcome["hosts"] * outcome["categories"]
    assert all(cell["throughput_rps"] > 0 and 0 < cell["latency_p50_s"] <= cell["latency_p99_s"] for cell in table)
    assert sum(cell["best"] for cell in table) == outcome["categories"]


def test_the_page_is_there_first_and_tells_of_the_stages(staying):
    url, outcome = staying.urls["page"], json.loads(staying.output.read_text())
    passed = outcome["milestones"]
    assert 0 < passed["page"] < passed["first predicted table"] < passed["predictions"]
    assert f"watch it at {url}/" in staying.messages.read_text()
    page = httpx.get(f"{url}/v1/page", trust_env=False).json()
    assert page["stage"]["title"] == "the story is over"
    assert any("Version 1, trained on" in line for line in page["stage"]["found"])
    assert page["model"]["aliases"][0]["version"] == "1"
    report = (staying.home / "demo" / "report.html").read_text()
    chapters = json.loads(report.partition('id="chapters">')[2].partition("</script>")[0])
    assert [each["title"][:2] for each in chapters[1:4]] == ["1.", "2.", "3."]
    assert all(each["page"]["service"] == "shop" for each in chapters)


def test_the_table_knows_which_class_is_fast_at_what(staying):
    table = json.loads(staying.output.read_text())["table"]
    for kind, fast, slow in (("hash", "compute", "storage"), ("files", "storage", "compute")):
        # Large requests take longer than small ones, whoever serves them; a rare category has a few requests a cell.
        ratios = []
        for category in {cell["category"] for cell in table if cell["category"].startswith(f"POST /work/{kind}")}:
            of = {fast: [], slow: []}
            for cell in table:
                if cell["category"] == category and (host_class := cell["host"].split("-")[0]) in of:
                    of[host_class].append(math.log(cell["throughput_rps"]))
            ratios.append(max(of[fast]) - statistics.mean(of[slow]))  # one host of a class may be within its job
        # The work is done 5 and 6 times as fast; what is known of it a minute after the start is less.
        assert statistics.median(ratios) > math.log(1.2), (kind, ratios)


def test_the_registry_shows_run_plots_and_alias(staying):
    api = f"{staying.urls['mlflow']}/api/2.0/mlflow"
    with httpx.Client(trust_env=False, timeout=30) as client:
        model = client.get(f"{api}/registered-models/alias", params={"name": "fingerpost-shop", "alias": "champion"})
        run_id = model.json()["model_version"]["run_id"]
        run = client.get(f"{api}/runs/get", params={"run_id": run_id}).json()["run"]
        plots = client.get(f"{api}/artifacts/list", params={"run_id": run_id, "path": "plots"}).json()["files"]
        assert client.get(staying.urls["mlflow"]).status_code == 200
    assert "throughput_rps.skill" in {metric["key"] for metric in run["data"]["metrics"]}
    assert len(plots) == 9


def test_the_engine_explains_what_it_cannot_do(staying):
    url = f"{staying.urls['engine']}/v1/predict"
    unknown = httpx.post(url, json={"service": "bank"}, trust_env=False)
    assert unknown.status_code == 404
    assert "'bank'" in unknown.text
    assert httpx.post(url, json={"service": 3}, trust_env=False).status_code == 400
    one = httpx.post(url, json={"service": "shop", "hosts": ["compute-1"]}, trust_env=False).json()
    assert {cell["host"] for cell in one["cells"]} == {"compute-1"}


def test_a_deployment_runs_when_asked_for(staying):
    api = f"{staying.urls['prefect']}/api"
    with httpx.Client(trust_env=False, timeout=30, auth=tuple(staying.credential.split(":"))) as client:
        wanted = {"ingest/shop", "features/shop", "train/shop"}
        deadline = time.monotonic() + 60
        while True:
            found = client.post(f"{api}/deployments/filter", json={}).json()
            flows = {flow["id"]: flow["name"] for flow in client.post(f"{api}/flows/filter", json={}).json()}
            deployments = {f"{flows[each['flow_id']]}/{each['name']}": each for each in found}
            if wanted <= set(deployments):
                break
            assert time.monotonic() < deadline
            time.sleep(0.5)
        assert all(deployments[name]["schedules"] for name in wanted)
        sent = httpx.post(f"{staying.urls['envoy']}/work/hash", content=b"x", trust_env=False)
        assert sent.status_code == 200
        deadline = time.monotonic() + 240
        # The schedule's own run may have the deployment's one place.
        while (state := _run_deployment(staying, api, client, deadline)) == "CANCELLED":
            time.sleep(2)
        assert state == "COMPLETED"
        artifacts = client.post(f"{api}/artifacts/latest/filter", json={}).json()
    assert {artifact["key"] for artifact in artifacts} >= {"ingest-shop", "features-shop", "training-shop"}


def _run_deployment(staying, api, client, deadline):
    """The state in which a run ends; asked for, since `--watch` waits for an event that may have come before it."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "deployment", "run", "ingest/shop"],
        env={**staying.env, "PREFECT_API_URL": api, "PREFECT_API_AUTH_STRING": staying.credential},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    [run_id] = set(re.findall(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", done.stdout))
    while True:
        state = client.get(f"{api}/flow_runs/{run_id}").json()["state"]["type"]
        if state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return state
        assert time.monotonic() < deadline, (state, done.stdout, done.stderr)
        time.sleep(1)


def test_the_schedule_runs_by_itself(staying):
    wanted = {
        "flow_runs": {"state": {"type": {"any_": ["COMPLETED"]}}, "tags": {"all_": ["auto-scheduled"]}},
        "flows": {"name": {"any_": ["ingest"]}},
    }
    deadline = time.monotonic() + 90
    with httpx.Client(trust_env=False, timeout=30, auth=tuple(staying.credential.split(":"))) as client:
        while not client.post(f"{staying.urls['prefect']}/api/flow_runs/filter", json=wanted).json():
            assert time.monotonic() < deadline
            time.sleep(1)
    assert "ERROR" not in (staying.home / "demo" / "logs" / "prefect.log").read_text()


def test_ctrl_c_leaves_no_process(staying):
    family = staying.family()
    assert len(family) >= 18
    staying.process.send_signal(signal.SIGINT)
    assert staying.process.wait(60) == 0
    assert_gone(family)


@pytest.mark.parametrize("victim", ["envoy", "mlflow", "agent-storage-1"])
def test_killing_a_process_is_told_and_ends_the_demo(tmp_path, ports, victim):
    demo = RunningDemo(tmp_path, ports, *SMALL)
    try:
        demo.wait_for("traffic, routed by", 120)
        wanted = {
            "envoy": ["envoy-routing.json"],
            "mlflow": ["mlflow.db"],
            "agent-storage-1": ["storage-1", "fingerpost.agent.main"],
        }[victim]
        part, family = demo.part(*wanted), demo.family()
        part.kill()
        assert demo.process.wait(60) == 1
    finally:
        demo.end()
    assert f"{victim} (pid" in demo.messages.read_text()
    assert "SIGKILL" in demo.messages.read_text()
    assert_gone(family)


def test_killing_the_demo_itself_leaves_no_process(tmp_path, ports):
    demo = RunningDemo(tmp_path, ports, *SMALL)
    demo.wait_for("traffic, routed by", 120)
    family = demo.family()
    demo.process.kill()
    demo.process.wait()
    assert_gone(family)
