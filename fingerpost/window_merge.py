"""Merges what several reporters saw of one host in one window, so that no request counts twice.

The rule, by column:

- Proxies of one host each see a part of its requests: counts add up; means and percentiles are averaged by how many
  requests were measured, throughputs by the seconds that a request takes of them.
- The host's own agent sees all its requests. Where it reports, counts, service times, CPU, memory and throughput are
  its own; durations are those of the proxies, since those are what clients wait for.
- A failure that only a proxy saw, as of a host that did not answer, is added to the errors. Other requests of a
  category that only proxies saw are taken to be in the own agent's report under another category, and left out.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fingerpost.arrays import Floats, Floats32, Ints, safe_ratio
from fingerpost.category import Key
from fingerpost.window_report import COUNTS, MAX_KEYS, MAX_ROWS, WINDOW_COLUMNS, WindowReport

_PLACE = {name: place for place, name in enumerate(WINDOW_COLUMNS)}
_REQUESTS, _ERRORS, _MEASURED = (_PLACE[name] for name in COUNTS)
_ADDED = np.array([name in (*COUNTS, "cpu_s") for name in WINDOW_COLUMNS])
_DURATIONS = np.array([name.startswith("latency_") for name in WINDOW_COLUMNS])
_THROUGHPUT = _PLACE["throughput_rps"]


def merge_reports(reports: Sequence[WindowReport]) -> WindowReport:
    """One report out of all of one host and window, by the rule above; the order of the reports does not matter.

    Of several by one reporter, as after its restart, the newest counts. The result has the identity of the own agent's
    report where there is one, else of the newest of the proxies'.

    Args:
        reports: at least one, all of the same service, host, window's end and length.

    Raises:
        ValueError: there are none, or they are of different windows.
    """
    if len({(each.service, each.host, each.end_us, each.window_s) for each in reports}) != 1:
        raise ValueError(f"{len(reports)} reports are not of one host and window")
    newest = {(each.source, each.reporter): each for each in sorted(reports, key=_age)}
    own = [each for (source, _), each in newest.items() if source == "host"]
    proxies = [each for (source, _), each in sorted(newest.items()) if source == "proxy"]
    if not own:
        return proxies[0] if len(proxies) == 1 else _added(proxies)
    host = max(own, key=_age)
    return _completed(host, _added(proxies)) if proxies else host


def _age(report: WindowReport) -> tuple[int, str, int]:
    return report.time_us, report.boot_id, report.sequence


def added_rows(rows: Floats, group: Ints, groups: int) -> Floats:
    """Adds up rows of windows group by group: what several saw of different requests, or categories that become one.

    Args:
        rows: `WINDOW_COLUMNS` of each, shape (n, K); NaN where not known.
        group: of each row, from 0, shape (n,).
        groups: their number.

    Returns:
        Shape (groups, K).
    """
    known = np.isfinite(rows)
    filled = np.where(known, rows, 0.0)
    weight = np.where(known, filled[:, [_MEASURED]], 0.0)
    # The mean of throughputs is of the seconds that a request takes.
    filled[:, _THROUGHPUT] = np.nan_to_num(safe_ratio(np.ones(len(rows)), rows[:, _THROUGHPUT]))

    def total(values: Floats) -> Floats:
        columns = [np.bincount(group, column, groups) for column in np.ascontiguousarray(values.T, dtype=np.float64)]
        return np.stack(columns, axis=1)

    means = safe_ratio(total(filled * weight), total(weight))
    means[:, _THROUGHPUT] = safe_ratio(np.ones(groups), means[:, _THROUGHPUT])
    sums = np.where(total(known.astype(np.float64)) > 0, total(filled), np.nan)
    return np.where(_ADDED, sums, means)


def completed_rows(own: Floats, seen: Floats) -> Floats:
    """What a host's own agent tells, with what only proxies can.

    Args:
        own, seen: of the agent, and of all proxies together, of the same categories: shape (n, K); NaN where it has no
            requests of a category.

    Returns:
        Shape (n, K); 0 `requests` where there is nothing to be told of a category.
    """
    rows = np.where(_DURATIONS & np.isfinite(seen), seen, own)
    failed = np.nan_to_num(seen[:, _ERRORS])
    rows[np.isnan(own[:, _REQUESTS])] = np.nan
    counts = np.nan_to_num(own[:, [_REQUESTS, _ERRORS, _MEASURED]])
    rows[:, _ERRORS] = errors = np.maximum(counts[:, 1], failed)
    rows[:, _MEASURED] = counts[:, 2]
    rows[:, _REQUESTS] = np.maximum(counts[:, 0], counts[:, 2] + errors)
    return rows


def _added(proxies: Sequence[WindowReport]) -> WindowReport:
    """The reports of several proxies as one."""
    names = _names(proxies)
    place = {name: number for number, name in enumerate(names)}
    group = np.array([place[name] for each in proxies for name in each.categories], dtype=np.int64)
    rows = np.concatenate([each.windows for each in proxies]).astype(np.float64)
    keys: Counter[Key] = Counter()
    for each in proxies:
        keys.update(dict(each.keys))
    return _cut(
        replace(
            max(proxies, key=_age),
            categories=names,
            windows=added_rows(rows, group, len(names)).astype(np.float32),
            keys=tuple(keys.most_common(MAX_KEYS)),
            landed=any(each.landed for each in proxies),
        )
    )


def _completed(host: WindowReport, proxies: WindowReport) -> WindowReport:
    """The own agent's report with what only proxies can tell."""
    names = _names([host, proxies])
    rows = completed_rows(_rows(host, names), _rows(proxies, names))
    kept: Ints = np.flatnonzero(rows[:, _REQUESTS] > 0)
    return _cut(
        replace(
            host,
            categories=tuple(names[place] for place in kept.tolist()),
            windows=rows[kept].astype(np.float32),
            keys=host.keys or proxies.keys,
        )
    )


def _names(reports: Sequence[WindowReport]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for each in reports for name in each.categories))


def _rows(report: WindowReport, names: Sequence[str]) -> Floats:
    """The report's windows in the order of `names`, shape (names, columns); NaN of categories that it has not."""
    place = {name: number for number, name in enumerate(names)}
    rows = np.full((len(names), len(WINDOW_COLUMNS)), np.nan)
    rows[[place[name] for name in report.categories]] = report.windows
    return rows


def _cut(report: WindowReport) -> WindowReport:
    """No more categories than a report may have: those with most requests."""
    if len(report.categories) <= MAX_ROWS:
        return report
    kept = np.sort(np.argsort(-report.windows[:, _REQUESTS], kind="stable")[:MAX_ROWS])
    windows: Floats32 = report.windows[kept]
    return replace(report, categories=tuple(report.categories[place] for place in kept.tolist()), windows=windows)
