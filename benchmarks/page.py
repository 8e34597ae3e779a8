"""What the engine's page costs the engine, what it weighs, and how soon a browser shows it."""

import math
import statistics
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx

from benchmarks.engine_load import Load, write_bodies
from benchmarks.engine_process import MeasuredEngine
from fingerpost.clock import US, clock_us
from fingerpost.engine_api import EngineClient
from fingerpost.packed_message import message
from fingerpost.window_report import pack
from tests.support.browser import Watched, running_browser
from tests.support.made_fleet import MadeFleet

# As often as the page asks.
_EVERY_S = 2.0
_WINDOW_S, _WINDOWS_BEFORE = 10, 8
_HOSTS_A_MESSAGE = 20
_CHART_LIBRARY = "plotly.js"
# Of what a browser has loaded: names and bytes of files, without the numbers that it goes on asking for.
_LOADED = """() => [...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')].map(
  (each) => [new URL(each.name).pathname, each.encodedBodySize])"""
_PAINTED = "() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime"


def measure_page(hosts: int, categories: int, viewers: int, seconds: float, rounds: int, looks: int) -> dict[str, Any]:
    """Runs one engine with one worker, and measures it without and with people who look, in turns.

    Args:
        hosts, categories: of the fleet, without a model.
        viewers: people who look, each as often as the page asks.
        seconds: length of each turn; whole windows of 10 s hold the same work.
        rounds: turns of each kind.
        looks: times that a browser opens the page with nothing in its cache.
    """
    fleet = MadeFleet.make(hosts, categories)
    with (
        tempfile.TemporaryDirectory() as folder,
        MeasuredEngine(Path(folder) / "home", FINGERPRINT_TTL_S=3600) as engine,
    ):
        _feed(engine, fleet)
        figures = {"still": _cost(engine, viewers, seconds, rounds)}
        with _reports(engine, fleet, math.ceil((2 * rounds + 1) * seconds / _WINDOW_S) + 2):
            figures["reporting"] = _cost(engine, viewers, seconds, rounds)
        if looks:
            with running_browser() as browser:
                figures["browser"] = look(browser, engine.url, looks)
        return figures


def _feed(engine: MeasuredEngine, fleet: MadeFleet) -> None:
    """Some windows of all hosts, the last of them a moment ago."""
    now_us = clock_us() // (_WINDOW_S * US) * _WINDOW_S * US
    with EngineClient(engine.url, timeout_s=60) as client:
        for number in range(_WINDOWS_BEFORE):
            packed = fleet.packed(number + 1, now_us - (_WINDOWS_BEFORE - number) * _WINDOW_S * US + 1000)
            for first in range(0, len(packed), _HOSTS_A_MESSAGE):
                client.send_reports(packed[first : first + _HOSTS_A_MESSAGE])
            engine.wait_for(lambda count=number: len(_numbers(engine)["traffic"]["series"]["times"]) > count)


def _reports(engine: MeasuredEngine, fleet: MadeFleet, windows: int) -> Load:
    """All hosts, each of which reports every window from now on."""
    # Made beforehand, which takes its time: the first window ends once they are.
    begin_us = (clock_us() // US + 5 + len(fleet.hosts) * windows // 500) // _WINDOW_S * _WINDOW_S * US
    bodies = [
        message([pack(fleet.report(host, 100 + window, begin_us + window * _WINDOW_S * US + 1000))])
        for window in range(windows)
        for host in range(len(fleet.hosts))
    ]
    path = write_bodies(engine.home / "bodies", bodies)
    time.sleep(max(0.0, (begin_us - clock_us()) / US))
    return Load(kind="send", port=engine.port, bodies=path, per_s=len(fleet.hosts) / _WINDOW_S)


def _cost(engine: MeasuredEngine, viewers: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Shares of a core that the worker takes without and with viewers, in turns: their means, and what it is more.

    Turns that follow each other are compared, since others on the machine make the same work dearer for a while.
    """
    without, watched, making, bytes_each = [], [], [], 0
    for _ in range(rounds):
        without.append(_share(engine, seconds))
        with ExitStack() as looking:
            people = [looking.enter_context(_Viewer(engine.url)) for _ in range(viewers)]
            began, made_s = time.perf_counter(), engine.metric("page_seconds_total")
            watched.append(_share(engine, seconds))
            making.append((engine.metric("page_seconds_total") - made_s) / (time.perf_counter() - began))
        bytes_each = people[0].bytes if people else 0
    more = [dearer - share for share, dearer in zip(without, watched, strict=True)]
    error = statistics.stdev(more) / math.sqrt(rounds) if rounds > 1 else math.nan
    return {
        "without": round(statistics.mean(without), 4),
        "watched": round(statistics.mean(watched), 4),
        "cost": round(statistics.mean(more), 4),
        "cost_standard_error": round(error, 4),
        # By the engine's own count, which knows neither noise nor what answering takes.
        "making_the_numbers": round(statistics.mean(making), 4),
        "numbers_bytes": bytes_each,
    }


def _share(engine: MeasuredEngine, seconds: float) -> float:
    began, spent = time.perf_counter(), engine.cpu_s()
    time.sleep(seconds)
    return (engine.cpu_s() - spent) / (time.perf_counter() - began)


class _Viewer:
    """A context manager: somebody who looks, as the page does.

    Attributes:
        bytes: of the numbers that came last.
    """

    def __init__(self, url: str) -> None:
        self._url, self._gone = url, threading.Event()
        self.bytes = 0
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "_Viewer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._gone.set()
        self._thread.join()

    def _look(self) -> None:
        with httpx.Client(base_url=self._url, trust_env=False, timeout=20) as client:
            while not self._gone.is_set():
                self.bytes = len(client.get("/v1/page").content)
                self._gone.wait(_EVERY_S)


def look(browser: Any, url: str, looks: int) -> dict[str, Any]:
    """What a browser tells that opens a page with nothing in its cache: its times, in order, bytes, errors.

    Args:
        browser: of `running_browser`.
        url: of a page.
        looks: how often it opens it.
    """
    painted, drawn, loaded, errors = [], [], {}, []
    for _ in range(looks):
        watched, began = Watched(browser, url), time.perf_counter()
        watched.open()
        watched.page.wait_for_selector("#heat .main-svg")
        drawn.append(time.perf_counter() - began)
        painted.append(float(watched.page.evaluate(_PAINTED)) / 1000)
        loaded = dict(watched.page.evaluate(_LOADED))
        errors += watched.errors
        watched.page.close()
    return {
        "first_paint_s": [round(each, 3) for each in sorted(painted)],
        "first_picture_s": [round(each, 3) for each in sorted(drawn)],
        "chart_library_bytes": sum(size for name, size in loaded.items() if name.endswith(_CHART_LIBRARY)),
        "files_bytes": sum(
            size for name, size in loaded.items() if not name.endswith(_CHART_LIBRARY) and not name.startswith("/v1/")
        ),
        "numbers_bytes": loaded.get("/v1/page", 0),
        "console_errors": errors,
    }


def _numbers(engine: MeasuredEngine) -> Any:
    return httpx.get(f"{engine.url}/v1/page", timeout=60, trust_env=False).json()
