"""`python -m benchmarks anticipate`: what foresight is worth where something can be anticipated, and where nothing can.

Simulated. The reference below is the best-tuned average at the product's cadence; the one above is clairvoyant. Each
may choose its half-life or horizon for every scenario and load in hindsight.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fingerpost.arrays import Bools, Floats, Ints, safe_ratio
from fingerpost.simulator.predictions import Average, Clairvoyant, Predictor
from fingerpost.simulator.run import Bench
from fingerpost.simulator.scenario import Scenario, load_scenario
from fingerpost.simulator.simulation import Chunk

SCENARIOS = Path(__file__).parents[1] / "simulator" / "scenarios" / "anticipation"
HALFLIVES_S, HORIZONS_S = (3.0, 10.0, 30.0), (1.0, 3.0)
PREDICTORS = ("clairvoyant", "average", "baseline", "learned")
# A host is in a spell while it is so many times slower than by itself; what counts is the beginning of spells.
SPELL, _BEGINNING_S = 1.5, 15.0
_YOUNG_S = 60.0
# Traffic has left ahead of a spell if it did so within the seconds before; after one, a host is tried again slowly.
_AHEAD_S, _RECOVERY_S = 3.0, 30.0
_LN2 = float(np.log(2))


@dataclass(frozen=True)
class Seen:
    """What clients saw of one run.

    Attributes:
        setting: half-life of an average, horizon of a clairvoyant, seconds; 0 of others.
        spell_p99_s: of requests sent in the first 15 s of a spell or of another mix; p99 where there is neither.
        ahead: of `traffic_ahead`.
        young_p99_s: of requests to hosts that came, or came back, less than a minute before; NaN where none did.
    """

    scenario: str
    predictor: str
    setting: float
    load: float
    pickers: int
    seed: int
    p99_s: float
    spell_p99_s: float
    mean_s: float
    ahead: float
    young_p99_s: float


def names() -> tuple[str, ...]:
    """The scenarios there are."""
    return tuple(sorted(path.stem for path in SCENARIOS.glob("*.json")))


def measure_anticipation(
    scenarios: Sequence[str],
    loads: Sequence[float],
    pickers: Sequence[int],
    seeds: Sequence[int],
    predictors: Sequence[str],
    progress: Callable[[Seen], None],
) -> list[Seen]:
    """Runs every predictor on the same fleets and arrivals; a learned one learns of another day of each fleet."""
    found = []
    for name in scenarios:
        scenario = load_scenario(SCENARIOS / f"{name}.json")
        for seed in seeds:
            bench = Bench(scenario, seed)
            for load in loads:
                for count in pickers:
                    for predictor in predictors:
                        for setting, made in _variants(bench, predictor):
                            seen = _run(bench, name, predictor, setting, made, load, count)
                            progress(seen)
                            found.append(seen)
    return found


def summarise(found: Sequence[Seen]) -> list[dict[str, Any]]:
    """Means over seeds, a row for each scenario, load and number of pickers.

    Returns:
        p99s in seconds at the beginning of spells and overall; of each predictor but the references the `share` of
        what the clairvoyant gains over the average at the beginning of spells (None where that is less than 1%), and
        its overall p99 over the average's as `ratio`, and that of hosts in their first minute as `young_ratio`.
    """
    rows = []
    for key in sorted({(each.scenario, each.load, each.pickers) for each in found}):
        of = [each for each in found if (each.scenario, each.load, each.pickers) == key]
        row: dict[str, Any] = dict(zip(("scenario", "load", "pickers"), key, strict=True))
        for predictor in dict.fromkeys(each.predictor for each in of):
            settings = sorted({each.setting for each in of if each.predictor == predictor})
            for name in ("spell_p99_s", "p99_s", "ahead", "young_p99_s"):
                means = [
                    float(np.mean([getattr(e, name) for e in of if (e.predictor, e.setting) == (predictor, setting)]))
                    for setting in settings
                ]
                if not np.isfinite(means).all():
                    continue
                row[f"{predictor}_{name}"] = round(min(means), 4)
                if len(settings) > 1:
                    row[f"{predictor}_{name}_at"] = settings[int(np.argmin(means))]
        rows.append({**row, **_compared(row)})
    return rows


def _compared(row: dict[str, Any]) -> dict[str, Any]:
    average, best = row.get("average_spell_p99_s"), row.get("clairvoyant_spell_p99_s")
    compared: dict[str, Any] = {}
    if average is not None and best is not None:
        compared["gain"] = round(1 - best / average, 3)
    for predictor in PREDICTORS[2:]:
        if average is None or f"{predictor}_p99_s" not in row:
            continue
        if best is not None:
            gained = average - row[f"{predictor}_spell_p99_s"]
            worth = average - best > 0.01 * average
            compared[f"{predictor}_share"] = round(gained / (average - best), 2) if worth else None
        compared[f"{predictor}_ratio"] = round(row[f"{predictor}_p99_s"] / row["average_p99_s"], 3)
        if f"{predictor}_young_p99_s" in row:
            ratio = row[f"{predictor}_young_p99_s"] / row["average_young_p99_s"]
            compared[f"{predictor}_young_ratio"] = round(ratio, 3)
    return compared


def _variants(bench: Bench, predictor: str) -> Iterator[tuple[float, Predictor | None]]:
    """The settings in which a predictor is tried, with what predicts; None: as the policy's name says."""

    if predictor == "average":
        for halflife_s in HALFLIVES_S:
            yield halflife_s, Average(with_halflife(bench.scenario, halflife_s), bench.fleet)
    elif predictor == "clairvoyant":
        for horizon_s in HORIZONS_S:
            yield horizon_s, Clairvoyant(predicting(bench.scenario, horizon_s=horizon_s), bench.fleet)
    else:
        yield 0.0, None


def _run(
    bench: Bench, name: str, predictor: str, setting: float, made: Predictor | None, load: float, pickers: int
) -> Seen:
    chunks: list[Chunk] = []
    figures = bench.run(f"fingerpost:{predictor}", load, pickers, chunks.append, made)
    sent, took, error, host = (
        np.concatenate([getattr(chunk.records, field) for chunk in chunks])
        for field in ("sent_s", "duration_s", "error", "host")
    )
    fine = ~error & (sent >= bench.scenario.warmup_s)
    begins = spell_begins(bench.scenario, chunks)
    near = fine & near_spells(sent, begins)
    chosen = near if near.any() else fine
    young = fine & young_hosts(chunks, sent, host)
    return Seen(
        *(name, predictor, setting, load, pickers, bench.seed, figures.p99_s),
        float(np.quantile(took[chosen], 0.99)) if chosen.any() else float("nan"),
        figures.mean_s,
        traffic_ahead(bench.scenario, chunks),
        float(np.quantile(took[young], 0.99)) if young.any() else float("nan"),
    )


def predicting(scenario: Scenario, **changes: Any) -> Scenario:
    """The scenario with other `Predictions`."""
    return scenario.model_copy(update={"predictions": scenario.predictions.model_copy(update=changes)})


def with_halflife(scenario: Scenario, halflife_s: float) -> Scenario:
    """The scenario with averages of this half-life."""
    return predicting(scenario, memory_s=halflife_s / _LN2)


def spell_begins(scenario: Scenario, chunks: Sequence[Chunk]) -> Floats:
    """When, after the warm-up, hosts became slower or another mix came, seconds from the start, in order."""
    ends = np.array([chunk.end_s for chunk in chunks])
    slow = np.array([chunk.samples.slowed > SPELL for chunk in chunks])
    begun = ends[1:][(slow[1:] & ~slow[:-1]).any(axis=1)]
    every = np.unique(np.concatenate([begun, [mix.at_s for mix in scenario.mix if mix.at_s > 0]]))
    return every[every >= scenario.warmup_s]


def traffic_ahead(scenario: Scenario, chunks: Sequence[Chunk]) -> float:
    """What hosts get in the 3 s before they become slow, over what the same hosts get when nothing is the matter.

    Returns:
        1 where nobody sees a spell coming, 0 where all traffic has left; NaN where no host becomes slow while it is up.
    """
    ends = np.array([chunk.end_s for chunk in chunks])
    slow, up = (np.array([getattr(chunk.samples, name) for chunk in chunks]) for name in ("slowed", "up"))
    slow = slow > SPELL
    sent_s, host = (np.concatenate([getattr(chunk.records, name) for chunk in chunks]) for name in ("sent_s", "host"))
    routed = (host >= 0) & (sent_s < ends[-1])
    counts = np.zeros(slow.shape)
    np.add.at(counts, (np.searchsorted(ends, sent_s[routed], side="right"), host[routed]), 1)
    spans = np.diff(ends, prepend=0.0)
    ahead, recovering = np.zeros_like(slow), np.zeros_like(slow)
    for place, of in zip(*np.nonzero(slow[1:] & ~slow[:-1]), strict=True):
        before = (ends <= ends[place] + 1e-9) & (ends > ends[place] - _AHEAD_S + 1e-9)
        ahead[:, of] |= before & up[:, of]
    for place, of in zip(*np.nonzero(slow | ~up), strict=True):
        recovering[(ends > ends[place]) & (ends <= ends[place] + _RECOVERY_S), of] = True
    measured = ends[:, None] > scenario.warmup_s
    calm = measured & up & ~slow & ~ahead & ~recovering
    ahead &= measured & ~recovering
    usual = safe_ratio((counts * calm).sum(axis=0), (spans[:, None] * calm).sum(axis=0))
    expected = np.nansum((spans[:, None] * ahead).sum(axis=0) * usual)
    got = (counts * ahead)[:, np.isfinite(usual)].sum()
    return float(got / expected) if expected > 0 else float("nan")


def young_hosts(chunks: Sequence[Chunk], sent_s: Floats, host: Ints) -> Bools:
    """Whether requests were sent to hosts that came less than a minute before; those there from the start are old."""
    ends, up = np.array([chunk.end_s for chunk in chunks]), np.array([chunk.samples.up for chunk in chunks])
    came = np.full(up.shape, -np.inf)
    began = up[1:] & ~up[:-1]
    came[1:][began] = np.broadcast_to(ends[1:, None], began.shape)[began]
    since = np.maximum.accumulate(came, axis=0)
    place = np.minimum(np.searchsorted(ends, sent_s, side="right"), len(ends) - 1)
    return np.asarray((host >= 0) & (sent_s - since[place, np.maximum(host, 0)] < _YOUNG_S))


def near_spells(sent_s: Floats, begins: Floats) -> Bools:
    """Whether requests were sent in the first 15 s of a spell."""
    if not len(begins):
        return np.zeros(len(sent_s), dtype=np.bool_)
    place = np.searchsorted(begins, sent_s, side="right") - 1
    return (place >= 0) & (sent_s - begins[np.maximum(place, 0)] < _BEGINNING_S)


def as_json(found: Sequence[Seen]) -> dict[str, Any]:
    """The runs, and what they come to."""
    return {"rows": summarise(found), "runs": [asdict(each) for each in found]}
