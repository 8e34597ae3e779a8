"""The demo from start to end: fleet, telemetry, flows, engine, predictions."""

import contextlib
import json
import os
import shutil
import sys
import time
import webbrowser
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console

from examples.demo import stages, words
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
    routing_envoy,
    variables,
)
from examples.demo.progress import Progress
from examples.demo.report import write_report
from examples.demo.stages import Stages, has_table, numbers_of
from examples.demo.story import STAGES, Story
from examples.demo.warm import Run, Warm
from fingerpost.cli.stack.parts import (
    answers,
    fingerpost,
    mlflow_command,
    prefect_command,
    registry_path,
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
# What starts when the first table is there.
_LATER = ("MLflow", "Prefect")
_PIPELINE_TIMEOUT_S = 600
_SETTLE_TIMEOUT_S = 30
# At its end the traffic is spread for so long: the quarter of the time that a model is tested on, and some more.
_SPREAD_S = 22.0
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
        of = 3 if options.short else 3 + STAGES + options.skip_gates
        self._stages = Stages(self._layout.stage, of, partial(numbers_of, self._urls()["engine"]), self._progress)
        self._began = time.monotonic()
        self._milestones: dict[str, float] = {}

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
                self._stages.over()
                if self._options.json_output:
                    print(json.dumps(outcome.to_json(), indent=1), flush=True)
                else:
                    print_outcome(outcome, Console())
                if not self._options.once:
                    self._stay(stack, outcome)

    def _loop(self, stack: ProcessGroup) -> Outcome:
        settings, options, layout = self._settings, self._options, self._layout
        warm = Warm(stack, layout.warm, layout.logs)
        story = Story(settings, layout, self._hosts, stack, self._stages, warm, options.skip_gates)
        try:
            with self._stages.stage(stages.START):
                self._show_page(stack)
                engine = self._start_serving(stack, story)
            with self._stages.stage(stages.DRIVE_ONLY if options.short else stages.DRIVE):
                load = self._drive(stack, warm, story)
                if not options.short:
                    story.send(options.rate * _STORY_RATE)
            with self._stages.stage(stages.TRAIN):
                pipeline, answer = self._train(stack, warm, engine, load)
            trained = pipeline["train"]
            self._stages.say(*words.first_model(trained, pipeline["ingest"]["request_records"]))
            # The story is of a champion: where the baseline goes on serving there is nothing to promote or roll back.
            told = bool(trained["champion"]) and not options.short
            if told:
                story.tell()
            warm.stop()
        finally:
            if self._stages.told.chapters:
                write_report(self._stages.told, layout.report)
                self._console.print(f"the story in pictures: {layout.report}", highlight=False, soft_wrap=True)
        self._passed("story" if told else "predictions")
        urls = {name: masked(url) for name, url in self._urls().items()}
        seconds = time.monotonic() - self._began
        return Outcome(
            load, pipeline, answer, urls, seconds, self._stages.told if told else None, layout.report, self._milestones
        )

    def _passed(self, milestone: str) -> None:
        self._milestones[milestone] = round(time.monotonic() - self._began, 1)

    def _show_page(self, stack: ProcessGroup) -> None:
        """The page comes first: it tells of all that starts after it."""
        address = self._urls()["page"]
        stack.start("page", fingerpost("page", "--story", str(self._layout.stage)))
        stack.wait_until(lambda: answers(f"{address}/"), _START_TIMEOUT_S, f"the page does not answer at {address}")
        self._passed("page")
        self._console.print(f"watch it at {address}/", highlight=False, soft_wrap=True)
        if at_a_desk(self._console.is_terminal):
            webbrowser.open(f"{address}/")

    def _start_serving(self, stack: ProcessGroup, story: Story) -> Child:
        """Starts what the first table needs, and waits for that; the rest starts when the machine has time for it."""
        engine = stack.start("engine", fingerpost("engine"))
        self._start_fleet(stack)
        if not self._options.short:
            story.begin_turns()
        for name in self._health_urls():
            if name not in _LATER:
                self._wait_for(stack, name)
        self._load = self._start_load(stack)
        url, hosts = self._urls()["engine"], len(self._hosts)
        stack.wait_until(lambda: has_table(numbers_of(url), hosts), _START_TIMEOUT_S, "no table knows all hosts")
        self._table_s = time.time()
        self._passed("first predicted table")
        return engine

    def _train(
        self, stack: ProcessGroup, warm: Warm, engine: Child, load: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        answered = sum(count for status, count in load["statuses"].items() if status.isdigit())
        stack.wait_until(
            lambda: self._reported() >= answered,
            _SETTLE_TIMEOUT_S,
            f"the agents reported {self._reported()} of {answered} requests",
        )
        run = warm.begin("pipeline", fingerpost("run", "pipeline", "--output", str(self._layout.result)))
        warm.finish(run, _PIPELINE_TIMEOUT_S, lambda: self._progress.note(_last_message(run)))
        pipeline: dict[str, Any] = json.loads(self._layout.result.read_text())
        return pipeline, self._ask(stack, engine, pipeline)

    def _wait_for(self, stack: ProcessGroup, name: str) -> None:
        url = self._health_urls()[name]
        stack.wait_until(lambda: answers(url), _START_TIMEOUT_S, f"{name} does not answer at {url}")

    def _start_fleet(self, stack: ProcessGroup) -> None:
        settings, layout = self._settings, self._layout
        for host in self._hosts:
            process = stack.start(f"host-{host.name}", host_command(host)).process
            stack.start(f"agent-{host.name}", agent_command(layout, host, process.pid, self._urls()["engine"]))
        if self._options.short:
            places = (settings.bind_host, settings.envoy_port, settings.envoy_admin_port, settings.envoy_admin_socket)
            stack.start("envoy", envoy_command(self._hosts, layout.home, layout.access_log, *places))
        else:
            part = routing_envoy(settings, layout, self._hosts)
            stack.start("envoy", part.command, part.env)

    def _start_load(self, stack: ProcessGroup) -> Child:
        options = self._options
        self._driven_s = time.time()
        command = demo_module(
            *("load", "--url", self._urls()["envoy"], "--seconds", str(options.seconds)),
            *("--rate", str(options.rate), "--seed", str(options.seed)),
        )
        return stack.start("load", command)

    def _drive(self, stack: ProcessGroup, warm: Warm, story: Story) -> dict[str, Any]:
        """Waits for the end of the traffic, and starts meanwhile what keeps models and runs flows."""
        options, seconds = self._options, self._options.seconds
        self._start_platform(stack, warm)

        alone = options.short

        def tick() -> None:
            nonlocal alone
            passed = time.time() - self._driven_s
            if not alone and passed > seconds - _SPREAD_S:
                alone = True
                story.compare_baseline(self._table_s)
                self._passed("predicted beside least request")
                story.spread()
            self._progress.note(f"{min(seconds, passed):.0f} of {seconds:.0f} s")

        stack.finish(self._load, seconds + _SETTLE_TIMEOUT_S + _START_TIMEOUT_S, tick)
        for name in _LATER:
            self._wait_for(stack, name)
        stack.wait_until(warm.ready, _START_TIMEOUT_S, "what runs the flows is not ready")
        report: dict[str, Any] = json.loads(self._load.output().splitlines()[-1])
        return report

    def _start_platform(self, stack: ProcessGroup, warm: Warm) -> None:
        settings = self._settings
        stack.start("prefect", prefect_command(settings), prefect_server_environment(settings))
        warm.start()
        if told_before(settings):
            # Before its server is up: the engine would serve what an earlier story ended with.
            registry = {"mlflow_url": f"sqlite:///{registry_path(settings)}"}
            warm.run("new-story", example_module("examples.demo.new_story"), _START_TIMEOUT_S, variables(registry))
        stack.start("mlflow", mlflow_command(settings))

    def _reported(self) -> int:
        return row_count(self._layout.lake / INBOX, "requests", self._settings.service)

    def _ask(self, stack: ProcessGroup, engine: Child, pipeline: dict[str, Any]) -> dict[str, Any]:
        url, trained = self._urls()["engine"], pipeline["train"]
        if not trained["champion"]:
            self._console.print(rich_text(f"version {trained['model_version']}: {trained['reason']}"))
        answer: dict[str, Any] = {}

        def serves_it() -> bool:
            if not answers(f"{url}/readyz"):
                return False
            with contextlib.suppress(EngineError), EngineClient(url, self._settings.token_to_send, 30) as client:
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
            "page": f"http://{LOOPBACK}:{settings.page_port}",
            "mlflow": settings.mlflow,
            "prefect": settings.prefect.removesuffix("/api"),
        }

    def _clear(self) -> None:
        """Removes what the last run measured and served; the registry and the runs' history stay."""
        layout = self._layout
        make_home(layout.home)
        for folder in (layout.lake, layout.reports, ModelFiles(layout.home).root):
            shutil.rmtree(folder, ignore_errors=True)
        for path in (
            layout.access_log,
            layout.result,
            layout.report,
            layout.stage,
            *layout.home.glob("fingerprints.db*"),
        ):
            path.unlink(missing_ok=True)


def at_a_desk(terminal: bool) -> bool:
    """Whether somebody sits before this machine, to whom a browser can be shown."""
    display = sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return terminal and display and not os.environ.get("SSH_CONNECTION")


def _last_message(run: Run) -> str:
    """The last message of a run that logs JSON lines."""
    try:
        return str(json.loads(run.output().splitlines()[-1])["message"])
    except (IndexError, ValueError, KeyError, TypeError):
        return ""
