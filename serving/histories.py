"""The histories of a fleet's hosts side by side: what features are made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats
from fingerpost.clock import US
from fingerpost.history_block import HistoryBlock
from fingerpost.serving.fleet_state import FleetState
from fingerpost.telemetry.history import (
    HISTORY_COLUMNS,
    HISTORY_HOST_COLUMNS,
    HISTORY_HOST_PLACE,
    History,
    extrapolate_history,
)
from fingerpost.telemetry.recurrence import due_between


@dataclass(frozen=True)
class HistoryForm:
    """What histories must be made with to be fed to a model, seconds."""

    window_s: float
    halflife_s: float

    def fits(self, block: HistoryBlock) -> bool:
        """Whether a block is of this form, and of this program's columns."""
        return block.fits and (block.window_s, block.halflife_s) == (self.window_s, self.halflife_s)


@dataclass(frozen=True)
class Histories:
    """Of H hosts and C categories, in the order of a fleet.

    Args:
        blocks: the hosts' blocks; None where there is none of the right form.
        cells: HISTORY_COLUMNS, shape (H, C, K); of a host without a block as of a new one.
        host_values: HOST_COLUMNS, shape (H, M).
        now_us: what all is as of: the end of the latest window of any host, microseconds since 1970.
    """

    hosts: tuple[str, ...]
    categories: tuple[str, ...]
    blocks: tuple[HistoryBlock | None, ...]
    cells: NDArray[np.float32]
    host_values: Floats
    now_us: int

    def due_at(self, at_us: int, window_s: float) -> Floats:
        """How slow what recurs makes each host at a time between windows, shape (H,); NaN where nothing recurs.

        Args:
            at_us: microseconds since 1970; before the end of a host's last window: as of that.
            window_s: length of the windows.
        """
        due, after = (self.host_values[:, HISTORY_HOST_PLACE[name]] for name in ("host_due", "host_due_after"))
        as_of_us = np.array([block.as_of_us if block else self.now_us for block in self.blocks], dtype=np.int64)
        return due_between(due, after, np.maximum(at_us - as_of_us, 0) / US, window_s)

    @property
    def known(self) -> int:
        """The number of hosts with a history."""
        return sum(block is not None for block in self.blocks)


def gather(fleet: FleetState, form: HistoryForm, before: Histories | None = None) -> Histories:
    """The histories of a fleet; `before` itself if they are the same.

    Hosts close a window at the same moment but tell of it one after the other: a host that is one window behind is
    taken as it told. One that is further behind is taken to have been silent since.

    Args:
        before: of the same form, whose arrays are used again where they still hold.
    """
    given = [state.fingerprint.history for state in fleet.states]
    blocks = tuple(block if block is not None and form.fits(block) else None for block in given)
    same_shape = before is not None and (before.hosts, before.categories) == (fleet.hosts, fleet.categories)
    if before is not None and same_shape and all(a is b for a, b in zip(before.blocks, blocks, strict=True)):
        return before
    now_us = max((block.as_of_us for block in blocks if block), default=0)
    if before is not None and same_shape:
        cells, host_values = before.cells.copy(), before.host_values.copy()
    else:
        cells = np.empty((len(blocks), len(fleet.categories), len(HISTORY_COLUMNS)), dtype=np.float32)
        host_values = np.empty((len(blocks), len(HISTORY_HOST_COLUMNS)))
    place = {name: number for number, name in enumerate(fleet.categories)}
    for row, block in enumerate(blocks):
        if (
            same_shape
            and before is not None
            and before.blocks[row] is block
            and (block is None or _behind_s(block, now_us, form) == _behind_s(block, before.now_us, form) == 0)
        ):
            continue
        cells[row], host_values[row] = _unknown()
        if block is not None:
            _fill(cells[row], host_values[row], block, place, form, now_us)
    return Histories(fleet.hosts, fleet.categories, blocks, cells, host_values, now_us)


def _behind_s(block: HistoryBlock, now_us: int, form: HistoryForm) -> float:
    """By how many seconds a block has to be brought forward."""
    behind_s = (now_us - block.as_of_us) / US
    return behind_s if behind_s > form.window_s else 0.0


def _fill(
    cells: NDArray[np.float32],
    host_values: Floats,
    block: HistoryBlock,
    place: dict[str, int],
    form: HistoryForm,
    now_us: int,
) -> None:
    own: Sequence[int] = [number for number, name in enumerate(block.categories) if name in place]
    known, values = block.cells, block.host_values.astype(np.float64)
    behind_s = _behind_s(block, now_us, form)
    if behind_s > 0:
        moved, values = extrapolate_history(
            known.reshape(-1, len(HISTORY_COLUMNS)), values, behind_s, form.window_s, form.halflife_s
        )
        known = moved.astype(np.float32)
    if own:
        cells[[place[block.categories[number]] for number in own]] = known[list(own)]
    host_values[:] = values


@cache
def _unknown() -> tuple[NDArray[np.float32], Floats]:
    """The columns of a cell and of a host of which nothing is known."""
    nothing = History(1, 1, 1.0, 1.0)
    return nothing.columns(1)[0, 0].astype(np.float32), nothing.host_values(1)[0]
