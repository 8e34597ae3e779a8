"""`python -m benchmarks cadence`: how soon routing knows that a class of hosts has become slower, or has recovered.

Simulated, with the settings as they are shipped. A third of the hosts is so many times slower for a minute.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.simulator.predictions import Oracle, Predictor
from fingerpost.simulator.run import Bench
from fingerpost.simulator.scenario import Scenario
from fingerpost.simulator.simulation import Chunk, Table

_CLASSES, _PICKERS, _BEFORE_S, _SLOW_S, _AFTER_S = 3, 4, 60.0, 60.0, 60.0
# Spans since the change, and since the way back, in which p99 is told, seconds.
SPANS = ((0.0, 5.0), (5.0, 15.0), (15.0, _SLOW_S), (0.0, _SLOW_S))


@dataclass(frozen=True)
class Trial:
    """One run.

    Attributes:
        kind: what predicts, of the simulator's kinds, or `frozen`; empty of policies without predictions.
        load: share of what the fleet can carry at most before the change.
    """

    policy: str
    kind: str
    load: float
    seed: int


@dataclass(frozen=True)
class Seen(Trial):
    """What clients saw of one run.

    Attributes:
        before_s: p99 of the half minute before the change, seconds.
        slow_s, back_s: p99 of the requests sent in each of SPANS since the change, and since the hosts recovered.
        shares: of the requests that went to the slow class, in each of SPANS since the change, and since the recovery.
    """

    before_s: float
    slow_s: tuple[float, ...]
    back_s: tuple[float, ...]
    shares: tuple[tuple[float, ...], tuple[float, ...]]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Frozen:
    """True predictions as of the beginning, for ever: only the guard can know of the change."""

    def __init__(self, bench: Bench) -> None:
        self._table = Oracle(bench.fleet, 0.0, bench.seed).table(0.0)

    def observe(self, chunk: Chunk) -> None:
        """Learns nothing."""

    def table(self, now_s: float) -> Table:  # noqa: ARG002
        """The same at all times."""
        return self._table


def scenario(hosts: int, slower: float, told: bool, like: bool, kind: str) -> Scenario:
    """Hosts in three classes, of which the first is slower for a minute.

    Args:
        told: hosts tell their slots and requests in flight; else it is plain logs.
        like: hosts do not differ before the change.
        kind: what predicts.
    """
    slow = [{"host": host, "at_s": _BEFORE_S, "for_s": _SLOW_S, "factor": slower} for host in range(0, hosts, _CLASSES)]
    fleet = {"kind": "classes", "hosts": hosts, "classes": _CLASSES, "categories": 6}
    return Scenario.model_validate(
        {
            "name": "class-change",
            "fleet": {**fleet, "affinity_sigma": 0.0 if like else 0.45},
            "slots": 8,
            "antagonists": slow,
            "predictions": {"kind": kind},
            "telemetry": {"hosts_tell": told},
            "warmup_s": _BEFORE_S,
            "duration_s": _SLOW_S + _AFTER_S,
        }
    )


def measure_cadence(
    wanted: Sequence[Trial], hosts: int, slower: float, told: bool, like: bool, progress: Callable[[Seen], None]
) -> list[Seen]:
    """Runs every trial; `hosts` to `like` as in `scenario`."""
    found = []
    for trial in wanted:
        frozen = trial.kind == "frozen"
        kind = "baseline" if frozen or not trial.kind else trial.kind
        bench = Bench(scenario(hosts, slower, told, like, kind), trial.seed)
        seen = _run(bench, trial, Frozen(bench) if frozen else None)
        progress(seen)
        found.append(seen)
    return found


def _run(bench: Bench, trial: Trial, predictor: Predictor | None) -> Seen:
    chunks: list[Chunk] = []
    bench.run(trial.policy, trial.load, _PICKERS, chunks.append, predictor)
    sent, took, host, error = (
        np.concatenate([getattr(chunk.records, name) for chunk in chunks])
        for name in ("sent_s", "duration_s", "host", "error")
    )
    slow = host % _CLASSES == 0

    def p99(begin_s: float, end_s: float) -> float:
        return _p99(took[~error & (sent >= begin_s) & (sent < end_s)])

    def share(begin_s: float, end_s: float) -> float:
        within = (sent >= begin_s) & (sent < end_s)
        return float(slow[within].mean()) if within.any() else float("nan")

    changes = (_BEFORE_S, _BEFORE_S + _SLOW_S)
    slow_s, back_s = (tuple(p99(at + begin, at + end) for begin, end in SPANS) for at in changes)
    first, second = (tuple(share(at + begin, at + end) for begin, end in SPANS) for at in changes)
    before_s = p99(_BEFORE_S / 2, _BEFORE_S)
    return Seen(**asdict(trial), before_s=before_s, slow_s=slow_s, back_s=back_s, shares=(first, second))


def _p99(values: Floats) -> float:
    return float(np.quantile(values, 0.99)) if len(values) else float("nan")
