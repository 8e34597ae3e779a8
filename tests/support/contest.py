"""A small fleet whose hosts slow down now and then, routed by the engine's own score of a planted model or baseline."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.clock import US
from fingerpost.features.definition import NUMERIC_FEATURES, TARGETS
from fingerpost.features.fleet_features import ChosenCells, FleetFeatures, HostsCells
from fingerpost.fingerprint import FINGERPRINT_HOST_COLUMNS, Fingerprint
from fingerpost.history_block import blocks_of
from fingerpost.serving.contest import LiveContest
from fingerpost.serving.fleet_state import FleetState, build_fleet
from fingerpost.serving.scoring import ModelScorer, Scored
from fingerpost.telemetry.history import History
from fingerpost.training.bundle import Encoder, ModelBundle
from fingerpost.training.manifest import Verdict
from tests.support.made_fleet import FORM, state_of

HOSTS, CATEGORIES, SLOTS = 8, 6, 8
_NAMES = tuple(sorted(f"POST /work/k{number}|1K|none|browser|DE" for number in range(CATEGORIES)))
_REQUESTS = 150
_DUE = NUMERIC_FEATURES.index("host_due")
# Hosts take three times as long for 4 windows of 12, each at its own phase.
_PERIOD, _SPELL, _SLOWER = 12, 4, np.log(3.0)
# Each choice is a little off the best: so every host is measured now and then.
_SHARPNESS, _EXPLORED = 5.0, 0.1

Model = Callable[[int], Floats]
Serve = Callable[[FleetState, ModelScorer | None, Scored | None], tuple[Scored, bool]]


@dataclass(frozen=True)
class World:
    """The truth, by a seed: logs of seconds a request takes, shape (hosts, categories)."""

    seed: int

    def seconds(self, window: int) -> Floats:
        rng = np.random.default_rng(self.seed)
        usual = rng.normal(-4, 0.3, (1, CATEGORIES)) + rng.normal(0, 0.5, (HOSTS, CATEGORIES))
        slow = (window + rng.integers(0, _PERIOD, HOSTS)) % _PERIOD < _SPELL
        return usual + np.where(slow, _SLOWER, 0.0)[:, None]


@dataclass(frozen=True)
class Planted(ModelScorer):
    """Predicts what it is told to, in place of trees."""

    predict: Model = field(kw_only=True)

    def _predict(self, features: FleetFeatures, *_: Any) -> Floats:
        seconds = self.predict(round(features.now_us / FORM.window_s / US))
        return np.stack([np.log(SLOTS) - seconds, seconds, seconds + 1.0], axis=-1)


class DueAlone(ModelScorer):
    """Predicts by what is due on a host alone, in place of trees."""

    def _predict(
        self, features: FleetFeatures, categories: Sequence[str], blocks: Sequence[HostsCells | ChosenCells]
    ) -> Floats:
        due = np.concatenate([features.of(cells).numeric[:, _DUE] for cells in blocks])
        logs = np.repeat(np.nan_to_num(due)[:, None], len(TARGETS), axis=1)
        return logs.reshape(-1, len(categories), len(TARGETS))


WORLD = World(3)
WINDOWS = 96


def useless_constant(_window):
    return np.zeros((HOSTS, CATEGORIES))


def useless_random(window):
    return np.random.default_rng(window).normal(-4, 0.5, (HOSTS, CATEGORIES))


def stale(window):
    return World(4).seconds(window)


def shuffled(window):
    return np.roll(WORLD.seconds(window), 3, axis=0)


def overfitted(window):
    """Knows the phase, and takes the noise of what it learned from for the truth."""
    return WORLD.seconds(window) + np.random.default_rng(window % 5).normal(0, 0.8, (HOSTS, CATEGORIES))


def foresight(window):
    return WORLD.seconds(window)


BAD = (useless_constant, useless_random, stale, shuffled, overfitted)


def planted(model: Model, version: str = "1", verdict: Verdict | None = None) -> Planted:
    """The scorer of a model that predicts logs of seconds a request takes in the window that begins."""
    return Planted(ModelBundle({}, {}, Encoder({}), {}, verdict or Verdict()), {}, version, FORM, predict=model)


@dataclass
class Run:
    """A run of some windows.

    Attributes:
        regrets: of each window: seconds of all requests over those on the truly best hosts, less 1.
        scored: of each window: what was served.
    """

    regrets: list[float] = field(default_factory=list)
    scored: list[Scored] = field(default_factory=list)

    @property
    def by_baseline(self) -> list[int]:
        """The number of categories that the baseline served, window by window."""
        return [len(each.by_baseline) for each in self.scored]


def run(world: World, scorer: ModelScorer | None, serve: Serve, windows: int, first: int = 0) -> Run:
    """Serves a fleet through some windows, after a dozen in which the baseline did.

    Args:
        serve: `LiveContest.served`, or what does it and more.
    """
    rng, history, found = np.random.default_rng(world.seed + 1000), History(HOSTS, CATEGORIES, 10.0, 60.0), Run()
    shares = np.full((HOSTS, CATEGORIES), 1 / HOSTS)
    begin = 1000 + first
    for window in range(begin - _PERIOD, begin + windows):
        seconds = world.seconds(window)
        requests = rng.poisson(_REQUESTS * shares)
        observe(history, window + 1, seconds, requests, rng)
        fleet = fleet_of(history)
        scored, _ = serve(fleet, scorer if window >= begin - 1 else None, None)
        rate = np.exp(_SHARPNESS * np.log(scored.predictions[..., 0]))
        shares = (1 - _EXPLORED) * rate / rate.sum(axis=0) + _EXPLORED / HOSTS
        if window >= begin:
            took, best = np.exp(seconds), np.exp(seconds).min(axis=0)
            found.regrets.append(float((requests * took).sum() / (requests.sum(axis=0) * best).sum() - 1))
            found.scored.append(scored)
    return found


def observe(history: History, end: int, seconds: Floats, requests: Floats, rng: np.random.Generator) -> None:
    """One window in which hosts measured the truth with the noise of so many requests."""
    host, category = np.nonzero(requests)
    count = requests[host, category]
    took = np.exp(seconds[host, category] + rng.normal(0, 0.4, count.size) / np.sqrt(count))
    none = np.full(count.size, np.nan)
    windows = {
        "host": host, "category": category, "requests": count, "measured": count, "errors": np.zeros(count.size),
        "throughput_rps": SLOTS / took, "latency_p50_s": took, "latency_p90_s": 2 * took, "latency_p99_s": 3 * took,
        "cpu_mean_s": none, "bytes_in_mean": none, "inflight_mean": none,
    }  # fmt: skip
    history.observe(end * 10 * US, windows, {"host": np.zeros(0, dtype=np.int64)})


def fleet_of(history: History) -> FleetState:
    """The hosts as the engine knows them, all of whom have told of the last window."""
    values = np.full(len(FINGERPRINT_HOST_COLUMNS), np.nan)
    states = {}
    for place, block in enumerate(blocks_of(history, _NAMES)):
        name = f"h{place}"
        made = Fingerprint("shop", name, "b", place, history.now_us, "made", block.categories, values, block)
        states[name] = state_of(made)
    return build_fleet("shop", states, 256)


def main() -> None:
    """Prints what becomes of each planted model."""
    with tempfile.TemporaryDirectory() as folder:
        usual = run(WORLD, None, LiveContest(Path(folder) / "none.json", 10.0).served, WINDOWS)
        for model in (*BAD, foresight):
            name = model.__name__
            found = run(WORLD, planted(model), LiveContest(Path(folder) / f"{name}.json", 10.0).served, WINDOWS)
            windows = found.by_baseline.index(CATEGORIES) if CATEGORIES in found.by_baseline else "never"
            took, compared = (1 + np.mean(each.regrets) for each in (found, usual))
            print(f"{name}: gives way after {windows}; requests take {took / compared:.2f} of the baseline's")


if __name__ == "__main__":
    main()
