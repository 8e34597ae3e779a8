"""Hosts that join, drain and leave by their agents: engine, agents, router and Envoy, as an operator runs them."""

import json
import os
import subprocess
import sys
import threading
from collections import Counter
from contextlib import ExitStack, contextmanager
from http.server import ThreadingHTTPServer

import httpx
import pytest

from fingerpost.announcement import Announcement, Notice
from fingerpost.cli import hosts as cli_hosts
from fingerpost.cli.stack.ports import free_ports
from fingerpost.cli.status import _engine as status_of_engine
from fingerpost.engine_api import EngineError
from fingerpost.errors import FingerpostError
from fingerpost.lake import INBOX, parquet_files, service_folder
from fingerpost.routing.engine_hosts import EngineHosts, host_sources
from fingerpost.routing.envoy.clusters import discovery_response
from fingerpost.routing.envoy.config import envoy_config
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.routing.hosts import EndpointsKeeper
from fingerpost.settings import Settings
from tests.support.engine_harness import RunningEngine
from tests.support.made_fleet import MadeFleet
from tests.support.port_hosts import PortHost
from tests.support.running import running_envoy
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with RunningEngine(tmp_path_factory.mktemp("members"), free_ports(1)[0]) as running:
        yield running


def fingerpost(engine, *words, **variables):
    return subprocess.run(
        **command(engine, *words, **variables), capture_output=True, text=True, timeout=60, check=False
    )


def command(engine, *words, **variables):
    environment = {**engine.env, "FINGERPOST_ENGINE_URL": engine.url, "FINGERPOST_AGENT_DRAIN_S": "0", **variables}
    return {"args": [sys.executable, "-m", "fingerpost", *words], "env": environment}


@contextmanager
def running(engine, *words, **variables):
    """A command that goes on until it is ended."""
    process = subprocess.Popen(**command(engine, *words, **variables), stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=30)


@contextmanager
def serving_port():
    server = ThreadingHTTPServer(("127.0.0.1", 0), PortHost)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def table(engine, service):
    with engine.client() as client:
        return json.loads(client.table(service).body)


def names_in_table(engine, service):
    try:
        return [each["name"] for each in table(engine, service)["hosts"]]
    except EngineError:
        return []


def test_an_announced_host_is_in_the_table_before_it_reports(engine):
    made = MadeFleet.make(3, 4, "before")
    with engine.client() as client:
        client.send_reports(made.packed(1))
        about = Announcement("10.0.0.7:8000", "east", slots=8, cores=2.0)
        assert client.notice(Notice("before", "new", boot_id="b1", about=about)) == "serving"
    engine.wait_for(lambda: "new" in names_in_table(engine, "before"))
    found = table(engine, "before")
    place = [each["name"] for each in found["hosts"]].index("new")
    assert found["hosts"][place]["slots"] == 8
    # Its cells are what the fleet knows of such hosts: never nothing.
    assert all(row[place] for row in found["throughput_rps"])


def test_an_operator_lists_drains_resumes_and_removes(engine, capsys):
    made = MadeFleet.make(3, 4, "operated")
    with engine.client() as client:
        client.send_reports(made.packed(1))
    gone, *rest = made.hosts
    engine.wait_for(lambda: names_in_table(engine, "operated") == list(made.hosts))
    for action in (cli_hosts.drain, cli_hosts.remove):
        action(gone, "operated", engine.url)
        engine.wait_for(lambda: names_in_table(engine, "operated") == rest)
        capsys.readouterr()
        cli_hosts.list_hosts("operated", engine.url, json_output=True)
        states = {each["host"]: each["state"] for each in json.loads(capsys.readouterr().out)}
        assert states == {**({gone: "draining"} if action is cli_hosts.drain else {}), **dict.fromkeys(rest, "serving")}
    with pytest.raises(FingerpostError, match="knows no host 'nobody'"):
        cli_hosts.remove("nobody", "operated", engine.url)
    cli_hosts.resume(gone, "operated", engine.url)
    with engine.client() as client:
        client.send_reports(made.packed(2))
    engine.wait_for(lambda: names_in_table(engine, "operated") == list(made.hosts))
    cli_hosts.remove(gone, "operated", engine.url)
    cli_hosts.list_hosts("operated", engine.url)
    told = capsys.readouterr().out
    assert "when that starts anew, the host is back" in told
    assert f"{rest[0]}  no address, serving, heard " in told


def test_the_status_says_which_names_do_not_agree(engine):
    made = MadeFleet.make(2, 2, "named")
    with engine.client() as client:
        client.send_reports(made.packed(1))
    settings = Settings(home=engine.home, engine_port=int(engine.url.rpartition(":")[2]), service="named")
    path = engine.home / "routing" / "named.endpoints.json"
    path.parent.mkdir(exist_ok=True)

    def problems(*names):
        hosts = [Upstream(name, "10.0.0.1", 80 + place) for place, name in enumerate(names)]
        path.write_text(json.dumps(discovery_response(hosts, "hosts", "1")))
        return status_of_engine(settings).problems

    assert "names" not in problems(*made.hosts)
    told = problems(made.hosts[0], "misspelt")["names"]
    assert "misspelt among Envoy's endpoints" in told
    assert f"{made.hosts[1]} among the agents" in told


def test_what_is_refused_is_counted_by_reason(engine):
    def post(**notice):
        return httpx.post(f"{engine.url}/v1/members", json={"service": "shop", "host": "a", **notice}, trust_env=False)

    answer = post(boot_id="b", address="web-1:80")
    assert (answer.status_code, answer.json()) == (400, {"error": "address:malformed"})
    assert engine.metric("refused_total", '{reason="address:malformed"}') == 1.0


class Served:
    """A host with its agent."""

    def __init__(self, engine, name, home):
        self.serving = ExitStack()
        self.port, self.name = self.serving.enter_context(serving_port()), name
        variables = {"FINGERPOST_HOME": str(home / name), "FINGERPOST_AGENT_DRAIN_S": "3"}
        command = [sys.executable, "-m", "fingerpost", "agent", "--host", name, "--service", "shop"]
        command += ["--address", f"auto:{self.port}", "--class", "small", "--engine-url", engine.url]
        self.agent = subprocess.Popen(command, env={**os.environ, **variables}, stderr=subprocess.PIPE, text=True)

    def end(self):
        """Ends the agent, then, as a service manager does, the host itself."""
        self.agent.terminate()
        _, told = self.agent.communicate(timeout=30)
        self.serving.close()
        return told


def test_hosts_join_drain_and_leave_by_their_agents_and_no_request_fails(engine, tmp_path):
    with ExitStack() as stack:
        hosts = {name: Served(engine, name, tmp_path) for name in ("a", "b")}
        stack.callback(lambda: [each.end() for each in hosts.values()])
        client = stack.enter_context(engine.client())
        source, _ = host_sources("engine:", client, "shop")
        keeper = EndpointsKeeper(source, tmp_path / "endpoints.json")
        keeper.prepare()
        stop = threading.Event()
        follower = threading.Thread(target=keeper.follow, args=(stop,))
        follower.start()
        stack.callback(follower.join)
        stack.callback(stop.set)
        wait_for(lambda: {each.name for each in keeper.hosts} == {"a", "b"})
        port, admin = free_ports(2)
        config = envoy_config(
            [], tmp_path / "access.log", "127.0.0.1", port, admin, "fingerpost",
            table=tmp_path / "shop.table", endpoints=keeper.path,
        )  # fmt: skip
        stack.enter_context(running_envoy(config, tmp_path, admin))
        answers = _asked(stack, port)

        def served_by(name):
            before = answers[str(hosts[name].port)]
            return lambda: answers[str(hosts[name].port)] > before + 5

        wait_for(served_by("a"))
        hosts["c"] = Served(engine, "c", tmp_path)
        wait_for(served_by("c"))
        wait_for(lambda: set(names_in_table(engine, "shop")) == {"a", "b", "c"})
        told = hosts.pop("a").end()
        assert "the host drains" in told
        wait_for(served_by("b"))
        wait_for(lambda: set(names_in_table(engine, "shop")) == {"b", "c"})
        # By a command, while the agent goes on; then all drain, and requests have nowhere else to go.
        done = fingerpost(engine, "agent", "--drain", "--host", "b", "--service", "shop")
        assert (done.returncode, "b drains" in done.stdout) == (0, True), done.stderr
        cli_hosts.drain("c", "shop", engine.url)
        look = EngineHosts(client, "shop").look
        found = {each.host: each.state for each in look()}
        assert (found["b"], found["c"]) == ("draining", "draining")
        wait_for(served_by("b"))
        wait_for(served_by("c"))
        assert all(each.isdigit() for each in answers), answers


def test_hosts_with_nothing_installed_are_routed_by_what_a_proxys_agent_reports(engine, tmp_path):
    """The steps of docs/fleet.md for a proxy, with a list of hosts."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context(serving_port()) for name in ("a", "b", "c")}
        hosts, services, log = tmp_path / "plain.hosts", tmp_path / "services.toml", tmp_path / "plain.log"
        hosts.write_text("".join(f"{name}=127.0.0.1:{port}\n" for name, port in servers.items()))
        places = {"table": tmp_path / "plain.table", "endpoints": tmp_path / "plain.endpoints.json"}
        told = {"domains": ["*"], **{name: str(path) for name, path in places.items()}, "access_log": str(log)}
        services.write_text("[plain]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in told.items()))
        port, admin = free_ports(2)
        config = tmp_path / "envoy.json"
        variables = {"FINGERPOST_ENVOY_PORT": str(port), "FINGERPOST_ENVOY_ADMIN_PORT": str(admin)}
        made = fingerpost(engine, "envoy", "config", "--services", str(services), "--output", str(config), **variables)
        assert made.returncode == 0, made.stderr
        words = ("--service", "plain", "--access-log", str(log))
        options = [word for name, path in places.items() for word in (f"--{name}", str(path))]
        stack.enter_context(running(engine, "router", *words, "--hosts", str(hosts), *options))
        stack.enter_context(running_envoy(json.loads(config.read_text()), tmp_path, admin))
        answers = _asked(stack, port)
        wait_for(lambda: {str(each) for each in servers.values()} <= set(answers))
        home = tmp_path / "agent"
        # On another machine than the engine's there is no other way.
        words += ("--deliver", "engine")
        stack.enter_context(running(engine, "agent", "--proxy", "edge-1", *words, FINGERPOST_HOME=str(home)))
        wait_for(lambda: set(names_in_table(engine, "plain")) == set(servers), 60)
        wait_for(lambda: '"fingerpost;' in log.read_text()[-2000:])
        # What experiments need has come as well.
        inbox = engine.home / "lake" / INBOX
        for kind in ("requests", "reported_windows"):
            wait_for(lambda kind=kind: list(parquet_files(service_folder(inbox, kind, "plain"))))


def _asked(stack, port):
    """Eight clients ask until the stack ends; counts of what they were answered, by host or by error."""
    answers, stop, lock = Counter(), threading.Event(), threading.Lock()

    def ask():
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            while not stop.is_set():
                try:
                    answer = client.get("/")
                    got = answer.text if answer.status_code == 200 else f"status {answer.status_code}"
                except httpx.HTTPError as error:
                    got = repr(error)
                with lock:
                    answers[got] += 1

    clients = [threading.Thread(target=ask) for _ in range(8)]
    for client in clients:
        client.start()
        stack.callback(client.join)
    stack.callback(stop.set)
    return answers
