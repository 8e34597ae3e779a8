"""The pictures that go with a model version."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fingerpost.arrays import Floats
from fingerpost.clock import US
from fingerpost.events import Event
from fingerpost.features.definition import FEATURES, TARGETS
from fingerpost.training.bundle import ModelBundle
from fingerpost.training.calibration import PROMISED, calibration_curve
from fingerpost.training.evaluate import TargetScore
from fingerpost.training.tune import Tuning

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fingerpost.training.candidate import Candidate

_MODEL, _NAIVE = "#1f6f8b", "#c9a227"
_TOP_FEATURES = 15
_MAX_SHAP_ROWS = 1000
_TIME_STEPS = 120
# More lines than this, or longer names, cover what they are to explain.
_MOST_EVENTS, _MOST_LETTERS = 20, 40


def all_plots(candidate: "Candidate") -> dict[str, "Figure"]:
    """File name to figure: load, predictions, errors, residuals, calibration, gains, SHAP values, ranking, tuning."""
    bundle, rows, predicted = candidate.bundle, candidate.test, candidate.predicted
    return {
        "plots/load.png": load_over_time(candidate.train, rows, candidate.events),
        "plots/predicted_vs_actual.png": predicted_vs_actual(predicted, rows),
        "plots/errors.png": errors(candidate.scores),
        "plots/residuals.png": residuals(predicted, rows, candidate.events),
        "plots/calibration.png": calibration(predicted, bundle.shifts, rows),
        "plots/feature_gain.png": feature_gain(bundle),
        "plots/shap.png": shap_summary(bundle, rows),
        "plots/ranking.png": ranking(candidate.ranks),
        "plots/tuning.png": tuning_history(candidate.tuning),
    }


def predicted_vs_actual(predicted: Mapping[str, Floats], rows: pd.DataFrame) -> "Figure":
    """A point a held-out cell and window, by target; the diagonal is perfection."""
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    figure = _figure(4.2 * len(TARGETS), 4.2)
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
        gain = np.sum([each.feature_importance("gain") for each in bundle.boosters[target]], axis=0).astype(float)
        share = gain / max(gain.sum(), 1e-12)
        top = np.argsort(share)[-_TOP_FEATURES:]
        axes.barh([FEATURES[index] for index in top], share[top], color=_MODEL)
        axes.set(title=target, xlabel="share of gain")
        axes.tick_params(axis="y", labelsize=7)
    return figure


def load_over_time(train: pd.DataFrame, test: pd.DataFrame, events: Sequence[Event] = ()) -> "Figure":
    """Requests over time as the rows tell them, those that were held out apart, with the events that fall into it."""
    figure = _figure(9.0, 3.6)
    axes = figure.add_subplot()
    edges = np.linspace(train["time"].min().timestamp(), test["time"].max().timestamp() + 1, _TIME_STEPS + 1)
    for rows, name, colour in ((train[~train["cold_start"]], "trained on", _NAIVE), (test, "held out", _MODEL)):
        seconds = rows["time"].dt.as_unit("us").astype("int64").to_numpy() / US
        requests = np.histogram(seconds, edges, weights=rows["requests"] * rows["weight"])[0] / np.diff(edges)
        axes.plot(edges[:-1].astype("datetime64[s]"), requests, color=colour, label=name, drawstyle="steps-post")
    mark_events(axes, events, edges[0], edges[-1])
    axes.set(title="load", ylabel="requests a second")
    axes.tick_params(axis="x", labelsize=7, rotation=20)
    axes.legend()
    return figure


def mark_events(axes: "Axes", events: Sequence[Event], begin_s: float, end_s: float) -> None:
    """Draws a line with its name for each event of a span, the latest ones where there are many; seconds since 1970."""
    happened = (event for event in events if event.withdrawn_us is None and begin_s <= event.at_us / US <= end_s)
    within = sorted(happened, key=lambda event: event.at_us)
    for event in within[-_MOST_EVENTS:]:
        at: Any = np.datetime64(event.at_us, "us")
        axes.axvline(at, color="grey", linewidth=0.8, linestyle=":")
        name = " ".join(filter(None, (event.kind, event.host, event.note)))[:_MOST_LETTERS]
        axes.annotate(
            # A dollar sign would begin a formula.
            name.replace("$", r"\$"),
            (at, 0.98),
            xycoords=("data", "axes fraction"),
            rotation=90,
            va="top",
            fontsize=6,
        )


def residuals(predicted: Mapping[str, Floats], rows: pd.DataFrame, events: Sequence[Event] = ()) -> "Figure":
    """Errors (measured less predicted, logs) over time, and how they are spread, by target."""
    figure = _figure(4.2 * len(TARGETS), 6.0)
    for place, target in enumerate(TARGETS, start=1):
        error = rows[target].to_numpy(np.float64) - predicted[target]
        known = np.isfinite(error)
        axes = figure.add_subplot(2, len(TARGETS), place)
        axes.plot(rows["time"][known], error[known], ".", color=_MODEL, alpha=0.4, markersize=3)
        axes.axhline(0.0, color="grey", linewidth=1)
        mark_events(axes, events, rows["time"].min().timestamp(), rows["time"].max().timestamp())
        axes.set(title=target, ylabel="log residual")
        axes.tick_params(axis="x", labelsize=6, rotation=30)
        axes = figure.add_subplot(2, len(TARGETS), len(TARGETS) + place)
        axes.hist(np.clip(error[known], -2, 2), bins=41, color=_MODEL)
        axes.set(xlabel="log residual", ylabel="windows")
    return figure


def calibration(predicted: Mapping[str, Floats], shifts: Mapping[str, float], rows: pd.DataFrame) -> "Figure":
    """The share of requests under a predicted latency times a factor, and what is promised at factor 1, as served."""
    figure = _figure(4.6 * len(PROMISED), 3.6)
    factors = np.linspace(-1.5, 1.5, 31)
    for place, (target, share) in enumerate(PROMISED.items(), start=1):
        axes = figure.add_subplot(1, len(PROMISED), place)
        served = predicted[target] + shifts.get(target, 0.0)
        axes.semilogx(np.exp(factors), calibration_curve(rows, served, factors), color=_MODEL)
        axes.axhline(share, color=_NAIVE, linewidth=1)
        axes.axvline(1.0, color="grey", linewidth=1)
        axes.set(title=target, xlabel="factor on what is served", ylabel="share of requests under it", ylim=(0, 1.02))
    return figure


def shap_summary(bundle: ModelBundle, rows: pd.DataFrame) -> "Figure":
    """SHAP values (Lundberg and Lee, 2017) of the features that move the correction most; red is high."""
    figure = _figure(5.4 * len(TARGETS), 5.0)
    sample = rows.sample(min(len(rows), _MAX_SHAP_ROWS), random_state=7)
    matrix = bundle.encoder.encode(sample)
    rng = np.random.default_rng(7)
    for place, target in enumerate(TARGETS, start=1):
        axes = figure.add_subplot(1, len(TARGETS), place)
        values = np.asarray(bundle.boosters[target][0].predict(matrix, pred_contrib=True))[:, :-1]
        top = np.argsort(np.abs(values).mean(axis=0))[-_TOP_FEATURES:]
        for height, index in enumerate(top):
            feature = matrix[:, index]
            rank = pd.Series(feature).rank(pct=True).fillna(0.5).to_numpy()
            spread = height + rng.uniform(-0.3, 0.3, len(feature))
            axes.scatter(values[:, index], spread, c=rank, cmap="coolwarm", s=3, vmin=0, vmax=1)
        axes.set_yticks(range(len(top)), [FEATURES[index] for index in top], fontsize=7)
        axes.axvline(0.0, color="grey", linewidth=1)
        axes.set(title=target, xlabel="SHAP value (log)")
    return figure


def ranking(ranks: pd.DataFrame) -> "Figure":
    """Regret of the host picked by the model, by the rolling average, and at random, as shares of windows."""
    figure = _figure(5.4, 3.6)
    axes = figure.add_subplot()
    for name, label, colour in (
        ("regret", "model", _MODEL),
        ("remembered", "rolling average", _NAIVE),
        ("chance", "random", "grey"),
    ):
        values = np.sort(ranks[name].to_numpy(np.float64))
        axes.plot(values, np.arange(1, len(values) + 1) / max(len(values), 1), color=colour, label=label)
    axes.set(
        title=f"{len(ranks)} windows and categories", xlabel="true cost over the best, less 1", ylabel="share at most"
    )
    axes.set_xscale("symlog", linthresh=0.01)
    axes.legend()
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
