"""The choice of endpoints for a request: by the table's predictions, or by least requests under way without them."""

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fingerpost.accesslog.envoy import DECISION_MARK
from fingerpost.arrays import Floats, safe_ratio
from fingerpost.routing.arms import arm_of, time_key
from fingerpost.routing.cost import choice_probabilities, cost_at, exploration_shares
from fingerpost.routing.endpoint_picker.endpoints import Endpoints
from fingerpost.routing.endpoint_picker.requests import Request, RequestCategories
from fingerpost.routing.table_file import Arm, PickerTable

# The chosen endpoint and those to try after it: as many as Envoy's configuration tries, and one more.
MAX_ENDPOINTS = 4
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Decision:
    """What was chosen and why; see docs/routing.md for the parts.

    Args:
        endpoints: in the order in which they are to be tried.
        fallback: why it was not predicted: `no_table`, `expired`, `no_category`, `no_row` or `panic`; empty if it was.
        propensity: probability of the first endpoint under this policy; None where it is not known.
        predicted_cost: of the first endpoint, seconds; None where there is no prediction.
        work_s: what the request is predicted to take of the first endpoint, seconds; 0 where there is no prediction.
    """

    endpoints: tuple[str, ...]
    policy: str = "least_request"
    fallback: str = ""
    explored: bool = False
    arm: str = ""
    model_version: str = ""
    table_version: str = ""
    propensity: float | None = None
    predicted_cost: float | None = None
    category: str = ""
    work_s: float = 0.0

    def served_elsewhere(self) -> "Decision":
        """This decision for a request that another endpoint than its first served: how likely that was is not known."""
        return replace(self, propensity=None, predicted_cost=None)

    def as_text(self) -> str:
        """One line, as the native picker logs it and `fingerpost.accesslog.envoy` reads it."""
        propensity, cost = (f"{value:.6g}" if value else "" for value in (self.propensity, self.predicted_cost))
        explored = "1" if self.explored else ""
        made_with = (self.arm, self.model_version, self.table_version)
        parts = (self.policy, self.fallback, explored, *made_with, propensity, cost)
        return DECISION_MARK.join((*(part.replace(DECISION_MARK, "_") for part in parts), self.category))


class Chooser:
    """Chooses endpoints with the newest table.

    Args:
        panic_share: with fewer of the endpoints than this share alive, or known to the table, all are used, by least
            requests under way: predictions for a few hosts would send everything there.
        rng: for ties and exploration.
        queues: endpoints are asked how many requests wait there (`fingerpost.routing.endpoint_picker.queues`): the cost
            is of the seconds of work ahead, not of requests in flight.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        panic_share: float = 0.5,
        rng: random.Random | None = None,
        queues: bool = False,
    ) -> None:
        self.endpoints, self._queues = endpoints, queues
        self._panic_share, self._rng = panic_share, rng or random.Random()
        self._table: PickerTable | None = None
        self._categories = RequestCategories((), ())
        self._columns: Places = np.zeros(0, dtype=np.int64)
        self._version = -1

    @property
    def arm_header(self) -> str:
        """The header that decides the arm, in lower case; empty where another thing does."""
        table = self._table
        return table.settings.arm_header.lower() if table and table.settings.arm_mode == "header" else ""

    def use(self, table: PickerTable) -> None:
        """Chooses with this table from now on."""
        if self._table is None or (table.categories, table.routes) != (self._table.categories, self._table.routes):
            self._categories = RequestCategories(table.categories, table.routes)
        self._table, self._version = table, -1

    def choose(self, request: Request, subset: Sequence[str] | None = None) -> Decision | None:
        """The endpoints for a request, None if none may be chosen.

        Args:
            subset: choose only among these endpoints; None: among all.
        """
        eligible = self.endpoints.eligible(subset)
        if not len(eligible):
            return None
        alive = eligible[self.endpoints.refused_until[eligible] <= time.monotonic()]
        few = len(alive) < max(1.0, self._panic_share * len(eligible))
        places = eligible if few else alive
        table, now_s = self._table, time.time()
        if table is None:
            return self._by_requests(places, Decision((), fallback="no_table"))
        arm = arm_of(table, _arm_key(table, request, now_s, self._rng))
        said = Decision((), fallback="", arm=arm.name, model_version=arm.model_version, table_version=table.version)
        columns = self._columns_in(table)[eligible]
        if now_s * 1e6 >= table.expires_us:
            return self._by_requests(places, replace(said, fallback="expired"))
        category = self._categories.place_of(request)
        if category is None:
            return self._by_requests(places, replace(said, fallback="no_category"))
        said = replace(said, category=table.categories[category])
        if few or (columns < len(table.hosts)).sum() < self._panic_share * len(eligible):
            return self._by_requests(places, replace(said, fallback="panic"))
        return self._in_force(places, arm, category, said)

    def _in_force(self, places: Places, arm: Arm, category: int, said: Decision) -> Decision:
        table = self._table
        assert table is not None  # noqa: S101 (asked by `choose` alone)
        columns = self._columns_in(table)[places]
        slope, offset = table.slope[arm.matrix, category, columns], table.offset[arm.matrix, category, columns]
        work_s = np.where(np.isfinite(slope), slope, 0.0).astype(np.float64)
        cost = cost_at(slope, offset, self._load(places, work_s))
        if arm.policy == "least_request":
            return self._by_requests(places, said, cost, work_s)
        if arm.policy == "random":
            first = self._rng.randrange(len(places))
            drawn = replace(said, policy="random", propensity=1 / len(places))
            return self._decided(places, first, cost, drawn, work_s)
        weight = 1.0 if table.explore is None else table.explore[arm.matrix, category, columns]
        share = table.settings.exploration
        probability = choice_probabilities(cost, share, weight)
        if np.isnan(probability[0]):
            return self._by_requests(places, replace(said, fallback="no_row"))
        open_to = exploration_shares(cost, weight)
        explored = open_to.any() and self._rng.random() < share
        first = self._rng.choices(range(len(places)), open_to.tolist())[0] if explored else self._least(cost)
        chosen = replace(said, policy="fingerpost", explored=bool(explored), propensity=float(probability[first]))
        return self._decided(places, first, cost, chosen, work_s)

    def _load(self, places: Places, work_s: Floats) -> Floats:
        """What is at these places, counted in requests like the one to be sent, which takes `work_s` there."""
        now_s = time.monotonic()
        if not self._queues:
            return self.endpoints.load(places, now_s)
        return safe_ratio(self.endpoints.work_ahead(places, work_s, now_s), work_s)

    def _by_requests(
        self, places: Places, said: Decision, cost: Floats | None = None, work_s: Floats | None = None
    ) -> Decision:
        load = self.endpoints.inflight[places].astype(np.float64)
        first = self._least(load)
        found = self._decided(places, first, load, said, work_s)
        known = cost is not None and np.isfinite(cost[first])
        return replace(found, predicted_cost=float(cost[first]) if cost is not None and known else None)

    def _least(self, cost: Floats) -> int:
        """One of least cost, ties at random."""
        return int(self._rng.choice(np.flatnonzero(choice_probabilities(cost))))

    def _decided(
        self, places: Places, first: int, cost: Floats, said: Decision, work_s: Floats | None = None
    ) -> Decision:
        """The decision with its endpoints: the chosen one, then the others in order of cost."""
        order = np.argsort(cost)[: MAX_ENDPOINTS + 1]
        listed = [first, *(int(place) for place in order if place != first and np.isfinite(cost[place]))]
        addresses = tuple(self.endpoints.addresses[places[place]] for place in listed[:MAX_ENDPOINTS])
        predicted = float(cost[first]) if np.isfinite(cost[first]) else None
        work = 0.0 if work_s is None else float(work_s[first])
        return replace(said, endpoints=addresses, predicted_cost=predicted, work_s=work)

    def _columns_in(self, table: PickerTable) -> Places:
        """The column of each endpoint's host in the table; hosts that it does not know have the last."""
        if self._version != self.endpoints.version:
            column = {name: place for place, name in enumerate(table.hosts)}
            self._columns = np.array(
                [column.get(name, len(table.hosts)) for name in self.endpoints.names], dtype=np.int64
            )
            self._version = self.endpoints.version
        return self._columns


def _arm_key(table: PickerTable, request: Request, now_s: float, rng: random.Random) -> bytes:
    if len(table.arms) == 1:
        return b""
    if table.settings.arm_mode == "time":
        return time_key(table.settings.arm_seconds, now_s)
    key = request.arm_key if table.settings.arm_mode == "header" else b""
    # Never by an id that clients send: they would choose their arm.
    return key or rng.randbytes(8)
