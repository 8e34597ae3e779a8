"""What model swaps do to requests, beside what the machine itself does to them while nothing is swapped."""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import psutil

from benchmarks.engine_load import Answers
from benchmarks.engine_process import MeasuredEngine, quantile
from fingerpost.engine_api import EngineClient

# Of calm before each swap, twice; about as long as a swap is watched.
_CALM_S = 4.0
_AFTERWARDS_S = 2.0
Interval = tuple[float, float]
# Two calm intervals, and that of the swap.
Swaps = list[tuple[Interval, Interval, Interval]]


def make_swaps(engine: MeasuredEngine, client: EngineClient, versions: Sequence[str]) -> Swaps:
    """Moves the champion alias to one version after another; of each, two calm intervals and that of the swap."""
    made: Swaps = []
    for version in versions:
        begin = time.perf_counter()
        time.sleep(_CALM_S)
        middle = time.perf_counter()
        time.sleep(_CALM_S)
        moved = time.perf_counter()
        _swap(engine, client, version)
        made.append(((begin, middle), (middle, moved), (moved, time.perf_counter())))
    return made


def _swap(engine: MeasuredEngine, client: EngineClient, version: str) -> None:
    """Moves the alias, and waits until the version has been in use for some time."""
    import mlflow

    mlflow.MlflowClient(engine.mlflow).set_registered_model_alias("fingerpost-shop", "champion", version)
    engine.wait_for(lambda: client.models()["models"][0]["version"] == version)
    time.sleep(_AFTERWARDS_S)


def swap_figures(answers: Answers, swaps: Swaps) -> dict[str, Any]:
    """Of every swap the slowest request over the p99 of the calm before; of the calm the same, as it was swapped in.

    What the calm shows is not the engine's doing: a swap can be told from it only where it is worse.
    """
    ratios, calm_ratios, rows = [], [], []
    for first, second, swap in swaps:
        earlier, before, during = (answers.between(*each) for each in (first, second, swap))
        p99 = quantile(before, 0.99)
        ratios.append(round(max(during) / p99, 2))
        calm_ratios.append(round(max(before) / quantile(earlier, 0.99), 2))
        rows.append(
            {
                "p99_before_s": round(p99, 4),
                "max_before_s": round(max(before), 4),
                "p99_during_s": round(quantile(during, 0.99), 4),
                "max_during_s": round(max(during), 4),
                "requests_before": len(before),
                "requests_during": len(during),
                "slower_than_twice_p99_before": sum(value > 2 * p99 for value in during),
            }
        )
    return {
        "swaps": rows,
        "max_over_p99_before": ratios,
        "median_ratio": statistics.median(ratios),
        "calm_max_over_p99_before": calm_ratios,
        "calm_median_ratio": statistics.median(calm_ratios),
        "errors": answers.errors,
    }


class Stolen:
    """The share of the machine's CPU time that its host gave to others since this was made."""

    def __init__(self) -> None:
        self._before = psutil.cpu_times()

    def share(self) -> float:
        now = psutil.cpu_times()
        spent = sum(now) - sum(self._before)
        return float((getattr(now, "steal", 0.0) - getattr(self._before, "steal", 0.0)) / spent)
