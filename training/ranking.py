"""Scores how well predictions rank hosts: the cost of routing by them beside truth, baseline and chance."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fingerpost.routing.cost import routing_cost
from fingerpost.training.bundle import ModelBundle


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
        error: standard error of `excess`, windows taken as independent (clusters; Liang and Zeger, 1986).
        gain: 1 - mean cost of the baseline's hosts: what the baseline saves over a choice at random.
    """

    groups: int
    excess: float
    error: float
    gain: float

    def metrics(self) -> dict[str, float]:
        return {f"replay.{name}": float(value) for name, value in vars(self).items() if np.isfinite(value)}


def rank_table(bundle: ModelBundle, rows: pd.DataFrame) -> pd.DataFrame:
    """One row a (window, category) with at least two hosts whose cost is known: `hosts`, `requests`, `regret`,
    `chance`, `remembered`, `correlation`, and `model`, `baseline`: the cost of the host chosen over the mean of all.

    Cost is that of the next request at the load of the window's beginning, by throughput, or by median latency where
    no throughput was measured; the truth is what the window then measured.
    """
    target = "throughput_rps" if np.isfinite(rows["throughput_rps"]).any() else "latency_p50_s"
    predicted = bundle.predict_log(rows)[target]
    # As the engine's baseline forecasts throughput.
    baseline = rows[f"naive_ewma_{target}"]
    inflight = np.expm1(rows["host_inflight"].fillna(0.0).to_numpy(np.float64))
    cost = pd.DataFrame(
        {"time": rows["time"], "category": rows["category"].astype("str"), "requests": rows["requests"]}
    )
    for name, logs in (("true", rows[target]), ("model", predicted), ("baseline", baseline)):
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
        return Replay(0, float("nan"), float("nan"), float("nan"))
    weight = table["requests"].to_numpy(np.float64)
    weight = weight / weight.sum()
    difference = (table["model"] - table["baseline"]).to_numpy(np.float64)
    excess = float(weight @ difference)
    windows = pd.Series(weight * (difference - excess)).groupby(table["time"].to_numpy()).sum().to_numpy()
    count = len(windows)
    error = float(np.sqrt((windows**2).sum() * count / (count - 1))) if count > 1 else float("nan")
    return Replay(len(table), excess, error, float(1 - weight @ table["baseline"].to_numpy(np.float64)))


def choices_in_words(replay: Replay) -> str:
    """A replay in words."""
    if not replay.groups:
        return "no category was served by several hosts"
    return (
        f"in {replay.groups} replayed choices its hosts cost {replay.excess:+.1%} (standard error {replay.error:.1%}) "
        f"beside the baseline's, which saves {replay.gain:.0%} over chance"
    )
