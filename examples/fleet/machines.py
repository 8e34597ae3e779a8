"""What runs on the fleet's machines: the commands of an operator, each on its machine."""

import json
import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from examples.demo.processes import demo_settings, example_module
from examples.fleet.network import Machine, Network
from fingerpost.accesslog.envoy_format import FLUSH_MS
from fingerpost.cli.stack.parts import answers, fingerpost, settings_environment
from fingerpost.cli.stack.processes import Child, ProcessGroup
from fingerpost.environment import tool_environment
from fingerpost.routing.envoy.module import build_module
from fingerpost.settings import Settings

ROOT = Path(__file__).parents[2]
SLOTS = 4
# A request to a machine that says nothing any more fails after this time.
TIMEOUT_S = 10
_START_S = 120.0
_ENGINE_PORT, _HOST_PORT, _PROXY_PORT = 3000, 9000, 8080


@dataclass(frozen=True)
class Service:
    """A service of the fleet; clients ask for it by its name.

    Args:
        hosts: classes of its hosts.
        rate_rps: requests a second, on average, over all proxies.
    """

    name: str
    hosts: tuple[str, ...]
    rate_rps: float


SERVICES = (
    Service("shop", ("compute", "storage", "general", "compute", "storage"), 70.0),
    Service("blog", ("compute", "storage", "general"), 40.0),
)
JOINER = "compute"


@dataclass
class Host:
    """A machine that serves, with its agent."""

    name: str
    machine: Machine
    served: Child
    agent: Child


class Fleet:
    """Starts what runs on each machine, and stops it.

    Args:
        home: folder that every machine has files of its own in.
    """

    def __init__(self, settings: Settings, network: Network, stack: ProcessGroup, home: Path) -> None:
        self._settings = demo_settings(settings)
        self.network, self._stack, self.home = network, stack, home
        self._token = secrets.token_hex(16)
        self._routers: list[Child] = []
        self.hosts: dict[str, Host] = {}
        self.proxies: list[Machine] = []
        self.control = network.add("control")
        self.engine_url = f"http://{self.control.address}:{_ENGINE_PORT}"

    def start_control(self) -> None:
        """Starts MLflow, Prefect, the engine and the schedules on the control plane's machine."""
        parts = [word for name in ("mlflow", "prefect", "engine", "schedule") for word in ("--only", name)]
        changes = {"SERVICE": SERVICES[0].name, "BIND_HOST": self.control.address}
        self._start(self.control, "control", fingerpost("up", *parts), changes)

    def engine_answers(self) -> bool:
        return answers(f"{self.engine_url}/livez")

    def run_flow(self, name: str, service: str) -> Child:
        """Starts a flow on the control plane, as an operator would; its result is in `flow_result`."""
        output = str(self.home / f"{name}-{service}.json")
        command = fingerpost("run", name, "--service", service, "--output", output)
        return self._start(self.control, f"{name}-{service}", command, {"BIND_HOST": self.control.address})

    def flow_result(self, name: str, service: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.control.file(self.home / f"{name}-{service}.json").read_text())
        return found

    def control_home(self) -> Path:
        """The control plane's home, as we see it."""
        return self.control.file(self.home / "home")

    def add_host(self, name: str, host_class: str, service: str) -> Host:
        """Makes a machine with a host and its agent, which announces it: proxies hear of it from the engine."""
        machine = self.network.add(name)
        socket = str(self.home / "agent.sock")
        serve = example_module(
            *("examples.fleet", "host", "--class", host_class, "--address", machine.address),
            *("--port", str(_HOST_PORT), "--name", name, "--service", service, "--middleware-socket", socket),
        )
        served = self._start(machine, f"host-{name}", serve, {})
        agent = fingerpost(
            *("agent", "--host", name, "--service", service, "--middleware-socket", socket),
            *("--address", f"auto:{_HOST_PORT}", "--class", host_class, "--slots", str(SLOTS), "--cores", "1"),
            *("--pid", str(served.process.pid), "--engine-url", self.engine_url),
        )
        self.hosts[name] = Host(name, machine, served, self._start(machine, f"agent-{name}", agent, {}))
        return self.hosts[name]

    def host_answers(self, host: Host) -> bool:
        return answers(f"http://{host.machine.address}:{_HOST_PORT}/healthz")

    def add_proxy(self) -> Machine:
        """Makes a machine for an Envoy and a router, which know all services."""
        proxy = self.network.add(f"proxy-{len(self.proxies) + 1}")
        self.proxies.append(proxy)
        return proxy

    def start_proxies(self, **router_changes: str) -> None:
        """Starts them; returns when every Envoy is ready."""
        for proxy in self.proxies:
            told = "".join(self._table_of_services(service) for service in SERVICES)
            proxy.file(self._services).write_text(told)
            command = fingerpost(
                *("envoy", "config", "--services", str(self._services), "--output", str(self._configuration))
            )
            configure = self._start(proxy, f"config-{proxy.name}", command, {"BIND_HOST": proxy.address})
            self._stack.finish(configure, _START_S)
        self.start_routers(**router_changes)
        module = {"ENVOY_DYNAMIC_MODULES_SEARCH_PATH": str(build_module().parent)}
        for number, proxy in enumerate(self.proxies):
            command = [str(Path(sys.executable).parent / "envoy"), "-c", str(self._configuration)]
            # Shared memory is what namespaces of network and files do not separate.
            command += ["--concurrency", "1", "--base-id", str(7700 + number), "-l", "warn"]
            command += ["--file-flush-interval-msec", str(FLUSH_MS)]
            self._start(proxy, f"envoy-{proxy.name}", command, {}, module)
            for service in SERVICES:
                self._start_proxy_agent(proxy, service)

    def proxy_answers(self, proxy: Machine, service: Service) -> bool:
        """Whether a request to the service comes through the proxy."""
        try:
            url = f"http://{proxy.address}:{_PROXY_PORT}/healthz"
            found = httpx.get(url, headers={"host": service.name}, trust_env=False, timeout=2)
            return found.status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def start_routers(self, **changes: str) -> None:
        """Starts every router, or starts it anew with other settings; Envoy goes on with the table there is."""
        for child in self._routers:
            self._stack.end(child)
        several = [word for service in SERVICES for word in ("--service", service.name)]
        places = {"table": self._TABLE, "endpoints": self._ENDPOINTS, "access-log": self._LOG}
        words = [word for name, place in places.items() for word in (f"--{name}", str(self.home / place))]
        command = fingerpost("router", *several, "--engine-url", self.engine_url, "--hosts", "engine:", *words)
        changed = {name.upper(): value for name, value in changes.items()}
        self._routers = [self._start(proxy, f"router-{proxy.name}", command, changed) for proxy in self.proxies]

    def start_clients(self) -> Child:
        """Starts the clients, on a machine of their own, until they are ended."""
        targets = [
            f"{service.name}@http://{proxy.address}:{_PROXY_PORT}={service.rate_rps / len(self.proxies):g}"
            for proxy in self.proxies
            for service in SERVICES
        ]
        words = [word for target in targets for word in ("--target", target)]
        command = example_module("examples.fleet", "load", *words)
        return self._start(self.network.add("clients"), "clients", command, {})

    def _start_proxy_agent(self, proxy: Machine, service: Service) -> None:
        """Starts what tells the control plane of a proxy's decisions, and of hosts as it sees them."""
        words = ("agent", "--proxy", proxy.name, "--service", service.name, "--engine-url", self.engine_url)
        command = fingerpost(*words, "--access-log", str(self.log_file(service)))
        self._start(proxy, f"agent-{proxy.name}-{service.name}", command, {})

    def power_off(self, host: Host) -> None:
        """Takes a machine away without a word: no connection is closed, and nothing is sent any more."""
        self.network.cut(host.machine)
        for child in (host.served, host.agent):
            self._stack.end(child, grace_s=0)

    def stop_host(self, host: Host) -> None:
        """Stops the agent, which drains the host, and then the service."""
        for child in (host.agent, host.served):
            self._stack.end(child, grace_s=20)

    # On each proxy; the router puts in the name of each service.
    _TABLE, _ENDPOINTS, _LOG = "{service}.table", "{service}.endpoints.json", "{service}.log"

    def table_file(self, service: Service) -> Path:
        return self.home / self._TABLE.format(service=service.name)

    def log_file(self, service: Service) -> Path:
        return self.home / self._LOG.format(service=service.name)

    @property
    def _services(self) -> Path:
        return self.home / "services.toml"

    @property
    def _configuration(self) -> Path:
        return self.home / "envoy.json"

    def _table_of_services(self, service: Service) -> str:
        keys = {
            "endpoints": str(self.home / self._ENDPOINTS.format(service=service.name)),
            "table": str(self.table_file(service)),
            "access_log": str(self.log_file(service)),
            "health_path": "/healthz",
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
        return "\n".join((f"[{service.name}]", f'domains = ["{service.name}"]', f"timeout_s = {TIMEOUT_S}", *lines, ""))

    def _start(
        self,
        machine: Machine,
        name: str,
        command: list[str],
        changes: Mapping[str, str],
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Starts a command on a machine, with its own home and the settings changed."""
        home = self.home / "home"
        settings = self._settings.model_copy(update={"home": home, "lake": home / "lake"})
        variables = {
            **settings_environment(settings),
            **tool_environment(settings),
            "TMPDIR": str(self.home),
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(build_module().parents[2]),
            "FINGERPOST_DISK_LOW_MB": "0",
            # The story itself says when.
            "FINGERPOST_FIRST_TRAINING_ROWS": "0",
            "FINGERPOST_ENGINE_TOKEN": self._token,
            **{f"FINGERPOST_{setting}": value for setting, value in changes.items()},
            **(environment or {}),
        }
        return self._stack.start(name, machine.command(command, ROOT), variables)
