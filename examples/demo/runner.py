"""The demo from start to end: fleet, telemetry, flows, engine, predictions."""

import contextlib
import json
import shutil
import time
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from examples.demo.classes import demo_hosts
from examples.demo.new_story import told_before
from examples.demo.outcome import Outcome, print_outcome
from examples.demo.processes import (
    Layout,
    agent_command,
    demo_module,
    demo_settings,
    envoy_command,
    example_module,
    host_command,
    port_uses,
)
from examples.demo.progress import Progress
from examples.demo.report import write_report
from examples.demo.story import Story, Told
from fingerpost.cli.stack.parts import (
    answers,
    fingerpost,
    mlflow_command,
    prefect_command,
    settings_environment,
)
from fingerpost.cli.stack.ports import check_ports
from fingerpost.cli.stack.processes import Child, ProcessGroup
from fingerpost.cli.stack.state import FOLDER
from fingerpost.engine_api import EngineClient, EngineError
from fingerpost.environment import prefect_server_environment, tool_environment
from fingerpost.home import keep_from_others, make_home
from fingerpost.lake import INBOX, row_count
from fingerpost.locks import sole
from fingerpost.masking import masked
from fingerpost.serving.model_files import ModelFiles
from fingerpost.settings import LOOPBACK, Settings
from fingerpost.shown import rich_text

_START_TIMEOUT_S = 120
_PIPELINE_TIMEOUT_S = 600
_SETTLE_TIMEOUT_S = 30
# After the first model there is more to do for the machine than to serve.
_STORY_RATE = 0.8


@dataclass(frozen=True)
class DemoOptions:
    """Holds the options of `python -m examples.demo`; see its `--help`."""

    once: bool
    json_output: bool
    hosts: int
    seconds: float
    rate: float
    seed: int
    short: bool
    skip_gates: bool


class Demo:
    """One run. `run` returns after the table with `once`, else when it is interrupted; no process outlives it.

    Raises:
        FingerpostError: a port is taken, a process died or did not answer; the message says which.
    """

    def __init__(self, settings: Settings, options: DemoOptions) -> None:
        self._settings = demo_settings(settings)
        self._options = options
        self._layout = Layout(self._settings.home)
        self._hosts = demo_hosts(options.hosts, self._settings.host_port_base)
        self._console = Console(stderr=True)
        self._progress = Progress(self._console)
        self._began = time.monotonic()

    def run(self) -> None:
        keep_from_others()
        make_home(self._layout.home.parent)
        make_home(self._layout.home)
        environment = {**settings_environment(self._settings), **tool_environment(self._settings)}
        home = self._layout.home
        with sole(home / FOLDER / "demo.lock", f"a demo runs in {home}", cure="stop it, or set FINGERPOST_HOME"):
            stack = ProcessGroup(self._layout.logs, environment)
            stack.end_left_over()
            check_ports(port_uses(self._settings, self._hosts))
            self._clear()
            with stack:
                stack.catch_signals()
                outcome = self._loop(stack)
                if self._options.json_output:
                    print(json.dumps(outcome.to_json(), indent=1), flush=True)
                else:
                    print_outcome(outcome, Console())
                if not self._options.once:
                    self._stay(stack, outcome)

    def _loop(self, stack: ProcessGroup) -> Outcome:
        settings = self._settings
        again = told_before(settings)
        with self._progress.phase("starting the fleet, Envoy, the engine, MLflow and Prefect"):
            stack.start("prefect", prefect_command(settings), prefect_server_environment(settings))
            stack.start("mlflow", mlflow_command(settings))
            if again:
                self._make_room(stack)
            engine = stack.start("engine", fingerpost("engine"))
            envoy = self._start_fleet(stack)
            for name in self._health_urls():
                self._wait_for(stack, name)
        with self._progress.phase(f"driving {len(self._hosts)} hosts for {self._options.seconds:.0f} s"):
            load = self._drive(stack)
        answered = sum(count for status, count in load["statuses"].items() if status.isdigit())
        with self._progress.phase(f"waiting for the agents' reports of {answered} requests"):
            stack.wait_until(
                lambda: self._reported() >= answered,
                _SETTLE_TIMEOUT_S,
                f"the agents reported {self._reported()} of {answered} requests",
            )
        with self._progress.phase("ingest, features, tuning, training (Prefect flows)"):
            pipeline = self._pipeline(stack)
        with self._progress.phase("asking the prediction engine"):
            answer = self._ask(stack, engine, pipeline)
        # The story is of a champion: where the baseline goes on serving there is nothing to promote or to roll back.
        told = self._tell(stack, envoy) if pipeline["train"]["champion"] and not self._options.short else None
        seconds = time.monotonic() - self._began
        urls = {name: masked(url) for name, url in self._urls().items()}
        return Outcome(load, pipeline, answer, urls, seconds, told, self._layout.report)

    def _tell(self, stack: ProcessGroup, envoy: Child) -> Told:
        """What comes after the first model; its page is written however it ends."""
        settings, options, layout = self._settings, self._options, self._layout
        rate = options.rate * _STORY_RATE
        story = Story(settings, layout, self._hosts, stack, self._progress, rate, options.skip_gates)
        try:
            return story.tell(envoy)
        finally:
            if story.told.chapters:
                pictures = sorted(layout.reports.rglob("*.png"), key=lambda each: each.stat().st_mtime)
                write_report(story.told, layout.access_log, settings.service, pictures, layout.report, self._hosts)
                self._console.print(f"the story in pictures: {layout.report}", highlight=False)

    def _wait_for(self, stack: ProcessGroup, name: str) -> None:
        url = self._health_urls()[name]
        stack.wait_until(lambda: answers(url), _START_TIMEOUT_S, f"{name} does not answer at {url}")

    def _make_room(self, stack: ProcessGroup) -> None:
        """Before the engine starts, which would serve what an earlier story ended with."""
        self._wait_for(stack, "MLflow")
        stack.finish(stack.start("new-story", example_module("examples.demo.new_story")), _START_TIMEOUT_S)

    def _start_fleet(self, stack: ProcessGroup) -> Child:
        settings, layout = self._settings, self._layout
        for host in self._hosts:
            process = stack.start(f"host-{host.name}", host_command(host)).process
            stack.start(f"agent-{host.name}", agent_command(layout, host, process.pid, self._urls()["engine"]))
        places = (settings.bind_host, settings.envoy_port, settings.envoy_admin_port, settings.envoy_admin_socket)
        return stack.start("envoy", envoy_command(self._hosts, layout.home, layout.access_log, *places))

    def _drive(self, stack: ProcessGroup) -> dict[str, Any]:
        options = self._options
        command = demo_module(
            *("load", "--url", self._urls()["envoy"], "--seconds", str(options.seconds)),
            *("--rate", str(options.rate), "--seed", str(options.seed)),
        )
        child = stack.start("load", command)
        began = time.monotonic()

        def tick() -> None:
            self._progress.note(f"{min(options.seconds, time.monotonic() - began):.0f} of {options.seconds:.0f} s")

        stack.finish(child, options.seconds + _SETTLE_TIMEOUT_S + _START_TIMEOUT_S, tick)
        report: dict[str, Any] = json.loads(child.output().splitlines()[-1])
        return report

    def _reported(self) -> int:
        return row_count(self._layout.lake / INBOX, "requests", self._settings.service)

    def _pipeline(self, stack: ProcessGroup) -> dict[str, Any]:
        child = stack.start("pipeline", fingerpost("run", "pipeline", "--output", str(self._layout.result)))
        stack.finish(child, _PIPELINE_TIMEOUT_S, lambda: self._progress.note(_last_message(child)))
        result: dict[str, Any] = json.loads(self._layout.result.read_text())
        return result

    def _ask(self, stack: ProcessGroup, engine: Child, pipeline: dict[str, Any]) -> dict[str, Any]:
        url, trained = self._urls()["engine"], pipeline["train"]
        if not trained["champion"]:
            self._console.print(rich_text(f"version {trained['model_version']}: {trained['reason']}"))
        answer: dict[str, Any] = {}

        def serves_it() -> bool:
            if not answers(f"{url}/readyz"):
                return False
            with contextlib.suppress(EngineError), EngineClient(url, timeout_s=30) as client:
                answer.update(client.predict(self._settings.service))
            return answer.get("model_version") == trained["model_version"] or (not trained["champion"] and bool(answer))

        stack.wait_until(serves_it, _START_TIMEOUT_S, f"the engine does not serve the champion; see {engine.log}")
        return answer

    def _stay(self, stack: ProcessGroup, outcome: Outcome) -> None:
        stack.start("schedule", fingerpost("schedule"))
        for name, url in outcome.urls.items():
            self._console.print(f"  {name:8} {url}")
        if not self._settings.prefect_auth and not self._settings.prefect_url:
            where = self._settings.prefect_credential_file
            self._console.print(f"Prefect asks for a credential, which is in {where}", highlight=False, soft_wrap=True)
        self._console.print("The flows now run on their schedules. Ctrl-C stops everything.")
        try:
            while True:
                stack.check()
                time.sleep(0.3)
        except KeyboardInterrupt:
            self._console.print("stopping ...")

    def _health_urls(self) -> dict[str, str]:
        settings, urls = self._settings, self._urls()
        hosts = {f"host {each.name}": f"http://{LOOPBACK}:{each.port}/healthz" for each in self._hosts}
        return {
            **hosts,
            "Envoy": f"http://{LOOPBACK}:{settings.envoy_admin_port}/ready",
            "engine": f"{urls['engine']}/livez",
            "MLflow": f"{urls['mlflow']}/health",
            "Prefect": f"{settings.prefect}/health",
        }

    def _urls(self) -> dict[str, str]:
        settings = self._settings
        base = f"http://{settings.reach_host}"
        return {
            "envoy": f"{base}:{settings.envoy_port}",
            "engine": f"{base}:{settings.engine_port}",
            "mlflow": settings.mlflow,
            "prefect": settings.prefect.removesuffix("/api"),
        }

    def _clear(self) -> None:
        """Removes what the last run measured and served; the registry and the runs' history stay."""
        layout = self._layout
        make_home(layout.home)
        for folder in (layout.lake, layout.reports, ModelFiles(layout.home).root):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (layout.access_log, layout.result, layout.report, *layout.home.glob("fingerprints.db*")):
            path.unlink(missing_ok=True)


def _last_message(child: Child) -> str:
    """The last message of a child that logs JSON lines."""
    try:
        return str(json.loads(child.output().splitlines()[-1])["message"])
    except (IndexError, ValueError, KeyError, TypeError):
        return ""
