"""The pictures that go with a model version."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from features.definition import FEATURES, TARGETS
from training.bundle import ModelBundle
from training.evaluate import TargetScore
from training.tune import Tuning

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MODEL, _NAIVE = "#1f6f8b", "#c9a227"
_TOP_FEATURES = 15


def all_plots(
    bundle: ModelBundle, rows: pd.DataFrame, scores: dict[str, TargetScore], tuning: Tuning
) -> dict[str, "Figure"]:
    """File name to figure: predicted against actual, errors against the naive forecasts, gains, tuning."""
    return {
        "plots/predicted_vs_actual.png": predicted_vs_actual(bundle, rows),
        "plots/errors.png": errors(scores),
        "plots/feature_gain.png": feature_gain(bundle),
        "plots/tuning.png": tuning_history(tuning),
    }


def predicted_vs_actual(bundle: ModelBundle, rows: pd.DataFrame) -> "Figure":
    """A point a held-out cell and window, by target; the diagonal is perfection."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    figure = _figure(4.2 * len(TARGETS), 4.2)
    predicted = bundle.predict_log(rows)
    for place, target in enumerate(TARGETS, start=1):
        axes = figure.add_subplot(1, len(TARGETS), place)
        actual = np.exp(rows[target].to_numpy(np.float64))
        axes.loglog(actual, np.exp(predicted[target]), ".", color=_MODEL, alpha=0.4, markersize=4)
        known = actual[np.isfinite(actual)]
        if known.size:
            axes.loglog([known.min(), known.max()], [known.min(), known.max()], color="grey", linewidth=1)
        axes.set(title=target, xlabel="measured", ylabel="predicted")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
            axis.set_major_formatter(EngFormatter("s" if target.endswith("_s") else ""))
            axis.set_minor_formatter(NullFormatter())
    return figure


def errors(scores: dict[str, TargetScore]) -> "Figure":
    """Log-MAE of the model beside every naive forecast, by target, with the skill above."""
    figure = _figure(4.2 * len(TARGETS), 3.6)
    for place, (target, each) in enumerate(scores.items(), start=1):
        axes = figure.add_subplot(1, len(scores), place)
        names = ["model", *each.naive]
        axes.bar(names, [each.model, *each.naive.values()], color=[_MODEL] + [_NAIVE] * len(each.naive))
        axes.set(title=f"{target}: skill {each.skill:+.3f}", ylabel="mean |log error|")
    return figure


def feature_gain(bundle: ModelBundle) -> "Figure":
    """The features that lowered the loss most, by target, as shares of the total gain."""
    figure = _figure(5.0 * len(TARGETS), 4.6)
    for place, target in enumerate(TARGETS, start=1):
        axes = figure.add_subplot(1, len(TARGETS), place)
        gain = bundle.boosters[target].feature_importance("gain").astype(float)
        share = gain / max(gain.sum(), 1e-12)
        top = np.argsort(share)[-_TOP_FEATURES:]
        axes.barh([FEATURES[index] for index in top], share[top], color=_MODEL)
        axes.set(title=target, xlabel="share of gain")
        axes.tick_params(axis="y", labelsize=7)
    return figure


def tuning_history(tuning: Tuning) -> "Figure":
    """The value of each trial that was not pruned, and the best so far."""
    figure = _figure(5.0, 3.6)
    axes = figure.add_subplot()
    done = [(number, value) for number, value in enumerate(tuning.history) if value is not None]
    axes.plot([number for number, _ in done], [value for _, value in done], "o", color=_MODEL, label="trial")
    best = np.minimum.accumulate([value for _, value in done])
    axes.plot([number for number, _ in done], best, color=_NAIVE, label="best so far")
    pruned = len(tuning.history) - len(done)
    axes.set(title=f"tuning, {pruned} of {len(tuning.history)} pruned", xlabel="trial", ylabel="model / naive error")
    axes.legend()
    return figure


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
