"""The engine's memory over hours in which hosts and categories come and go, run through in minutes."""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.engine_process import MeasuredEngine
from fingerpost.engine_api import EngineClient
from fingerpost.window_report import pack
from tests.support.made_fleet import MadeFleet, fit_model, register_model

# Of simulated time: hosts live five minutes and report every minute, twelve come in each; of the categories, two go
# and two come.
_NEW_HOSTS, _LIFE_MIN = 12, 5
_CATEGORIES, _NEW_CATEGORIES = 40, 2
_MARK_MIN = 5


def measure_churn(minutes: int, minute_s: float) -> dict[str, Any]:
    """Memory at the end of every five simulated minutes, while the table is fetched and scored by a champion.

    Args:
        minutes: of simulated time.
        minute_s: seconds in which one is run through; hosts are forgotten after two.
    """
    with (
        tempfile.TemporaryDirectory() as folder,
        MeasuredEngine(Path(folder) / "home", FINGERPRINT_TTL_S=2 * minute_s) as engine,
    ):
        return _measure(engine, minutes, minute_s)


def _measure(engine: MeasuredEngine, minutes: int, minute_s: float) -> dict[str, Any]:
    model = fit_model(MadeFleet.make(30, _CATEGORIES), 40, 16, rounds=2)
    register_model(model, engine.mlflow, "fingerpost-shop")
    sizes, behind_s = [], 0.0
    pool = MadeFleet.make(_NEW_HOSTS * _LIFE_MIN, _CATEGORIES)
    sources: set[str] = set()
    with EngineClient(engine.url) as client:
        engine.wait_for(lambda: client.models()["models"][0]["version"])
        began = time.perf_counter()
        for minute in range(minutes):
            packed = _reports(pool, minute)
            for part in range(0, len(packed), 10):
                client.send_reports(packed[part : part + 10])
            engine.wait_for(lambda: client.table("shop").body)
            sources.add(client.predict("shop", hosts=[_name(minute, 0)])["source"])
            if (minute + 1) % _MARK_MIN == 0:
                sizes.append(engine.rss_mb())
            late_s = time.perf_counter() - began - (minute + 1) * minute_s
            behind_s = max(behind_s, late_s)
            time.sleep(max(0.0, -late_s))
        hosts = len(client.hosts())
    half = sizes[len(sizes) // 2 - 1]
    return {
        "rss_mb_every_5_simulated_min": sizes,
        "grown_mb_second_half": round(sizes[-1] - half, 1),
        "hosts_came": _NEW_HOSTS * (minutes + _LIFE_MIN - 1),
        "categories_came": _CATEGORIES + _NEW_CATEGORIES * (minutes - 1),
        "hosts_kept_at_the_end": hosts,
        "scored_by": sorted(sources),
        "took_s": round(time.perf_counter() - began, 1),
        "most_behind_s": round(behind_s, 1),
    }


def _reports(pool: MadeFleet, minute: int) -> list[bytes]:
    """What the hosts that live in a minute report at its end; at the begin as many are there as later."""
    reports = []
    for age in range(_LIFE_MIN):
        for number in range(_NEW_HOSTS):
            place = (minute - age) % _LIFE_MIN * _NEW_HOSTS + number
            name = _name(minute - age, number)
            made = replace(pool.report(place, minute), host=name, reporter=name, categories=_categories(minute))
            reports.append(pack(made))
    return reports


def _name(born: int, number: int) -> str:
    return f"host-{born + _LIFE_MIN}-{number}"


def _categories(minute: int) -> tuple[str, ...]:
    """The categories that are there in a minute: like those of the pool, two of which are others each minute."""
    first = minute * _NEW_CATEGORIES
    return tuple(f"POST /work/k{number:05}|1K|none|browser|DE" for number in range(first, first + _CATEGORIES))
