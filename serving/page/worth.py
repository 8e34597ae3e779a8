"""Computes what the fleet could carry of the present traffic, how much of that is in use, and soon will be."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.clock import US
from fingerpost.errors import FingerpostError
from fingerpost.routing.capacity import FleetCapacity, fleet_capacity
from fingerpost.serving.page.fleet import number
from fingerpost.serving.page.windows import ServiceWindows, Total
from fingerpost.serving.table import RoutingTable

_EVERY_S = 30.0
# The rate is followed over this time, and drawn out over that; of fewer windows nothing is forecast.
_TREND_S, AHEAD_S, _MIN_WINDOWS = 900.0, 300.0, 30
_MOST_GROWTH = 3.0


class Worth:
    """Computes the capacity of one service, at most twice a minute; whoever asks in between gets the last result."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._at_s = -_EVERY_S
        self._of: tuple[str, ...] = ()
        self._found: FleetCapacity | None = None

    def capacity(self, table: RoutingTable | None, windows: ServiceWindows) -> FleetCapacity | None:
        """The capacity for the mix of the last minute; None: no traffic, or no table."""
        if table is None:
            return None
        with self._lock:
            fresh = time.monotonic() - self._at_s < _EVERY_S and self._found is not None and self._of == table.hosts
            if not fresh:
                minute, _ = windows.requests(table.hosts, table.categories)
                self._at_s, self._of, self._found = time.monotonic(), table.hosts, _capacity(table, minute)
            return self._found


def _capacity(table: RoutingTable, minute: Floats) -> FleetCapacity | None:
    try:
        return fleet_capacity(table.throughput_rps.T.astype(np.float64), minute / 60)
    except FingerpostError:  # what the solver cannot solve is shown as not known
        return None


def forecast_rps(totals: Sequence[Total], ahead_s: float = AHEAD_S) -> float | None:
    """The rate in five minutes, drawn out from the last quarter of an hour by least squares; None: too few windows.

    Bounded by three times the highest rate there was. It knows no time of day: a morning's rise is seen as it begins.
    """
    if not totals:
        return None
    recent = [each for each in totals if each.end_us > totals[-1].end_us - _TREND_S * US]
    if len(recent) < _MIN_WINDOWS:
        return None
    at_s = np.array([(each.end_us - recent[-1].end_us) / US for each in recent])
    rates = np.array([each.rate_rps for each in recent])
    slope, level = np.polyfit(at_s, rates, 1)
    return float(np.clip(level + slope * ahead_s, 0.0, _MOST_GROWTH * rates.max()))


def worth_panel(found: FleetCapacity | None, totals: Sequence[Total], cores: Floats) -> dict[str, Any] | None:
    """The panel; None while there is no traffic to tell anything by.

    Args:
        cores: of the hosts; NaN where not told.
    """
    if found is None:
        return None
    rate = totals[-1].rate_rps if totals else found.rate_rps
    soon = forecast_rps(totals)
    known = float(cores.sum()) if len(cores) and np.isfinite(cores).all() else None
    return {
        "rate_rps": number(rate),
        "bound_rps": number(found.bound_rps),
        "blind_rps": number(found.blind_rps),
        "present_rps": number(found.present_rps),
        "busiest_host": number(found.busiest),
        "used_share": number(rate / found.bound_rps),
        "headroom_share": number(1 - rate / found.bound_rps),
        "forecast_rps": None if soon is None else number(soon),
        "forecast_headroom_share": None if soon is None else number(1 - soon / found.bound_rps),
        "forecast_s": AHEAD_S,
        "saved_share": number(found.saved_share),
        "cores": known if known is None else number(known),
        "cores_saved": None if known is None else number(known * found.saved_share),
        "grouped": found.grouped,
    }
