"""Results as Markdown and as pictures, for flows' artifacts and files."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fingerpost.abtest.experiment.confidence import paired_sequence
from fingerpost.abtest.experiment.pairs import Pairs, paired_differences
from fingerpost.abtest.experiment.store import Evaluation
from fingerpost.abtest.experiment.verdict import PRIMARY, Verdict
from fingerpost.abtest.offpolicy.estimate import Estimate
from fingerpost.abtest.shadow.compare import Comparison, ShadowReport
from fingerpost.clock import US
from fingerpost.experiment import ALIASES
from fingerpost.lake import write_text_atomically
from fingerpost.shown import markdown_name, markdown_text, matplotlib_label


def write_experiment_report(found: Evaluation, folder: Path) -> str:
    """Writes `report.md` and pictures of an experiment into a folder; returns the report."""
    text = verdict_markdown(found.verdict, found.version)
    write_text_atomically(folder / "report.md", text)
    differences(found.pairs, found.verdict.alpha).savefig(folder / "differences.png")
    latencies(found.pairs).savefig(folder / "latencies.png")
    return text


def verdict_markdown(verdict: Verdict, version: str = "") -> str:
    """The verdict, a row a metric, and what does not count.

    Args:
        version: of the challenger; empty: the first of the experiment.
    """
    about = verdict.experiment or {}
    rows = "\n".join(
        f"| {each.metric} | {_number(each.champion)} | {_number(each.challenger)} | {each.unit} "
        f"| {_number(each.estimate)} | {_number(each.low)} to {_number(each.high)} | {each.pairs} |"
        for each in verdict.effects.values()
    )
    skipped = ", ".join(f"{count} {why}" for why, count in verdict.skipped.items()) or "none"
    planned_s = float(about.get("washout_s") or 0.0)
    washout = (
        f" What one arm left behind reached into the next slot: by now {verdict.washout_s:g} s of each are left out."
        if verdict.washout_s is not None and verdict.washout_s > planned_s
        else ""
    )
    trusts = "".join(
        f" The guard trusts the {arm}'s predictions by {trust:.2f}." for arm, trust in verdict.trusts.items()
    )
    decided = f" (pair {verdict.decided_at}, rule {verdict.rule})" if verdict.decided_at else ""
    return (
        f"# Experiment {about.get('id', '')}: {verdict.verdict}\n\n{markdown_text(verdict.reason)}{decided}.\n\n"
        f"Challenger {version or about.get('challenger', '')} against champion {about.get('champion', '')}: "
        f"{verdict.pairs} pairs count of {verdict.elapsed} seen and {verdict.planned} planned; left out: {skipped}; "
        f"{verdict.records} requests, of which {verdict.misrouted} were not routed by their slot's arm."
        f"{washout}{trusts}\n\n"
        f"| metric | champion | challenger | unit | change | {1 - verdict.alpha:.0%} at any look | pairs |\n"
        f"|---|---|---|---|---|---|---|\n{rows}\n"
    )


def shadow_markdown(report: ShadowReport) -> str:
    """Errors by target, regret, hosts and categories."""
    parts = [
        f"# Challenger {report.versions[1]} in the shadow of {report.versions[0]}: {report.status}",
        f"{markdown_text(report.reason)}.",
    ]
    regret = {"regret": report.regret} if report.regret and report.regret.rows else {}
    for title, found in (
        ("target", {**report.errors, **regret}),
        ("host", report.by_host),
        ("category", report.by_category),
        ("category (regret)", report.regret_by_category),
    ):
        if found:
            rows = "\n".join(_row(name, each) for name, each in found.items())
            parts.append(
                f"| {title} | outcomes | champion | challenger | naive | difference | interval | skill |\n"
                f"|---|---|---|---|---|---|---|---|\n{rows}"
            )
    return "\n\n".join(parts) + "\n"


def interval(estimate: Estimate | None) -> str:
    """An estimate with its interval, as text."""
    if estimate is None:
        return "-"
    return f"{_number(estimate.value)} ({_number(estimate.low)} to {_number(estimate.high)})"


def _row(name: str, each: Comparison) -> str:
    figures = " | ".join(
        _number(value) for value in (each.champion, each.challenger, each.naive, each.difference.value)
    )
    return (
        f"| {markdown_name(name)} | {each.rows} | {figures} | {_number(each.difference.low)} to "
        f"{_number(each.difference.high)} | {_number(each.skill)} |"
    )


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "?"


if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHAMPION, _CHALLENGER = "#c9a227", "#1f6f8b"
_LATENCIES = ("latency_geomean_s", "latency_mean_s", "latency_p99_s")
_MAX_BARS = 15


def differences(pairs: Pairs, alpha: float, metric: str = PRIMARY) -> "Figure":
    """Each pair's difference, and the confidence sequence as it was after that pair."""
    figure = _figure(7.0, 3.8)
    axes = figure.add_subplot()
    values, places = paired_differences(pairs, metric)
    sequence = paired_sequence(values, alpha)
    if len(values):
        minutes = (pairs.begin_us[places] - pairs.begin_us[0]) / US / 60
        known = np.isfinite(sequence.lower) & np.isfinite(sequence.upper)
        at = minutes[sequence.looks - 1]
        axes.plot(minutes, values, ".", color="grey", alpha=0.6, label="a pair")
        axes.fill_between(
            at[known], sequence.lower[known], sequence.upper[known], color=_CHALLENGER, alpha=0.25,
            label=f"{1 - alpha:.0%} confidence sequence",
        )  # fmt: skip
        axes.plot(at, sequence.centre, color=_CHALLENGER, label="estimate")
        axes.legend(fontsize=8)
        # The band is wide at first: what it comes to is what one wants to see.
        widest = 1.2 * float(np.quantile(np.abs(values), 0.98)) or 1.0
        axes.set_ylim(-widest, widest)
    axes.axhline(0.0, color="black", linewidth=1)
    unit = "difference" if metric == "error_rate" else "log ratio"
    axes.set(
        title=f"{metric}: {len(values)} pairs",
        xlabel="minutes",
        ylabel=matplotlib_label(f"{unit}, {pairs.arms[1]} to {pairs.arms[0]}"),
    )
    return figure


def latencies(pairs: Pairs) -> "Figure":
    """Both arms' latency over time, slot by slot."""
    from matplotlib.ticker import EngFormatter

    figure = _figure(4.6 * len(_LATENCIES), 3.6)
    for place, metric in enumerate(_LATENCIES, start=1):
        axes = figure.add_subplot(1, len(_LATENCIES), place)
        if len(pairs):
            minutes = (pairs.begin_us - pairs.begin_us[0]) / US / 60
            for side, (arm, colour) in enumerate(zip(pairs.arms, (_CHAMPION, _CHALLENGER), strict=True)):
                axes.plot(
                    minutes, pairs.values[metric][:, side], ".-", color=colour, label=matplotlib_label(arm), linewidth=1
                )
            axes.legend(fontsize=8)
            axes.set_yscale("log")
            for formatted in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                formatted(EngFormatter("s"))
            axes.tick_params(axis="y", which="both", labelsize=7)
        axes.set(title=metric, xlabel="minutes")
    return figure


def shadow_errors(report: ShadowReport) -> "Figure":
    """Mean errors of both models by target, host and category, with the interval of their difference."""
    figure = _figure(13.0, 5.2)
    parts = (("target", report.errors), ("host", report.by_host), ("category", report.by_category))
    for place, (title, found) in enumerate(parts, start=1):
        axes = figure.add_subplot(1, len(parts), place)
        _bars(axes, found)
        axes.set(title=f"by {title}", xlabel="mean error, log scale")
    figure.suptitle(f"challenger {report.versions[1]} against champion {report.versions[0]}: {report.status}")
    return figure


def _bars(axes: Any, found: Mapping[str, Comparison]) -> None:
    names = list(found)[:_MAX_BARS][::-1]
    height = np.arange(len(names))
    champion, challenger = (np.array([getattr(found[name], side) for name in names]) for side in ALIASES)
    axes.barh(height + 0.2, champion, 0.4, color=_CHAMPION, label="champion")
    half = np.array([found[name].difference.high - found[name].difference.value for name in names], dtype=np.float64)
    axes.barh(
        height - 0.2, challenger, 0.4, color=_CHALLENGER, label="challenger",
        xerr=np.nan_to_num(half), error_kw={"linewidth": 1},
    )  # fmt: skip
    axes.set_yticks(height, [matplotlib_label(name[-40:]) for name in names], fontsize=7)
    if names:
        axes.legend(fontsize=8)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
