"""Results as Markdown, for flows' artifacts and files."""

import math

from fingerpost.abtest.experiment.verdict import Verdict
from fingerpost.abtest.offpolicy.estimate import Estimate
from fingerpost.abtest.shadow.compare import Comparison, ShadowReport
from fingerpost.shown import markdown_name, markdown_text


def verdict_markdown(verdict: Verdict) -> str:
    """The verdict, a row a metric, and what does not count."""
    about = verdict.experiment or {}
    rows = "\n".join(
        f"| {each.metric} | {_number(each.champion)} | {_number(each.challenger)} | {each.unit} "
        f"| {_number(each.estimate)} | {_number(each.low)} to {_number(each.high)} | {each.pairs} |"
        for each in verdict.effects.values()
    )
    skipped = ", ".join(f"{count} {why}" for why, count in verdict.skipped.items()) or "none"
    decided = f" (pair {verdict.decided_at}, rule {verdict.rule})" if verdict.decided_at else ""
    return (
        f"# Experiment {about.get('id', '')}: {verdict.verdict}\n\n{markdown_text(verdict.reason)}{decided}.\n\n"
        f"Challenger {about.get('challenger', '')} against champion {about.get('champion', '')}: {verdict.pairs} pairs "
        f"count of {verdict.elapsed} seen and {verdict.planned} planned; left out: {skipped}; {verdict.records} "
        f"requests, of which {verdict.misrouted} were not routed by their slot's arm.\n\n"
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
