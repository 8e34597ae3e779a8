"""The decisions behind a simulated run with one picker: who was up, what each host cost, how likely it was chosen."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.sample_run import STEP_S
from fingerpost.arrays import Floats
from fingerpost.routing.cost import cost_at, exploration_shares
from fingerpost.simulator.scenario import Scenario
from fingerpost.simulator.simulation import Chunk

_CLOSE = 1e-9


@dataclass(frozen=True)
class Decision:
    """How a request was routed.

    Args:
        arm: of the experiment.
        table: number of the table in force.
        propensity: probability with which the host was chosen; None of a request that was tried again.
        cost: predicted cost of the host.
        least: whether no host was cheaper.
        retried: the host that was chosen first refused it.
    """

    arm: str
    table: int
    propensity: float | None
    cost: float
    least: bool
    explored: bool
    retried: bool


def decisions(scenario: Scenario, chunks: list[Chunk], tables: list[tuple[str, Floats]]) -> list[Decision]:
    """Replays what the picker knew when it sent each request, in order of sending.

    The propensities are the native picker's: see `fingerpost.routing.cost.choice_probabilities`.

    Args:
        scenario: with one picker that counts its own requests in flight.
        chunks: of a span of a second each, the last one until all was answered.
        tables: arm in each second, and slope, offset and weight for exploration of the costs in force, shape (3,
            categories, hosts).
    """
    records = [chunk.records for chunk in chunks]
    sent, ended, host, category, explored = (
        np.concatenate([getattr(each, name) for each in records])
        for name in ("sent_s", "time_s", "host", "category", "explored")
    )
    order = np.argsort(sent, kind="stable")
    sent, ended, host, category, explored = (each[order] for each in (sent, ended, host, category, explored))
    view = _View(scenario)
    made = []
    for number, now in enumerate(sent.tolist()):
        step = min(int(now / STEP_S), len(tables) - 1)
        arm, table = tables[step]
        before, there = slice(0, number), host[:number]
        waiting = there[ended[before] > now]
        inflight = np.bincount(waiting, minlength=scenario.hosts)
        slope, offset, weight = table[:3, int(category[number])]
        cost = cost_at(slope, offset, inflight)
        chosen = int(host[number])
        retried = view.refuses(now, np.where(view.up(now), cost, np.inf), bool(explored[number]))
        if retried:
            # Its answer is told a round trip later than the picker had it.
            ended[number] -= scenario.network_rtt_s
        up = view.up(now)
        shown = np.where(up, cost, np.inf)
        least = shown <= shown.min() * (1 + _CLOSE)
        shares = scenario.picker.exploration * exploration_shares(shown, weight)
        propensity = shares[chosen] + ((1 - shares.sum()) / int(least.sum()) if least[chosen] else 0.0)
        made.append(
            Decision(
                arm,
                step,
                None if retried else float(propensity),
                float(cost[chosen]),
                bool(least[chosen]),
                bool(explored[number]),
                retried,
            )
        )
    return made


class _View:
    """Which hosts the picker takes to be up."""

    def __init__(self, scenario: Scenario) -> None:
        self._hosts = scenario.hosts
        self._lost = list(_losses(scenario))
        self._found_out: set[int] = set()

    def up(self, now: float) -> NDArray[np.bool_]:
        """Hosts that requests are sent to."""
        up = np.ones(self._hosts, dtype=np.bool_)
        for number, (host, lost, noticed, back) in enumerate(self._lost):
            if noticed <= now < back or (number in self._found_out and lost <= now < back):
                up[host] = False
        return up

    def refuses(self, now: float, cost: Floats, explored: bool) -> bool:
        """Whether the cheapest host is lost, and nobody knew: it refuses the request, and is known from then on."""
        for number, (host, lost, noticed, _) in enumerate(self._lost):
            unnoticed = lost <= now < noticed and number not in self._found_out
            if unnoticed and not explored and cost[host] <= cost.min() * (1 + _CLOSE):
                self._found_out.add(number)
                return True
        return False


def _losses(scenario: Scenario) -> Iterator[tuple[int, float, float, float]]:
    """Host, when it is lost, when that and when its return is noticed."""
    for event in scenario.events:
        if event.kind == "fail":
            back = [each.at_s for each in scenario.events if each.kind == "join" and each.host == event.host]
            after = min((at_s for at_s in back if at_s > event.at_s), default=np.inf)
            yield event.host, event.at_s, event.at_s + scenario.detection_s, after + scenario.detection_s
