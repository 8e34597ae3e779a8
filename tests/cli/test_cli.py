"""The command line: light to start, and plain about what is wrong."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fingerpost.errors import FingerpostError
from fingerpost.routing.envoy.upstream import Upstream, parse_upstream
from fingerpost.settings import settings_tables, unknown_variables

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
HEAVY = {"pandas", "numpy", "pyarrow", "mlflow", "prefect", "bentoml", "lightgbm", "httpx", "pydantic"}


def fingerpost(*arguments, cwd=None, **env):
    return subprocess.run(
        [sys.executable, "-m", "fingerpost", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **env},
        timeout=120,
        check=False,
    )


def demo(*arguments, **env):
    return subprocess.run(
        [sys.executable, "-m", "examples.demo", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
        timeout=120,
        check=False,
    )


def modules_after(statement):
    code = f"{statement}; import sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in json.loads(done.stdout)}


def test_benchmarks_are_run_with_all_that_follows_their_name(tmp_path):
    done = fingerpost("bench", "anticipate", "--scenario", "nowhere", "--seeds", "0", cwd=tmp_path)
    assert done.returncode == 2
    assert "--seeds" in done.stderr
    listed = fingerpost("bench", "--help", cwd=tmp_path)
    assert listed.returncode == 0
    assert "anticipate" in listed.stdout


def test_help_loads_nothing_heavy():
    assert not HEAVY & modules_after("import fingerpost.cli")


def test_the_agent_loads_nothing_heavy():
    # Arrays are what a fingerprint is made of; all else that is large stays out.
    assert (HEAVY - {"numpy"}).isdisjoint(modules_after("import fingerpost.agent.main, fingerpost.agent.agent"))


@pytest.mark.parametrize("command", [[], ["agent"], ["run"], ["schedule"], ["engine"], ["settings"], ["experiment"]])
def test_every_command_explains_itself(command):
    done = fingerpost(*command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


@pytest.mark.parametrize("arguments", [["--version"], ["version"]])
def test_the_version_is_told(arguments):
    from fingerpost import __version__

    done = fingerpost(*arguments)
    assert (done.returncode, done.stdout) == (0, f"{__version__}\n")


def test_settings_are_documented_as_they_are():
    assert settings_tables() in (ROOT / "docs" / "settings.md").read_text()


def test_a_bad_setting_is_named():
    done = fingerpost("settings", FINGERPOST_ENVOY_PORT="99999")
    assert done.returncode == 1
    assert "FINGERPOST_ENVOY_PORT='99999'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("url", ["ftp://x", "htp//x", "./mlruns", "sqlite"])
def test_a_registry_that_mlflow_cannot_use_is_named(url):
    done = fingerpost("experiment", "status", FINGERPOST_MLFLOW_URL=url)
    assert done.returncode == 1
    assert f"FINGERPOST_MLFLOW_URL='{url}'" in done.stderr
    assert "sqlite, postgresql" in done.stderr


def test_an_engines_url_that_is_none_is_named():
    done = fingerpost("agent", "--proxy", "p1", "--access-log", "a.log", FINGERPOST_ENGINE_URL="engine:3000")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "FINGERPOST_ENGINE_URL='engine:3000'" in done.stderr
    assert "must begin with http:// or https://" in done.stderr


def test_settings_come_from_the_environment():
    done = fingerpost("settings", "--json", FINGERPOST_SERVICE="bank", FINGERPOST_WINDOW_S="3")
    values = json.loads(done.stdout)
    assert (values["service"], values["window_s"]) == ("bank", 3.0)


def test_a_misspelt_setting_is_warned_of_with_the_one_that_was_meant():
    done = fingerpost("settings", "--json", FINGERPOST_SERVISE="bank", FINGERPOST_STACK="1")
    assert done.returncode == 0
    assert json.loads(done.stdout)["service"] == "shop"
    warning = "FINGERPOST_SERVISE is not a setting and has no effect: did you mean FINGERPOST_SERVICE?"
    assert done.stderr.count(warning) == 1
    assert "FINGERPOST_STACK" not in done.stderr


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("FINGERPOST_WINDOWS_S", "FINGERPOST_WINDOW_S"),
        ("fingerpost_hom", "FINGERPOST_HOME"),
        ("FINGERPOST_MLFLOW_URI", "FINGERPOST_MLFLOW_URL"),
        ("FINGERPOST_COFFEE", None),
    ],
)
def test_variables_that_are_no_settings(name, meant):
    assert unknown_variables(["PATH", "FINGERPOST_SERVICE", "fingerpost_home", name]) == [(name, meant)]


def test_what_kubernetes_says_of_services_is_not_taken_for_settings():
    told = (
        "FINGERPOST_ENGINE_SERVICE_HOST",
        "FINGERPOST_ENGINE_SERVICE_PORT_HTTP",
        "FINGERPOST_ENGINE_PORT_80_TCP_ADDR",
    )
    assert unknown_variables(told) == []


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("a=b:c", "'c' is no port from 1 to 65535"),
        ("a=b:0", "'0' is no port"),
        ("a=b:\u00b2", "is no port"),
        ("a=b", "has no address and port"),
        ("a", "has no address and port"),
        ("../a=b:1", "invalid name '../a'"),
    ],
)
def test_a_host_that_cannot_be_read_is_named_with_the_form(host, words):
    with pytest.raises(FingerpostError) as caught:
        parse_upstream(host)
    assert f"host {host!r}" in str(caught.value)
    assert words in str(caught.value)
    assert "write name=address:port, such as web-1=10.0.0.1:8000" in str(caught.value)


def test_a_host_is_read_with_its_address():
    assert parse_upstream(" web-1=[::1]:8000\n") == Upstream("web-1", "::1", 8000)


def test_an_unknown_flow_is_named():
    done = fingerpost("run", "nonsense")
    assert done.returncode == 1
    assert "'nonsense'" in done.stderr
    assert "pipeline" in done.stderr


def test_a_server_that_does_not_answer_is_named(free_ports):
    (port,) = free_ports(1)
    done = fingerpost("run", "ingest", FINGERPOST_PREFECT_PORT=str(port))
    assert done.returncode == 1
    assert f"Prefect does not answer at http://127.0.0.1:{port}" in done.stderr
    assert "FINGERPOST_PREFECT_URL" in done.stderr


def test_a_host_name_that_is_a_path_is_refused():
    done = fingerpost("agent", "--host", "../x")
    assert done.returncode == 1
    assert "'../x'" in done.stderr


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["agent", "--host", "h1", "--pid", "4194304"], "--pid 4194304: there is no such process"),
        (["agent", "--host", "h1", "--stats-url", "ftp://x"], "--stats-url 'ftp://x'"),
    ],
)
def test_wrong_arguments_are_named(command, words, tmp_path):
    done = fingerpost(*command, FINGERPOST_HOME=str(tmp_path))
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_home_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    done = fingerpost("agent", "--host", "h1", FINGERPOST_HOME=str(tmp_path / "file"))
    assert done.returncode == 1
    assert str(tmp_path / "file") in done.stderr
    assert "FINGERPOST_HOME" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_ends_the_demo_at_once():
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = demo("--once", FINGERPOST_ENGINE_PORT=str(port))
    assert done.returncode == 1
    assert f"port {port} (engine) is in use" in done.stderr
    assert "FINGERPOST_ENGINE_PORT" in done.stderr


def test_a_second_demo_in_one_home_is_refused(tmp_path):
    from fingerpost.locks import sole

    with sole(tmp_path / "demo" / "run" / "demo.lock", "the test"):
        done = demo("--once", FINGERPOST_HOME=str(tmp_path))
    assert done.returncode == 1
    assert f"a demo runs in {tmp_path / 'demo'} already: pid {os.getpid()}" in done.stderr


@pytest.mark.parametrize(
    ("line", "wanted"), [("fingerpost ag", ["agent"]), ("fingerpost agent --access", ["--access-log"])]
)
def test_a_shell_completes_commands_and_options(line, wanted):
    variables = {"_FINGERPOST_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    # The shell calls the program by its name, which the variable's is made of.
    program = Path(sys.executable).with_name("fingerpost")
    done = subprocess.run(
        [program], capture_output=True, text=True, env=os.environ | variables, timeout=120, check=False
    )
    assert done.stdout.split() == wanted
