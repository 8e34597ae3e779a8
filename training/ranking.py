"""How well predictions rank hosts: what routing by them would cost, over what routing by the truth would."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from routing.cost import routing_cost
from training.bundle import ModelBundle


@dataclass(frozen=True)
class Ranking:
    """Over all windows and categories that several hosts served.

    Args:
        groups: how many of these.
        regret: mean of (true cost of the host predicted best) / (true cost of the best) - 1; 0 is perfect.
        chance: the same regret of a host picked at random.
        remembered: the same regret of the host that is best by its rolling average.
        correlation: mean rank correlation of predicted and true cost (Spearman).
    """

    groups: int
    regret: float
    chance: float
    remembered: float
    correlation: float

    def metrics(self) -> dict[str, float]:
        return {f"ranking.{name}": float(value) for name, value in vars(self).items() if np.isfinite(value)}


def rank_table(bundle: ModelBundle, rows: pd.DataFrame) -> pd.DataFrame:
    """One row a (window, category) with at least two hosts whose cost is known: `hosts`, `regret`, `chance`,
    `remembered`, `correlation`.

    Cost is that of the next request at the load of the window's beginning, by throughput, or by median latency where
    no throughput was measured; the truth is what the window then measured.
    """
    target = "throughput_rps" if np.isfinite(rows["throughput_rps"]).any() else "latency_p50_s"
    predicted = bundle.predict_log(rows)[target]
    inflight = np.expm1(rows["host_inflight"].fillna(0.0).to_numpy(np.float64))
    cost = pd.DataFrame({"time": rows["time"], "category": rows["category"].astype("str")})
    for name, logs in (("true", rows[target]), ("model", predicted), ("ewma", rows[f"naive_ewma_{target}"])):
        value = np.exp(np.asarray(logs, dtype=np.float64))
        cost[name] = routing_cost(inflight, value) if target == "throughput_rps" else value
    cost = cost[np.isfinite(cost[["true", "model", "ewma"]]).all(axis=1) & ~rows["rehearsed"].to_numpy(bool)]
    keys = ["time", "category"]
    groups = cost.groupby(keys, sort=False)
    best, mean, hosts = groups["true"].min(), groups["true"].mean(), groups.size()
    table = pd.DataFrame({"hosts": hosts, "chance": mean / best - 1})
    for name, column in (("regret", "model"), ("remembered", "ewma")):
        chosen = cost.loc[groups[column].idxmin()].set_index(keys)["true"]
        table[name] = chosen / best - 1
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
