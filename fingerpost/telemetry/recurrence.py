"""Finds out whether a host slows down again and again, by the clock or by its work, and when it is due next.

NumPy alone; a host is looked at by itself. What is followed is how far the host is off its level in each window.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fingerpost.arrays import Floats, safe_ratio

# So many windows are remembered, an hour of those of 10 s. Shorter periods than this many windows are not looked for.
REMEMBERED, MIN_PERIOD = 360, 5
# The period is looked for so often, in windows; what is due by it in each of them.
SEARCHED = 6
# Spans of so many windows are numbered anew after this many: states are saved as float32, which tells no more apart.
_SPANS = 1 << 20
# A host is slow from this far off its level on (on a log scale), and has recovered below the second.
SLOW_FROM, SLOW_UNTIL = 0.25, 0.12
# What is further off than this counts as this.
_MOST_OFF = 1.0
# A host that is avoided tells nothing: for so many windows it is taken to be as it was last.
HELD = 6
# Of the greatest correlation at any lag: the first peak with so much of it is the period; later ones are its multiples.
_FIRST_PEAK = 0.8
_MIN_VARIANCE = 1e-4
# What is due is told by window; between windows it is read as of the one whose middle is so far ahead, in steps of this
# share of a window. A table is used for some seconds from now on.
_AHEAD_S, _READ = 2.0, 0.1
_STEPS = np.arange(-10, 11) / 10
_CYCLES = np.arange(1, 5)
# Of the work after which hosts became slow: the weight of the last time.
_NEWEST = 0.5
# What recurs by less than this correlation, or after work that varies by more than this share, recurs by chance: hosts
# with few requests a window are slow for a window now and then.
MIN_REGULARITY, MAX_VARIATION = 0.4, 0.25

# State of each host, and what of it are features. By the clock: the period in windows, NaN where two have not been
# seen or nothing recurs; the correlation with itself a period before; how slow it was one to four periods before the
# window that comes next, and before the one after that. For how many windows there were no requests; and the span of
# SEARCHED windows in which the period was looked for.
RECURRENCE = ("period", "regularity", "due", "due_after", "silent", "searched")
# By spells: whether it is in one (1 or 0), seconds since the last one began and ended, the work done since in seconds
# of a wholly busy host, the work after which it became slow before, and by which share of it that varies.
SPELL = ("within", "spell_s", "fine_s", "work", "limit", "variation")
RECURRENCE_VIEWS = ("period", "regularity", "due", "due_after", "spell_s", "fine_s", "work", "work_share")


def slowness(latency_off: Floats, throughput_off: Floats) -> Floats:
    """How slow hosts are by how far they are off their levels, 0 to 1; NaN where neither is known."""
    return np.clip(np.fmax(latency_off, -throughput_off), 0.0, _MOST_OFF)


def follow_slowness(
    ring: NDArray[np.float64], state: NDArray[np.float64], slow: Floats, passed: int, window: int
) -> None:
    """Takes in a window in which something was heard of some hosts, all of them last heard of in the same one.

    Args:
        ring: slowness of the last REMEMBERED windows in order of time, shape (W, H); changed.
        state: RECURRENCE, shape (6, H); changed.
        slow: of this window, shape (H,); NaN of hosts without requests.
        passed: windows since the last in which they were heard, this one included.
        window: its number since 1970.
    """
    skipped = max(passed - REMEMBERED, 0)
    state[4] = np.nan_to_num(state[4]) + skipped
    silent = np.full(len(slow), np.nan)
    for number in range(window - passed + skipped + 1, window + 1):
        _shift(ring, state[4], slow if number == window else silent)
    # By the number since 1970, so that a host is searched at the same windows whenever it was first seen.
    span = window // SEARCHED % _SPANS
    place = np.flatnonzero(state[5] != span)
    if place.size:
        state[0, place], state[1, place] = find_period(ring[:, place])
        state[5, place] = span
    state[2:4] = [_due(ring, state[0], ahead) for ahead in (1, 2)]


def _shift(ring: NDArray[np.float64], silent: NDArray[np.float64], slow: Floats) -> None:
    known, last = np.isfinite(slow), ring[-1].copy()
    silent[:] = np.where(known, 0.0, silent + 1)
    held = np.where(silent <= HELD, last, np.where(np.isfinite(last), 0.0, np.nan))
    ring[:-1] = ring[1:]
    ring[-1] = np.where(known, slow, held)


def follow_spells(state: NDArray[np.float64], slow: Floats, cpu_util: Floats, passed: int, window_s: float) -> None:
    """Takes in a window of all hosts.

    Args:
        state: SPELL, shape (6, H); changed.
        slow, cpu_util: of this window, shape (H,); NaN of hosts without requests, and without samples.
        passed: windows since the last in which they were heard, this one included; `window_s` is the length of each.
    """
    span_s = passed * window_s
    was = state[0] == 1
    begins, ends = ~was & (slow >= SLOW_FROM), was & (slow < SLOW_UNTIL)
    state[0] = np.where(begins, 1.0, np.where(ends, 0.0, np.nan_to_num(state[0])))
    state[1] = np.where(begins, window_s / 2, state[1] + span_s)
    state[2] = np.where(ends, window_s / 2, state[2] + span_s)
    work = np.nan_to_num(state[3]) + np.nan_to_num(cpu_util) * window_s
    # Before the first spell has ended it is not known since when the work counts.
    counts = begins & np.isfinite(state[2]) & np.isfinite(cpu_util)
    kept = np.where(np.isfinite(state[4]), state[4], work)
    # As much as it is itself, until it has come again: three spells after the same work are no chance any more.
    off = np.where(np.isfinite(state[4]), np.abs(work - kept) / np.maximum(kept, 1e-9), 1.0)
    varied = np.where(np.isfinite(state[5]), state[5] + _NEWEST * (off - state[5]), off)
    state[5] = np.where(counts, varied, state[5])
    state[4] = np.where(counts, kept + _NEWEST * (work - kept), state[4])
    state[3] = np.where(ends, 0.0, work)


def recurrence_views(state: NDArray[np.float64], spell: NDArray[np.float64], since_s: Floats) -> list[Floats]:
    """RECURRENCE_VIEWS of every host, shape (H,) each.

    Args:
        since_s: seconds since each was last heard, shape (H,); if that is not now, nothing is due.

    Returns:
        NaN where what recurs does so by chance.
    """
    regular, steady = state[1] >= MIN_REGULARITY, spell[5] <= MAX_VARIATION
    due = np.where((since_s == 0) & regular, state[2:4], np.nan)
    ages = np.where(regular | steady, spell[1:3] + since_s, np.nan)
    work = np.where(steady, [spell[3], safe_ratio(spell[3], spell[4])], np.nan)
    return [np.where(regular, state[0], np.nan), state[1], *due, *ages, *work]


def due_between(due: Floats, due_after: Floats, after_s: ArrayLike, window_s: float) -> Floats:
    """How slow what recurs makes hosts some seconds after their last window: tables are made more often than windows.

    Args:
        due, due_after: of RECURRENCE_VIEWS, shape (H,).
        after_s: seconds since the end of each host's last window, of a shape that fits.

    Returns:
        Shape (H,); between the two, linearly; until 3 s after a window of 10 s as in the first.
    """
    passed = (np.asarray(after_s, dtype=np.float64) + _AHEAD_S) / window_s - 0.5
    share = np.clip(np.round(passed / _READ) * _READ, 0.0, 1.0)
    return np.asarray(np.where(np.isfinite(due_after), (1 - share) * due + share * np.nan_to_num(due_after), due))


def find_period(slow: NDArray[np.float64]) -> tuple[Floats, Floats]:
    """Looks for the period of each host by autocorrelation.

    Args:
        slow: `slowness` of windows in order of time, shape (W, H); NaN where not known.

    Returns:
        Period, windows, NaN where there is none; and the correlation with itself a period before, shape (H,).
    """
    # A host's windows side by side: sums and transforms are then the same to the bit, however many hosts there are.
    rows = np.ascontiguousarray(slow.T)
    hosts, windows = rows.shape
    known = np.isfinite(rows)
    count = known.sum(axis=1)
    mean = safe_ratio(np.where(known, rows, 0.0).sum(axis=1), count)
    centred = np.where(known, rows - mean[:, None], 0.0)
    size, lags = 1 << int(2 * windows - 1).bit_length(), windows // 2 + 2
    raw, pairs = (
        np.fft.irfft(np.abs(np.fft.rfft(each, size)) ** 2)[:, :lags] for each in (centred, known.astype(np.float64))
    )
    variance = np.where(raw[:, 0] > _MIN_VARIANCE * count, raw[:, 0], np.nan) / np.maximum(count, 1)
    correlation = (safe_ratio(raw, np.round(pairs)) / variance[:, None]).T
    lag = np.arange(lags)[:, None]
    # Beyond half of what is known there is no second period; before the first zero it is one spell and itself.
    usable = (lag >= MIN_PERIOD) & (2 * lag <= count) & (np.minimum.accumulate(np.nan_to_num(correlation)) <= 0)
    found = np.where(usable, np.nan_to_num(correlation), 0.0)
    peak = (found[1:-1] >= found[:-2]) & (found[1:-1] >= found[2:])
    peak &= (found[1:-1] > 0) & (found[1:-1] >= _FIRST_PEAK * found.max(axis=0))
    first = np.where(peak.any(axis=0), np.argmax(peak, axis=0) + 1, np.nan)
    # Multiples of the period tell it finer than a window.
    candidates = first + _STEPS[:, None]
    fits = np.stack([_at(correlation, candidates * cycle, lags - 1) for cycle in _CYCLES])
    fit = safe_ratio(np.nan_to_num(fits).sum(axis=0), np.isfinite(fits).sum(axis=0))
    best, column = np.argmax(np.nan_to_num(fit, nan=-np.inf), axis=0), np.arange(hosts)
    period = candidates[best, column]
    return period, np.where(np.isfinite(period), np.nan_to_num(fit[best, column]), np.nan)


def _at(values: Floats, place: Floats, last: int) -> Floats:
    """Values between whole places, linearly; NaN beyond the last, and where the place is not known."""
    inside = np.isfinite(place) & (place >= 0) & (place <= last)
    where = np.where(inside, place, 0.0)
    low = np.floor(where).astype(np.int64)
    high = np.minimum(low + 1, last)
    column = np.arange(values.shape[1])
    part = where - low
    between = values[low, column] * (1 - part) + values[high, column] * part
    return np.where(inside, between, np.nan)


def _due(slow: Floats, period: Floats, ahead: int) -> Floats:
    windows = len(slow)
    before = np.stack([_at(slow, windows - 1 + ahead - cycle * period, windows - 1) for cycle in _CYCLES])
    return safe_ratio(np.nan_to_num(before).sum(axis=0), np.isfinite(before).sum(axis=0))
