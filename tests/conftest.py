"""What all tests share: the kinds of tests, the order of files, and fixtures.

There are two kinds of tests, and `make check` runs the first:

- unit: whatever says nothing of itself. It starts no process, opens no socket and no database, and takes seconds at
  most. `tests.support.unit_guard` fails a unit test that does so; nobody needs to remember it.
- process: `@pytest.mark.process`, or `pytestmark = pytest.mark.process` for a file. It may do all that, with the real
  programs. Tests that compute for long in this process are marked alike, since they are too slow for `make check`.

Helpers and fixtures of more than one file are in `tests/support`; test files import each other never.
"""

import contextlib
import logging
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from fingerpost.agent.batches import write_batch
from fingerpost.clock import US, clock_us
from fingerpost.middleware import MiddlewareReceiver
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD
from fingerpost.settings import get_settings
from tests.support.databases import remove_shared_folder
from tests.support.records import record, sample
from tests.support.unit_guard import UnitGuard

# Two cores shared with the servers under test: how fast examples come says nothing about the code.
# The examples are the same every time, so that a change is judged by what it changed; `make fuzz` draws new ones.
_SLOW = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("same", max_examples=60, derandomize=True, **_SLOW)
settings.register_profile("fuzz", max_examples=300, print_blob=True, **_SLOW)
settings.load_profile("same")

# These begin first: whatever takes minutes must not be what all else waits for at the end.
LONG = (
    "test_killed.py",
    "test_demo.py",
    "test_bench.py",
    "test_fleet.py",
    "test_engine_faults.py",
    "test_roles.py",
    "test_examples.py",
    "test_drift.py",
    "test_engine_service.py",
    "test_engine_models.py",
)


@pytest.fixture(autouse=True)
def fresh_settings() -> Iterator[None]:
    """Each test has the settings of its own environment, whatever one before it has read."""
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture(autouse=True)
def restored_logs() -> Iterator[None]:
    """What a test sets up of logging goes with it: a handler left writes into what the test has closed."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = before, level


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--roles", action="store_true", help="Run the tests of `make roles`, which make environments.")
    parser.addoption("--containers", action="store_true", help="Run those of `make containers`, which make bare roots.")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    name = collection_path.name
    return True if name in ("roles", "containers") and not config.getoption(f"--{name}") else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not item.get_closest_marker("process"):
            item.add_marker("unit")
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


def pytest_unconfigure() -> None:
    remove_shared_folder()


_GUARD = UnitGuard()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    with _GUARD.watching() if item.get_closest_marker("unit") else contextlib.nullcontext():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    result = yield
    if item.get_closest_marker("unit") and _GUARD.seen:
        pytest.fail(_GUARD.seen[0])
    return result


@pytest.fixture(scope="session")
def measured_lake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ingested lake: 4 hosts, 3 routes, 3 minutes; `h3` takes three times as long for `/work/hash`.

    Latency follows a load that rises and falls, so that there is something to learn beyond an average.
    """
    from fingerpost.features.ingest import ingest

    lake = tmp_path_factory.mktemp("measured") / "lake"
    rng = random.Random(3)
    # A whole minute, so that windows and load always lie to each other as they do now.
    begin = (clock_us() // (60 * US) - 4) * 60 * US
    for host in ("h1", "h2", "h3", "h4"):
        rows, samples = [], []
        for number in range(4000):
            at = begin + number * 45_000
            busy = ((at - begin) // (20 * US)) % 2
            route = rng.choice(["/work/hash", "/work/sort", "/work/query"])
            cpu = 0.004 * (3 if (host, route) == ("h3", "/work/hash") else 1) * rng.lognormvariate(0, 0.5)
            duration = cpu * (2.5 if busy else 1.2)
            rows.append(
                record(time=at, host=host, route=route, cpu_s=cpu, duration_s=duration, service_time_s=duration * 0.95)
            )
        for second in range(180):
            samples.append(sample(time=begin + second * US, host=host, cpu_util=0.3 + 0.3 * ((second // 20) % 2)))
        write_batch(lake, "samples", HOST_SAMPLE, samples, f"{host}-1")
        write_batch(lake, "requests", REQUEST_RECORD, rows, f"{host}-1")
    ingest(lake, "shop", clock_skew_s=5, max_age_s=86400)
    return lake


@pytest.fixture(scope="session")
def featured_lake(measured_lake: Path) -> Path:
    """`measured_lake` with windows of 5 s, training rows and fingerprints."""
    from fingerpost.features.build import build_features
    from fingerpost.features.prepare import FeatureSettings

    build_features(measured_lake, "shop", FeatureSettings(5, 30, 16, 30))
    return measured_lake


@pytest.fixture(scope="session")
def registry_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a registry of a champion and a challenger; to be copied, since MLflow makes its tables slowly."""
    from tests.support.registry_harness import Made, registry_settings

    folder = tmp_path_factory.mktemp("registry")
    Made(registry_settings(folder)).fill()
    return folder


@pytest.fixture
def made(registry_template: Path, tmp_path: Path) -> Any:
    """A real registry on SQLite: champion is version 1, challenger version 2; see `tests.support.registry_harness`."""
    from tests.support.registry_harness import Made, registry_settings

    shutil.copy(registry_template / "mlflow.db", tmp_path)
    return Made(registry_settings(tmp_path))


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[MiddlewareReceiver]:
    """The agent's side of a middleware socket."""
    made = MiddlewareReceiver(tmp_path / "agent.sock")
    yield made
    made.close()


@pytest.fixture
def agent_socket(receiver: MiddlewareReceiver) -> Path:
    """The path that the middleware of an application is given."""
    return receiver.path


@pytest.fixture
def free_ports() -> Callable[[int], list[int]]:
    """Finds ports that are free now."""
    from fingerpost.cli.stack.ports import free_ports

    return free_ports


@pytest.fixture
def fuzz_seed(request: pytest.FixtureRequest) -> str | None:
    """The seed of `make fuzz`; None where examples are to be the same every time."""
    seed = request.config.getoption("--hypothesis-seed")
    return None if seed is None else str(seed)


@pytest.fixture
def endpoint() -> Iterator[dict[str, Any]]:
    """Serves `text` (or what `answer` writes) at `url`."""
    state: dict[str, Any] = {"text": "", "answer": None, "status": 200}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(state["status"])
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                if state["answer"]:
                    state["answer"](self.wfile)
                else:
                    self.wfile.write(state["text"].encode())

        def log_message(self, *_args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    state["url"] = f"http://127.0.0.1:{server.server_address[1]}/metrics"
    yield state
    server.shutdown()
    server.server_close()
