"""`python -m benchmarks anticipate --pictures FOLDER`: what is predicted of one host, and the requests that it gets.

A rule chooses what is drawn: the host with the most spells in the measured time, and the mean over these spells. Where
there are no spells, it is the host and the moment at which a host slows down the most.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.anticipate import SCENARIOS, SPELL, predicting, with_halflife
from fingerpost.arrays import Floats, Ints, safe_ratio
from fingerpost.simulator.predictions import Average, Clairvoyant, Predictor, predictor_for
from fingerpost.simulator.run import Bench
from fingerpost.simulator.scenario import load_scenario
from fingerpost.simulator.simulation import Chunk, Table

# The average that is drawn; the suite tries longer and shorter ones.
HALFLIFE_S = 10.0
# The truth that is drawn: the mean over the next second.
_TRUTH_S = 1.0
_BEFORE_S, _AFTER_S = 25, 40
_LOAD, _PICKERS = 0.8, 10
# A host is as fast as it was in the fastest twentieth of the measured time.
_BEST = 0.95
_RISE_S = 5
_COLOURS = {"truth": "#444444", "average": "#c9a227", "model": "#1f6f8b"}


@dataclass(frozen=True)
class Course:
    """What became of a fleet in the measured time of one run, second by second.

    Attributes:
        true_rps, predicted_rps: throughput of each host, the geometric mean over categories, shape (T, H).
        sent: requests, shape (T, H).
        begins: of each host the seconds at which it became slow, ascending.
    """

    true_rps: Floats
    predicted_rps: Floats
    sent: Ints
    begins: list[list[int]]


class _Watched:
    """Another predictor, with a note of what it and the truth said each second."""

    def __init__(self, inner: Predictor, truth: Clairvoyant) -> None:
        self._inner, self._truth = inner, truth
        self.said: list[tuple[float, Floats, Floats]] = []

    def observe(self, chunk: Chunk) -> None:
        """Passes on what a span emitted."""
        self._inner.observe(chunk)
        self._truth.observe(chunk)

    def table(self, now_s: float) -> Table:
        """The inner table."""
        table = self._inner.table(now_s)
        self.said.append((now_s, _of_hosts(self._truth.table(now_s)), _of_hosts(table)))
        return table


def write_pictures(scenarios: Sequence[str], seed: int, folder: Path, say: Callable[[str], None]) -> list[Path]:
    """Runs each scenario with an average and with a model of another day, and draws both; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in scenarios:
        bench = Bench(load_scenario(SCENARIOS / f"{name}.json"), seed)
        average = Average(with_halflife(bench.scenario, HALFLIFE_S), bench.fleet)
        model = predictor_for(predicting(bench.scenario, kind="learned"), bench.fleet, seed, bench.model)
        courses = {"average": _run(bench, average), "model": _run(bench, model)}
        paths.append(draw(name, seed, courses, folder / f"{name}.png"))
        say(f"{name}: {paths[-1]}")
    return paths


def chosen(course: Course) -> tuple[int, list[int]]:
    """The host that is drawn, and the seconds around which; see the top of this file."""
    seconds = len(course.sent)
    inside = [[at for at in begins if _BEFORE_S <= at <= seconds - _AFTER_S] for begins in course.begins]
    host = int(np.argmax([len(begins) for begins in inside]))
    if inside[host]:
        return host, inside[host]
    slow = slowdown(course.true_rps, course.true_rps)
    places = np.arange(_BEFORE_S, seconds - _AFTER_S)
    rises = np.stack([slow[at : at + _RISE_S].mean(axis=0) - slow[at - _RISE_S : at].mean(axis=0) for at in places])
    place, drawn = np.unravel_index(int(np.argmax(np.nan_to_num(rises))), rises.shape)
    return int(drawn), [int(places[place])]


def slowdown(rps: Floats, true_rps: Floats) -> Floats:
    """How many times slower than at its best each host is, or is predicted to be, shape (T, H)."""
    return np.asarray(np.nanquantile(true_rps, _BEST, axis=0) / rps)


def around(values: Floats, moments: Sequence[int]) -> Floats:
    """Mean over the moments of a course of seconds, from `_BEFORE_S` before to `_AFTER_S` after them."""
    return np.mean([values[at - _BEFORE_S : at + _AFTER_S] for at in moments], axis=0)


def _run(bench: Bench, predictor: Predictor) -> Course:
    scenario = bench.scenario
    first, seconds = int(scenario.warmup_s), int(scenario.duration_s)
    watched = _Watched(predictor, Clairvoyant(predicting(scenario, horizon_s=_TRUTH_S), bench.fleet))
    chunks: list[Chunk] = []
    bench.run("fingerpost", _LOAD, _PICKERS, chunks.append, watched)
    at_s, true_rps, predicted_rps = (np.array(each) for each in zip(*watched.said, strict=True))
    in_force = np.searchsorted(at_s, first + np.arange(seconds) + 0.5) - 1
    sent_s, host = (np.concatenate([getattr(chunk.records, name) for chunk in chunks]) for name in ("sent_s", "host"))
    measured = (host >= 0) & (sent_s >= first) & (sent_s < first + seconds)
    place = (sent_s[measured].astype(np.int64) - first) * scenario.hosts + host[measured]
    sent = np.bincount(place, minlength=seconds * scenario.hosts).reshape(seconds, scenario.hosts)
    ends = np.array([chunk.end_s for chunk in chunks])
    slow = np.array([(chunk.samples.slowed > SPELL) & chunk.samples.up for chunk in chunks])
    became = slow[1:] & ~slow[:-1] & (ends[1:, None] >= first)
    begins = [(ends[1:][became[:, each]].astype(np.int64) - first).tolist() for each in range(scenario.hosts)]
    return Course(true_rps[in_force], predicted_rps[in_force], sent, begins)


def _of_hosts(table: Table) -> Floats:
    return np.exp(np.log(table.throughput_rps).mean(axis=1))


def draw(name: str, seed: int, courses: dict[str, Course], path: Path) -> Path:
    """Draws one host of two runs: above how slow it is and was predicted to be, below its share of the requests.

    Args:
        courses: of `average` and of `model`, on the same arrivals.
    """
    from matplotlib.figure import Figure

    host, moments = chosen(courses["model"])
    spells = moments[0] in courses["model"].begins[host]
    seconds = np.arange(-_BEFORE_S, _AFTER_S)
    figure = Figure(figsize=(7, 5), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True)
    # The model's run first: the truth that is drawn is of that one.
    for who in ("model", "average"):
        course = courses[who]
        own = [at for at in course.begins[host] if _BEFORE_S <= at <= len(course.sent) - _AFTER_S]
        # What work causes comes at another time where requests go elsewhere: each run is drawn around its own spells.
        at = own if spells and own else moments
        if who == "model":
            truth = around(slowdown(course.true_rps, course.true_rps), at)[:, host]
            upper.plot(seconds, truth, color=_COLOURS["truth"], linewidth=2.5, alpha=0.6, label="truth")
        predicted = around(slowdown(course.predicted_rps, course.true_rps), at)[:, host]
        label = "model" if who == "model" else f"average, half-life {HALFLIFE_S:g} s"
        upper.plot(seconds, predicted, color=_COLOURS[who], label=label)
        sent = around(course.sent.astype(np.float64), at)
        share = safe_ratio(sent[:, host], sent.sum(axis=1))
        lower.plot(seconds, 100 * share, color=_COLOURS[who], label=label)
    lower.axhline(100 / (courses["model"].sent > 0).any(axis=0).sum(), color="grey", linewidth=0.8, linestyle=":")
    what = f"{len(moments)} spell{'s' if len(moments) > 1 else ''}" if spells else "the largest slow-down"
    upper.set(ylabel="times slower than at best", yscale="log", title=f"{name}, seed {seed}: host {host}, {what}")
    since = "seconds since the spell began" if spells else "seconds"
    lower.set(ylabel="share of requests, %", xlabel=since, ylim=(0, None))
    for axes in (upper, lower):
        axes.axvline(0, color="grey", linewidth=0.8, linestyle="--")
        axes.grid(alpha=0.3, which="both")
    upper.yaxis.set_major_formatter("{x:g}")
    upper.yaxis.set_minor_formatter("{x:g}")
    figure.legend(*upper.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9)
    figure.savefig(path, dpi=80)
    return path
