"""Holds a bounded random sample of the decision records of windows that are still open, with known weights."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fingerpost.decision_sample import has_decision, was_explored


@dataclass
class _Drawn:
    seen: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)


class DecisionReservoir:
    """A uniform sample of each kind of record, by reservoirs (Vitter 1985, algorithm R): each row may go at once.

    As `fingerpost.decision_sample.sample_decisions` it keeps every explored request, and of the others at most so many;
    each kept record weighs what it weighed before times seen / kept. Unlike it, it need not hold the records that it
    does not keep. Explored requests, others, and records of different weight are sampled apart, so that the weights of
    a window add up to its number of requests.

    Args:
        most: records of a kind kept of each window.
        seed: of the choice; None: another one each time.
    """

    def __init__(self, most: int, seed: int | None = None) -> None:
        self._most = max(1, most)
        self._random = random.Random(seed)
        self._windows: dict[int, dict[tuple[bool, float], _Drawn]] = defaultdict(lambda: defaultdict(_Drawn))

    def add(self, end_us: Sequence[int], rows: Sequence[dict[str, Any]], weight: float) -> None:
        """Takes request records; those without a decision are left out.

        Args:
            end_us: end of the window of each.
            weight: how many requests each stands for.
        """
        for end, row in zip(end_us, rows, strict=True):
            if not has_decision(row):
                continue
            kind = self._windows[end][was_explored(row), weight]
            kind.seen += 1
            if len(kind.rows) < self._most:
                kind.rows.append(row)
            elif (place := self._random.randrange(kind.seen)) < self._most:
                kind.rows[place] = row

    def close(self, end_us: int) -> list[dict[str, Any]]:
        """Takes out the sample of all windows up to this end, by time, each record with its `weight`."""
        found = []
        for end in [end for end in self._windows if end <= end_us]:
            for (_, weight), kind in self._windows.pop(end).items():
                stands = weight * kind.seen / len(kind.rows)
                found += [{**row, "weight": stands} for row in kind.rows]
        return sorted(found, key=lambda row: int(row["time"]))
