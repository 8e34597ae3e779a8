"""Renders a version's model card: training data, scores, comparisons, and where the model is bad."""

from typing import TYPE_CHECKING

import pandas as pd

from fingerpost.features.definition import FEATURES, schema_hash
from fingerpost.shown import markdown_name
from fingerpost.training.evaluate import error_table
from fingerpost.training.ranking import choices_in_words, verdict_in_words

if TYPE_CHECKING:
    from fingerpost.training.candidate import Candidate

_WORST = 5
_MOST_NAMES = 20


def render_model_card(candidate: "Candidate", service: str, commit: str) -> str:
    """A compact answer in Markdown."""
    train, test = candidate.train, candidate.test
    happened = train[~train["cold_start"]]
    lines = [
        f"## {service}: how good is this version?",
        "",
        "### Trained on what",
        "",
        f"{len(happened)} windows of cells ({len(train) - len(happened)} more simulate a host's cold start), "
        f"{_span(train)}, {happened['host'].nunique()} hosts, {happened['category'].nunique()} categories, windows "
        f"of {candidate.window_s:g} s. {len(FEATURES)} features, schema `{schema_hash()}`, code `{commit}`. "
        f"Parameters after {len(candidate.tuning.history)} trials: {_params(candidate)}.",
        "",
        "### How good, against what",
        "",
        f"On {len(test)} later windows of cells, {_span(test)}; mean absolute error of natural logs. "
        "What is registered was fitted anew, to these windows too, with as many rounds.",
        "",
        "| target | windows | model | " + " | ".join(_views(candidate)) + " | skill |",
        "|---|---|---|" + "---|" * len(_views(candidate)) + "---|",
    ]
    for target, each in candidate.scores.items():
        errors = " | ".join(f"{each.naive[view]:.4f}" for view in each.naive)
        lines.append(f"| {target} | {each.rows} | **{each.model:.4f}** | {errors} | **{each.skill:+.3f}** |")
    ranking = candidate.ranking
    lines += [
        "",
        "Skill is 1 - model / best naive forecast. "
        + "; ".join(
            f"{each['served']:.1%} of requests lay under the served {target} ({each['promised']:.0%} promised)"
            for target, each in candidate.coverage.items()
        )
        + ".",
        "",
        f"**Ranking:** in {ranking.groups} windows and categories with several hosts, the host predicted best cost "
        f"{ranking.regret:.1%} more than the truly best one (by the baseline: {ranking.remembered:.1%}, at random: "
        f"{ranking.chance:.1%}); rank correlation {ranking.correlation:.2f}.",
        "",
        f"**Replay:** {choices_in_words(candidate.replay)}; "
        f"{verdict_in_words(candidate.verdict, test['category'].nunique())}{_exceptions(candidate)}.",
        "",
        "### Where is it bad",
        "",
    ]
    for by in ("category", "host"):
        lines += [f"Worst by {by}:", "", *_worst(candidate, by), ""]
    return "\n".join(lines)


def _exceptions(candidate: "Candidate") -> str:
    names = candidate.verdict.but
    if not names:
        return ""
    other = "the baseline" if candidate.verdict.by == "model" else "the model"
    return f" ({other}: {', '.join(markdown_name(name) for name in names[:_MOST_NAMES])})"


def _worst(candidate: "Candidate", by: str) -> list[str]:
    table = error_table(candidate.predicted, candidate.test, by).head(_WORST)
    models = [name for name in table.columns if name.endswith("_model")]
    lines = [
        f"| {by} | windows | " + " | ".join(name.removesuffix("_model") for name in models) + " |",
        "|---|---|" + "---|" * len(models),
    ]
    for row in table.to_dict("records"):
        cells = " | ".join(f"{row[name]:.3f} ({row[name.replace('_model', '_ewma')]:.3f})" for name in models)
        lines.append(f"| {markdown_name(str(row[by]))} | {row['rows']} | {cells} |")
    return [*lines, "", "(error of the model, in brackets that of the rolling average)"]


def _views(candidate: "Candidate") -> list[str]:
    return list(next(iter(candidate.scores.values())).naive)


def _params(candidate: "Candidate") -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in sorted(candidate.tuning.params.items()))


def _span(rows: pd.DataFrame) -> str:
    return f"{rows['time'].min():%Y-%m-%d %H:%M:%S} to {rows['time'].max():%Y-%m-%d %H:%M:%S}"
