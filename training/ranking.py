"""Scores how well predictions rank hosts: the cost of routing by them beside truth, baseline and chance."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fingerpost.arrays import Floats
from fingerpost.features.definition import baseline_column, naive_column
from fingerpost.routing.cost import routing_cost
from fingerpost.training.bundle import ModelBundle
from fingerpost.training.manifest import Verdict

# Fewer replayed choices say nothing of how a model chooses.
MIN_CHOICES = 20
# Windows that follow each other are no independent evidence: they are taken together, in this many blocks.
_BLOCKS = 20
# How often a verdict may be wrong by chance; of one on each category, over all of them together.
_CHANCE = 0.05


@dataclass(frozen=True)
class Ranking:
    """Over all windows and categories that several hosts served.

    Args:
        groups: how many of these.
        regret: mean of (true cost of the host predicted best) / (true cost of the best) - 1; 0 is perfect.
        chance: the same regret of a host picked at random.
        remembered: the same regret of the host that is best by the baseline's forecast.
        correlation: mean rank correlation of predicted and true cost (Spearman).
    """

    groups: int
    regret: float
    chance: float
    remembered: float
    correlation: float

    def metrics(self) -> dict[str, float]:
        return {f"ranking.{name}": float(value) for name, value in vars(self).items() if np.isfinite(value)}


@dataclass(frozen=True)
class Replay:
    """Held-out windows replayed: the host that a model would have chosen, beside the baseline's choice.

    All costs are relative to the mean over the hosts that served the same category in the same window, which is what a
    choice at random costs; windows count by their requests.

    Args:
        groups: windows and categories that several hosts served.
        excess: mean cost of the model's hosts less that of the baseline's; below 0 the model chooses better.
        error: standard error of `excess`, by blocks of windows that follow each other (batch means).
        gain: 1 - mean cost of the baseline's hosts: what the baseline saves over a choice at random.
        blocks: the number of blocks.
    """

    groups: int
    excess: float
    error: float
    gain: float
    blocks: int = _BLOCKS

    def bounds(self, chance: float = _CHANCE) -> tuple[float, float]:
        """Bounds of `excess`, each wrong with this probability (Student's t); infinite with fewer than two blocks."""
        from scipy.stats import t

        if not (self.blocks > 1 and np.isfinite(self.error)):
            return -np.inf, np.inf
        reach = float(t.isf(chance, self.blocks - 1)) * self.error
        return self.excess - reach, self.excess + reach

    def metrics(self) -> dict[str, float]:
        found = {**vars(self), "bound": self.bounds()[1]}
        return {f"replay.{name}": float(value) for name, value in found.items() if np.isfinite(value)}


def rank_table(bundle: ModelBundle, rows: pd.DataFrame, predicted: Mapping[str, Floats] | None = None) -> pd.DataFrame:
    """One row a (window, category) with at least two hosts whose cost is known: `hosts`, `requests`, `regret`,
    `chance`, `remembered`, `correlation`, and `model`, `baseline`: the cost of the host chosen over the mean of all.

    Requests are those that the rows stand for: where a share was kept, by their `weight`.

    Cost is that of the next request at the load of the window's beginning, by throughput, or by median latency where
    no throughput was measured; the truth is what the window then measured.

    Args:
        predicted: of `bundle.predict_log`; None: it is asked.
    """
    predicted = bundle.predict_log(rows) if predicted is None else predicted
    known = "throughput_rps" in bundle.targets and np.isfinite(rows["throughput_rps"]).any()
    target = "throughput_rps" if known else "latency_p50_s"
    # What the engine's baseline serves; rows of an earlier version have its main part alone.
    baseline = rows[naive_column("ewma", target)]
    if (served := baseline_column(target)) in rows:
        baseline = rows[served].fillna(baseline)
    inflight = np.expm1(rows["host_inflight"].fillna(0.0).to_numpy(np.float64))
    cost = pd.DataFrame(
        {
            "time": rows["time"],
            "category": rows["category"].astype("str"),
            "requests": rows["requests"] * rows["weight"],
        }
    )
    for name, logs in (("true", rows[target]), ("model", predicted[target]), ("baseline", baseline)):
        value = np.exp(np.asarray(logs, dtype=np.float64))
        cost[name] = routing_cost(inflight, value) if target == "throughput_rps" else value
    cost = cost[np.isfinite(cost[["true", "model", "baseline"]]).all(axis=1) & ~rows["cold_start"].to_numpy(bool)]
    keys = ["time", "category"]
    groups = cost.groupby(keys, sort=False)
    best, mean, hosts = groups["true"].min(), groups["true"].mean(), groups.size()
    table = pd.DataFrame({"hosts": hosts, "requests": groups["requests"].sum(), "chance": mean / best - 1})
    for name, relative, column in (("regret", "model", "model"), ("remembered", "baseline", "baseline")):
        chosen = cost.loc[groups[column].idxmin()].set_index(keys)["true"]
        table[name] = chosen / best - 1
        table[relative] = chosen / mean
    ranks = cost.assign(true=groups["true"].rank(), model=groups["model"].rank())
    centred = ranks[["true", "model"]] - ranks.groupby(keys, sort=False)[["true", "model"]].transform("mean")
    products = pd.DataFrame(
        {"tm": centred["true"] * centred["model"], "tt": centred["true"] ** 2, "mm": centred["model"] ** 2}
    )
    sums = products.groupby([cost[key] for key in keys], sort=False).sum()
    table["correlation"] = sums["tm"] / np.sqrt((sums["tt"] * sums["mm"]).where(lambda each: each > 0))
    return table[table["hosts"] > 1].reset_index()


def rank_quality(table: pd.DataFrame) -> Ranking:
    """The means of a `rank_table`; NaN where there is no group."""
    means = table[["regret", "chance", "remembered", "correlation"]].mean()
    return Ranking(len(table), **{str(name): float(value) for name, value in means.items()})


def replay_choices(table: pd.DataFrame) -> Replay:
    """What choosing by the model would have cost beside choosing by the baseline.

    Args:
        table: of `rank_table`.

    Returns:
        NaN where there are no groups, and as `error` where there are fewer than two windows.
    """
    if table.empty:
        return Replay(0, float("nan"), float("nan"), float("nan"), 0)
    weight = table["requests"].to_numpy(np.float64)
    weight = weight / weight.sum()
    difference = (table["model"] - table["baseline"]).to_numpy(np.float64)
    excess = float(weight @ difference)
    windows = np.unique(table["time"].to_numpy(), return_inverse=True)[1]
    count = min(_BLOCKS, int(windows.max()) + 1)
    blocks = np.bincount(windows * count // (int(windows.max()) + 1), weights=weight * (difference - excess))
    error = float(np.sqrt((blocks**2).sum() * count / (count - 1))) if count > 1 else float("nan")
    gain = float(1 - weight @ table["baseline"].to_numpy(np.float64))
    return Replay(len(table), excess, error, gain, count)


def verdict_on(table: pd.DataFrame, skill: float, margin: float) -> tuple[Verdict, Replay]:
    """Says who is to serve which categories, and replays what is served then.

    A model serves if its choices cost less than the baseline's, beyond chance; but in categories where they cost more,
    beyond chance, the baseline does. If it does not serve, it still may in the categories where it chooses better.

    Args:
        table: of `rank_table`.
        skill: mean skill, which decides where there is nothing to choose: no category was served by several hosts.
        margin: by how much the choices may cost more, as a share of the cost of a choice at random.
    """
    if table.empty:
        return Verdict(by="model" if skill > 0 else "baseline"), replay_choices(table)
    categories = {str(name): group for name, group in table.groupby("category", observed=True)}
    replays = {name: replay_choices(group) for name, group in categories.items()}
    bounds = {
        name: replay.bounds(_CHANCE / len(replays)) for name, replay in replays.items() if replay.groups >= MIN_CHOICES
    }
    worse = sorted(name for name, (low, _) in bounds.items() if low > max(margin, 0.0))
    better = sorted(name for name, (_, high) in bounds.items() if high < min(margin, 0.0))
    for verdict in (Verdict(by="model", but=worse), Verdict(by="baseline", but=better)):
        by_model = table["category"].astype(str).map(verdict.of).to_numpy(bool)
        chosen = replay_choices(table[by_model])
        # Who serves most of the requests serves what is new.
        most = 2 * table["requests"][by_model].sum() >= table["requests"].sum()
        if most >= (verdict.by == "model") and chosen.groups >= MIN_CHOICES and chosen.bounds()[1] < margin:
            return verdict, replay_choices(table.assign(model=table["model"].where(by_model, table["baseline"])))
    return Verdict(by="baseline"), replay_choices(table)


def choices_in_words(replay: Replay) -> str:
    """A replay in words."""
    if not replay.groups:
        return "no category was served by several hosts"
    return (
        f"in {replay.groups} replayed choices its hosts cost {replay.excess:+.1%} (standard error {replay.error:.1%}) "
        f"beside the baseline's, which saves {replay.gain:.0%} over chance"
    )


def verdict_in_words(verdict: Verdict, categories: int) -> str:
    """A verdict in words.

    Args:
        categories: how many there are.
    """
    count = len(verdict.but) if verdict.by == "model" else categories - len(verdict.but)
    if not verdict.serves:
        return "the baseline serves"
    return f"the baseline serves {count} of {categories} categories" if count else "the model serves"
