"""`make roles`: the wheel in a bare environment for each role, and each role at work in it."""

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest

from fingerpost.engine_api import EngineClient, EngineError
from fingerpost.middleware import MiddlewareReceiver
from tests.support.made_fleet import MadeFleet, fit_model, register_model
from tests.support.server_harness import kill_family

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PATIENCE_S = 180
ROOMS = ("abtest", "agent", "cli", "features", "flows", "middleware", "routing", "serving", "simulator", "training")
# An application as docs/middleware.md shows it, by the newest framework there is, which serves until it is stopped.
FASTAPI = """
import sys

import uvicorn
from fastapi import FastAPI

from fingerpost.middleware import FingerpostMiddleware

app = FastAPI()


@app.get("/users/{user_id}/orders")
def orders(user_id: int) -> list[int]:
    return [user_id]


app.add_middleware(FingerpostMiddleware, service="shop", host="h1", socket=sys.argv[2])
uvicorn.run(app, port=int(sys.argv[1]), log_level="warning")
"""
FLASK = """
import sys
from wsgiref.simple_server import make_server

from flask import Flask

from fingerpost.middleware import FingerpostWsgiMiddleware

app = Flask("shop")


@app.get("/users/<int:user_id>/orders")
def orders(user_id: int) -> list[int]:
    return [user_id]


app.wsgi_app = FingerpostWsgiMiddleware(app.wsgi_app, service="shop", host="h1", socket=sys.argv[2])
make_server("127.0.0.1", int(sys.argv[1]), app).serve_forever()
"""


class Role:
    """A virtual environment with the wheel and what a role asks for, nothing else.

    Args:
        requirements: beside the wheel, at their newest versions.
        extra: of the wheel; its libraries are those of constraints.txt.
    """

    def __init__(self, folder: Path, wheel: Path, extra: str = "", requirements: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self._uv("venv", "--quiet", "--python", sys.executable, str(folder))
        pinned = () if requirements else ("-c", str(ROOT / "constraints.txt"))
        wanted = f"{wheel}[{extra}]" if extra else str(wheel)
        self._uv("pip", "install", "--quiet", "--python", str(folder / "bin/python"), *pinned, wanted, *requirements)

    def _uv(self, *arguments: str) -> str:
        return subprocess.run([str(BIN / "uv"), *arguments], check=True, capture_output=True, text=True).stdout

    def weighs(self, role: str) -> tuple[int, float]:
        """Distributions, ours included, and megabytes of their files without bytecode; printed too."""
        listed = json.loads(self._uv("pip", "list", "--format", "json", "--python", str(self.folder / "bin/python")))
        files = (path for path in (self.folder / "lib").rglob("*") if path.suffix != ".pyc" and path.is_file())
        found = len(listed), sum(path.stat().st_size for path in files) / 1e6
        print(f"{role}: {found[0]} distributions, {found[1]:.1f} MB")
        return found

    def environment(self, home: Path, **settings: object) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("FINGERPOST_", "PYTHON"))}
        chosen = {f"FINGERPOST_{name.upper()}": str(value) for name, value in settings.items()}
        return clean | {"FINGERPOST_HOME": str(home), "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}"} | chosen

    def run(self, home: Path, *command: str, **settings: object) -> subprocess.CompletedProcess[str]:
        """Runs a program of the environment to its end, in a folder where folders have the names of our rooms."""
        program, *arguments = command
        return subprocess.run(
            [str(self.folder / "bin" / program), *arguments], env=self.environment(home, **settings), cwd=decoys(home),
            capture_output=True, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip

    def start(self, home: Path, *command: str, **settings: object) -> "Running":
        program, *arguments = command
        env = self.environment(home, **settings)
        return Running([str(self.folder / "bin" / program), *arguments], env, decoys(home), home / f"{program}.log")


class Running:
    """A process and all its children; leaving the context ends them."""

    def __init__(self, command: list[str], env: dict[str, str], cwd: Path, log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, env=env, cwd=cwd, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )

    def __enter__(self) -> "Running":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            kill_family(self.process)

    def wait_for(self, ready, *passing: type[Exception]):
        """What `ready` returns as soon as it is true; fails with the log when the process ends or takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if answer := ready():
                    return answer
            except passing:
                pass
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.1)


def decoys(home: Path) -> Path:
    """A working directory whose owner has folders and files of the names of our rooms; running any of them fails."""
    folder = home / "work"
    for room in (
        "abtest",
        "agent",
        "cli",
        "features",
        "fleet",
        "flows",
        "routing",
        "serving",
        "training",
        "fingerpost",
    ):
        (folder / room).mkdir(parents=True, exist_ok=True)
        (folder / room / "__init__.py").write_text("raise SystemExit('the user\\'s own folder was run')\n")
    return folder


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, made of what git knows, as a release would be."""
    folder = tmp_path_factory.mktemp("wheel")
    # By way of the source distribution: what an earlier build left in the tree gets into neither.
    subprocess.run([str(BIN / "uv"), "build", "--quiet", "--out-dir", str(folder), str(ROOT)], check=True, timeout=300)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def role(tmp_path_factory, wheel):
    """Environments by extra, each made once."""
    made: dict[str, Role] = {}

    def of(extra: str, *requirements: str) -> Role:
        name = "-".join(("role", extra, *requirements))
        if name not in made:
            made[name] = Role(tmp_path_factory.mktemp(name), wheel, extra, requirements)
        return made[name]

    return of


def test_one_name_lands_in_site_packages(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"fingerpost"}
    assert all(f"fingerpost/{room}/__init__.py" in names for room in ROOMS)
    assert {"fingerpost/py.typed", "fingerpost/routing/native/policy.c"} <= set(names)
    page = {f"fingerpost/serving/page/static/{name}" for name in ("index.html", "page.js", "docs.html", "page.css")}
    assert page <= set(names)


def test_the_base_is_small_and_names_the_roles(role, tmp_path):
    base = role("")
    count, megabytes = base.weighs("base")
    assert (count <= 5, megabytes <= 15) == (True, True)
    refused = base.run(tmp_path, "fingerpost", "--help")
    assert refused.returncode == 1
    assert "pip install 'fingerpost[agent]'" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize("source", [FASTAPI, FLASK], ids=["fastapi", "flask"])
def test_the_middleware_reports_from_the_newest_frameworks(role, tmp_path, source):
    environment = role("", "fastapi", "flask", "uvicorn")
    (tmp_path / "shop.py").write_text(source)
    port, place = free_port(), tmp_path / "agent.sock"
    receiver = MiddlewareReceiver(place)
    try:
        with environment.start(tmp_path, "python", "-P", str(tmp_path / "shop.py"), str(port), str(place)) as app:
            url = f"http://127.0.0.1:{port}/users/7/orders"
            answer = app.wait_for(lambda: httpx.get(url, trust_env=False), httpx.HTTPError)
            assert answer.json() == [7]
            [record, *_] = app.wait_for(lambda: list(receiver.records()))
    finally:
        receiver.close()
    assert (record["method"], record["status"], record["host"]) == ("GET", 200, "h1")
    assert "orders" in record["route"]


def test_the_agent_is_light_and_reads_a_log(role, tmp_path):
    environment = role("agent")
    count, megabytes = environment.weighs("agent")
    assert (count <= 25, megabytes <= 150) == (True, True)
    lines = gzip.decompress((ROOT / "data/sample/logs/nginx/compute-1.log.gz").read_bytes()).splitlines(keepends=True)
    log = tmp_path / "access.log"
    log.touch()
    options = ("--host", "compute-1", "--service", "shop", "--access-log", str(log), "--log-format", "combined")
    inbox = tmp_path / "lake" / "inbox"
    with environment.start(
        tmp_path, "fingerpost", "agent", *options, agent_batch_s=1, agent_sample_s=0.2, max_age_days=3650
    ) as agent:
        agent.wait_for(lambda: [*inbox.glob("samples/**/*.parquet")])
        log.write_bytes(b"".join(lines[:500]))
        agent.wait_for(lambda: [*inbox.glob("requests/**/*.parquet")])
        agent.process.send_signal(signal.SIGTERM)
        assert agent.process.wait(30) == 0
    assert sum(pq.read_metadata(path).num_rows for path in inbox.glob("requests/**/*.parquet")) == 500
    refused = environment.run(tmp_path, "fingerpost", "engine")
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "pip install 'fingerpost[engine]'" in refused.stderr
    refused = environment.run(tmp_path, "fingerpost", "run", "ingest")
    assert "pip install 'fingerpost[platform]'" in refused.stderr


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """The URL of a registry with a champion, and the fleet that it was trained on."""
    made = MadeFleet.make(6, 5)
    url = f"sqlite:///{tmp_path_factory.mktemp('registry') / 'mlflow.db'}"
    register_model(fit_model(made, 6, 8), url, "fingerpost-shop")
    return url, made


def test_engine_router_and_a_bento_serve_a_registered_model(role, registry, tmp_path):
    url, made = registry
    engine, router = role("engine"), role("router")
    engine.weighs("engine")
    router.weighs("router")
    port, settings = free_port(), {"mlflow_url": url, "service": "shop", "model_poll_s": 0.5}
    with engine.start(tmp_path, "fingerpost", "engine", engine_port=port, **settings) as serving:
        with EngineClient(f"http://127.0.0.1:{port}") as client:
            serving.wait_for(lambda: client.models()["models"][0]["version"] == "1", EngineError, IndexError, KeyError)
            client.send_reports(made.packed(1))
            serving.wait_for(lambda: client.predict("shop")["source"] == "champion", EngineError)
        built = router.run(tmp_path, "fingerpost", "envoy", "build", xdg_cache_home=tmp_path)
        assert built.returncode == 0, built.stderr
        table = tmp_path / "table"
        told = ("--engine-url", f"http://127.0.0.1:{port}", "--table", str(table))
        once = router.run(tmp_path, "fingerpost", "router", "--once", *told)
        assert once.returncode == 0, once.stderr
        assert table.stat().st_size > 0
    deployed = engine.run(tmp_path, "fingerpost", "deploy", "--json", bentoml_home=tmp_path / "bentoml", **settings)
    assert deployed.returncode == 0, deployed.stderr
    bento = json.loads(deployed.stdout)
    assert bento["model_version"] == "1"
    written = (Path(bento["path"]) / "env/python/requirements.txt").read_text()
    assert re.search(r"^lightgbm==", written, re.MULTILINE)
    command = ("python", "-P", "-m", "bentoml", "serve", bento["path"], "--host", "127.0.0.1", "--port", str(port))
    options = {"model_version": "1", "service": "shop", "bind_host": "127.0.0.1"}
    with (
        engine.start(tmp_path, *command, **options) as serving,
        EngineClient(f"http://127.0.0.1:{port}") as client,
    ):
        serving.wait_for(lambda: client.models()["models"][0]["version"] == "1", EngineError, IndexError, KeyError)
        client.send_reports(made.packed(2))
        serving.wait_for(lambda: client.predict("shop")["source"] == "champion", EngineError)


def test_the_gateway_answers_health_checks(role, tmp_path):
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    gateway = role("gateway")
    gateway.weighs("gateway")
    port = free_port()
    options = ("--listen", f"127.0.0.1:{port}", "--host", "h1=127.0.0.1:9")
    with (
        gateway.start(tmp_path, "fingerpost", "endpoint-picker", *options) as picker,
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        picker.wait_for(lambda: stub.Check(health_pb2.HealthCheckRequest()).ByteSize() >= 0, grpc.RpcError)


def test_the_platform_evaluates_the_sample(role, tmp_path):
    platform = role("platform")
    platform.weighs("platform")
    found = platform.run(tmp_path, "fingerpost", "evaluate", str(ROOT / "data/sample"), "--json")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)
