"""The demo's processes: their commands, their ports, and how to tell that each is ready."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from examples.demo.classes import DemoHost
from fingerpost.cli.stack.parts import Part, envoy_part, fingerpost
from fingerpost.cli.stack.ports import PortUse
from fingerpost.routing.envoy.config import Upstream, envoy_config
from fingerpost.settings import LOOPBACK, Settings

_PYTHON = sys.executable
HOST_MEMORY_MB = 256
# What fits a fleet that is watched for a minute or two; whatever the user sets wins.
_DEFAULTS = {
    "window_s": "3",
    "halflife_s": "30",
    "max_categories": "20",
    "min_category_requests": "250",
    "agent_batch_s": "2",
    "tuning_trials": "6",
    "tuning_timeout_s": "12",
    # What is compared over minutes must not change its name meanwhile.
    "category_drift": "0.9",
    "model_poll_s": "2",
    # Comparisons of minutes instead of days.
    "ingest_every_s": "5",
    # The story itself says when.
    "first_training_rows": "0",
    "shadow_every_s": "3",
    "shadow_block_s": "3",
    "experiment_slot_s": "3",
    "experiment_washout_s": "0.75",
    "experiment_pairs": "8",
    "experiment_min_pairs": "6",
    "challenger_min_skill": "-0.3",
    # Half a minute of held-out windows tells choices apart no better than by some 15%; and after the change that the
    # demo shows the baseline, which follows the latest window, knows more than a model of the minutes before it.
    "baseline_margin": "0.5",
    # The watch is to be seen to take a bad version back: the baseline would take over before.
    "baseline_takes_over": "false",
    "promotion_policy": str(Path(__file__).with_name("policy.toml")),
    # A few turns of two slices of 3 s, while what the promotion brought is measured.
    "watch_s": "36",
    "watch_slot_s": "3",
    "retrain_pause_s": "0",
    "drift_window_s": "36",
    "drift_min_rows": "100",
}
# So that pairs the router avoids are seen to become better, or worse, within a minute.
_EXPLORATION = "0.05"


def demo_module(*arguments: str) -> list[str]:
    """A command of the demo itself; found where the demo runs, at the repository's root."""
    return example_module("examples.demo", *arguments)


def example_module(module: str, *arguments: str) -> list[str]:
    """A command that runs a module of the examples, which are installed nowhere: found at the repository's root."""
    return [_PYTHON, "-m", module, *arguments]


@dataclass(frozen=True)
class Layout:
    """Where the demo keeps its things; all under `<home>/demo`, the lake anew in every run."""

    home: Path

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def lake(self) -> Path:
        return self.home / "lake"

    @property
    def reports(self) -> Path:
        return self.home / "reports"

    @property
    def access_log(self) -> Path:
        return self.home / "access.log"

    @property
    def result(self) -> Path:
        return self.home / "pipeline.json"

    @property
    def report(self) -> Path:
        return self.home / "report.html"

    @property
    def stage(self) -> Path:
        """Where the page is told what happens now."""
        return self.home / "stage.json"

    @property
    def warm(self) -> Path:
        return self.home / "warm"


def demo_settings(settings: Settings) -> Settings:
    """The settings with the demo's defaults for what the user left open."""
    chosen = {name: value for name, value in _DEFAULTS.items() if name not in settings.model_fields_set}
    home = settings.home / "demo"
    # Its own lake whatever is set: it is removed at the start of every run.
    return Settings(**{**settings.model_dump(), **chosen, "home": home, "lake": home / "lake"})


def port_uses(settings: Settings, hosts: list[DemoHost]) -> list[PortUse]:
    """Every port the demo binds, with the setting that moves it."""
    host = settings.bind_host
    return [
        PortUse("Envoy", host, settings.envoy_port, "FINGERPOST_ENVOY_PORT"),
        PortUse("Envoy admin", LOOPBACK, settings.envoy_admin_port, "FINGERPOST_ENVOY_ADMIN_PORT"),
        PortUse("engine", host, settings.engine_port, "FINGERPOST_ENGINE_PORT"),
        PortUse("page", LOOPBACK, settings.page_port, "FINGERPOST_PAGE_PORT"),
        PortUse("MLflow", LOOPBACK, settings.mlflow_port, "FINGERPOST_MLFLOW_PORT"),
        PortUse("Prefect", LOOPBACK, settings.prefect_port, "FINGERPOST_PREFECT_PORT"),
        *(PortUse(f"demo host {each.name}", LOOPBACK, each.port, "FINGERPOST_HOST_PORT_BASE") for each in hosts),
    ]


def envoy_command(
    hosts: list[DemoHost],
    home: Path,
    access_log: Path,
    bind_host: str,
    port: int,
    admin_port: int,
    admin_socket: Path,
) -> list[str]:
    """Writes Envoy's configuration into `home` and returns its command."""
    upstreams = [Upstream(each.name, LOOPBACK, each.port) for each in hosts]
    path = home / "envoy.json"
    made = envoy_config(upstreams, access_log, bind_host, port, admin_port, admin_socket=admin_socket)
    path.write_text(json.dumps(made, indent=1))
    return [
        *(str(Path(_PYTHON).parent / "envoy"), "-c", str(path), "--concurrency", "1", "-l", "warn"),
        # Two Envoys on one machine need different ids; the port is one that is surely ours.
        *("--base-id", str(admin_port), "--file-flush-interval-msec", "250"),
    ]


def routing_envoy(settings: Settings, layout: Layout, hosts: list[DemoHost]) -> Part:
    """Writes the configuration of an Envoy that routes by prediction, on the same ports and log."""
    from fingerpost.routing.envoy.module import build_module

    upstreams = [Upstream(each.name, LOOPBACK, each.port) for each in hosts]
    table = settings.home / "routing" / f"{settings.service}.table"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.unlink(missing_ok=True)
    ports = (settings.bind_host, settings.envoy_port, settings.envoy_admin_port)
    made = envoy_config(
        *(upstreams, layout.access_log, *ports, "fingerpost", False, table), admin_socket=settings.envoy_admin_socket
    )
    path = layout.home / "envoy-routing.json"
    path.write_text(json.dumps(made, indent=1))
    part = envoy_part(settings, path, build_module())
    return replace(part, command=[*part.command, "--concurrency", "1"])


def router_environment(changes: dict[str, str]) -> dict[str, str]:
    """Variables of a router with other settings than the demo's."""
    return variables({"exploration": _EXPLORATION, **changes})


def variables(changes: dict[str, str]) -> dict[str, str]:
    """Names of settings in lower case to values, as the environment has them."""
    return {f"FINGERPOST_{name.upper()}": value for name, value in changes.items()}


def host_command(host: DemoHost) -> list[str]:
    job = host.job
    told = ("--job", str(job.every_s), str(job.for_s), str(job.times)) if job else ()
    return demo_module("host", "--class", host.host_class, "--port", str(host.port), *told)


def agent_command(layout: Layout, host: DemoHost, pid: int, engine_url: str) -> list[str]:
    return fingerpost(
        *("agent", "--host", host.name, "--access-log", str(layout.access_log), "--pid", str(pid)),
        *("--cores", "1", "--mem-limit-mb", str(HOST_MEMORY_MB)),
        *("--stats-url", f"http://{LOOPBACK}:{host.port}/fingerpost/stats", "--engine-url", engine_url),
    )
