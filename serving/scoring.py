"""Scores fleets: a registered model's predictions, and where it has none, what the fingerprints say."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from fingerpost.arrays import Bools, Floats, Ints
from fingerpost.features.definition import FEATURES, NUMERIC_FEATURES, TARGETS
from fingerpost.features.fleet_features import ChosenCells, FleetFeatures, HostsCells, request_types
from fingerpost.serving.fleet_state import FleetState
from fingerpost.serving.histories import Histories, HistoryForm, gather
from fingerpost.telemetry.baseline import BaselineEstimates
from fingerpost.training.bundle import ModelBundle
from fingerpost.training.inspection import require_inspected
from fingerpost.training.trees.compiled import Trees, compile_trees, load_trees

# Cells at once: their features take some 10 MB, and a column of them fits into a cache.
_BLOCK = 8_000
_P99 = TARGETS.index("latency_p99_s")


@dataclass(frozen=True)
class ModelOutput:
    """A model's output for a fleet.

    Args:
        logs: of the targets, as of the end of the histories, shape (H, C, 3); NaN where it predicts nothing.
        cells: how many were scored for it; 0 if an earlier output still held.
        present: as `logs`, for the second that the fleet is to be predicted for.
        due: how slow what recurs makes each host then, shape (H,).
        features: of the histories; None: no host has one.
    """

    histories: Histories
    logs: Floats
    cells: int
    present: Floats
    due: Floats
    features: FleetFeatures | None = None

    def moved(self, at_us: int, window_s: float) -> Ints:
        """The hosts that something else is due on at another second, as indices."""
        due = self.histories.due_at(at_us, window_s)
        return np.flatnonzero(np.isfinite(due) & (due != self.due))


@dataclass(frozen=True)
class ModelScorer:
    """Scores fleets with a registered model: features of their histories in, predictions out.

    Args:
        trees: of `load_trees` or `compile_trees`, for the bundle's boosters.
        version: of the model.
        form: of the histories that the model's features are made of.
        source: `champion` or `challenger`.
    """

    bundle: ModelBundle
    trees: Trees
    version: str
    form: HistoryForm
    source: str = "champion"

    @classmethod
    def compiled(cls, bundle: ModelBundle, version: str, form: HistoryForm, source: str = "champion") -> "ModelScorer":
        """Compiles the trees here, which takes part of a second."""
        return cls(bundle, compile_trees(bundle.boosters), version, form, source)

    def output(self, fleet: FleetState, before: ModelOutput | None = None) -> ModelOutput:
        """Scores every cell; depends on the histories of all hosts, and on events and holidays.

        Between windows only the hosts are scored anew that something is due on: a host's recurring spell may begin
        within a window.

        Args:
            before: of this scorer, whose logs are given again if no history has changed: events count from the next
                window on.
        """
        histories = gather(fleet, self.form, before.histories if before else None)
        if before is not None and histories is before.histories:
            return self._at(replace(before, cells=0), fleet.at_us)
        shape = (len(fleet.hosts), len(fleet.categories))
        due = histories.due_at(0, self.form.window_s)
        if not histories.known or not shape[1]:
            logs = np.full((*shape, len(TARGETS)), np.nan)
            return ModelOutput(histories, logs, 0, logs, due)
        outside = fleet.outside.of_hosts(fleet.hosts).at(histories.now_us)
        types = request_types(histories.categories)
        features = FleetFeatures(histories.cells, histories.host_values, types, histories.now_us, outside)
        step = max(1, _BLOCK // shape[1])
        blocks = [HostsCells(begin, min(begin + step, shape[0]), shape[1]) for begin in range(0, shape[0], step)]
        logs = self._predict(features, histories.categories, blocks)
        return self._at(ModelOutput(histories, logs, shape[0] * shape[1], logs, due, features), fleet.at_us)

    def _at(self, output: ModelOutput, at_us: int) -> ModelOutput:
        """What is predicted for another second."""
        moved = output.moved(at_us, self.form.window_s)
        if not moved.size or output.features is None:
            return output
        histories, due, present = output.histories, output.due.copy(), output.present.copy()
        due[moved] = histories.due_at(at_us, self.form.window_s)[moved]
        categories = len(histories.categories)
        step = max(1, _BLOCK // categories)
        blocks = [
            ChosenCells(np.repeat(hosts, categories), np.tile(np.arange(categories), len(hosts)))
            for hosts in np.split(moved, range(step, len(moved), step))
        ]
        present[moved] = self._predict(output.features.with_due(due), histories.categories, blocks)
        return replace(output, cells=output.cells + len(moved) * categories, present=present, due=due)

    def _predict(
        self, features: FleetFeatures, categories: Sequence[str], blocks: Sequence[HostsCells | ChosenCells]
    ) -> Floats:
        """Logs of whole hosts, one after the other, shape (hosts, C, 3); a block holds some of them."""
        codes = self.bundle.encoder.codes(categories)
        found: list[Floats] = []
        # A feature side by side, as they are made and as trees want them; one piece of memory for all blocks.
        memory = np.empty(len(FEATURES) * max(cells.count for cells in blocks))
        for cells in blocks:
            columns = memory[: len(FEATURES) * cells.count].reshape(len(FEATURES), cells.count)
            features.of(cells, columns[: len(NUMERIC_FEATURES)])
            for place, values in enumerate(codes, start=len(NUMERIC_FEATURES)):
                columns[place] = cells.of_categories(values)
            served = self.bundle.served_logs(columns.T, self.trees)
            found.append(np.stack([served[target] for target in TARGETS], axis=-1))
        return np.concatenate(found).reshape(-1, len(categories), len(TARGETS))


def load_model(folder: Path, version: str, source: str, form: HistoryForm) -> ModelScorer:
    """Loads the model in a folder that `fetch` made, ready to score.

    Raises:
        SchemaMismatchError: it was made for other features than this program's; the message names them.
        DamagedModelError: its files are not those that were read well when they were fetched.
    """
    require_inspected(folder)
    bundle = ModelBundle.load(folder)
    return ModelScorer(bundle, load_trees(folder, bundle.boosters), version, form, source)


class Serving(Protocol):
    """Whoever decides which categories a model serves; the baseline serves the others."""

    def by_model(self, categories: Sequence[str]) -> Bools:
        """Which categories the model serves, shape (C,)."""

    @property
    def reason(self) -> str:
        """Why the baseline serves what it does; empty where there is nothing to say."""


@dataclass(frozen=True)
class Scored:
    """A fleet with its predictions.

    Args:
        predictions: TARGETS, shape (H, C, 3); NaN where nothing can be said.
        scorer: the model's; None: there is none, or it cannot be used.
        model_output: of `scorer`.
        baseline_logs: what the baseline predicts, as logs, shape (H, C, 3).
        by_baseline: categories that the baseline serves although there is a model.
        reason: why it does.
    """

    fleet: FleetState
    reference: BaselineEstimates
    predictions: Floats
    scorer: ModelScorer | None
    model_output: ModelOutput | None
    baseline_logs: Floats
    by_baseline: tuple[str, ...] = ()
    reason: str = ""

    @property
    def by_model(self) -> bool:
        """Whether a model predicted at all: without any host's history there is nothing to feed it with."""
        return self.model_output is not None and self.model_output.histories.known > 0

    @property
    def source(self) -> str:
        """`champion`, `challenger` or `baseline`."""
        return self.scorer.source if self.scorer and self._serves_model else "baseline"

    @property
    def version(self) -> str:
        """The version of the model whose predictions are served; empty without one."""
        return self.scorer.version if self.scorer and self._serves_model else ""

    def moves(self, at_us: int) -> bool:
        """Whether the model says something else for another second, though no history has changed."""
        return (
            self.scorer is not None
            and self.model_output is not None
            and self._serves_model
            and bool(self.model_output.moved(at_us, self.scorer.form.window_s).size)
        )

    @property
    def _serves_model(self) -> bool:
        return self.by_model and len(self.by_baseline) < len(self.fleet.categories)

    @property
    def cells(self) -> int:
        """How many cells were scored for it."""
        return self.model_output.cells if self.model_output else self.predictions[..., 0].size


def score_fleet(
    fleet: FleetState, scorer: ModelScorer | None, before: Scored | None = None, serving: Serving | None = None
) -> Scored:
    """Scores a fleet; the same fleet is scored the same, whatever was before.

    Features compare hosts with each other, so a new history of one host changes the features of all: they are all
    scored again. While no history changes, the model's last output still holds.

    Args:
        scorer: None: predictions come from fingerprints alone.
        before: an earlier score, whose parts are used again where they still hold.
        serving: who decides which categories the model serves; None: its own training has.
    """
    reference = fleet.baseline()
    baseline, output = reference.filled(), None
    logs, reason = baseline, ""
    by_baseline: tuple[str, ...] = ()
    if scorer is not None:
        output = scorer.output(fleet, before.model_output if before is not None and before.scorer is scorer else None)
        # Of a host without history the model would say the same whatever its class, which the baseline goes by.
        told = np.array([block is not None for block in output.histories.blocks], dtype=bool)
        serving = serving or scorer.bundle.verdict
        # One predictor for all hosts of a category: only what comes from the same can be compared.
        served = serving.by_model(fleet.categories)
        by_baseline = tuple(
            name for name, by_model in zip(fleet.categories, served.tolist(), strict=True) if not by_model
        )
        reason = serving.reason
        chosen = np.isfinite(output.present) & told[:, None, None] & served[None, :, None]
        logs = np.where(chosen, output.present, baseline)
    predictions = np.exp(logs)
    # A p99 is never below the median.
    predictions[..., 2] = np.fmax(predictions[..., 2], predictions[..., 1])
    return Scored(fleet, reference, predictions, scorer, output, baseline, by_baseline, reason)


def sanity_check(new: Floats, old: Floats, max_ratio: float, old_by_model: bool = True) -> str | None:
    """Why predictions are not to be served, or None.

    Args:
        new, old: predictions of the same cells, shape (H, C, 3), throughput, p50 and p99.
        max_ratio: by which the median of new / old may be off 1, up or down.
        old_by_model: False: `old` is the baseline's, whose p99 is not compared. It forecasts the p99 of windows, which
            few requests in a window understate; a model is calibrated to that of all requests.
    """
    known = np.isfinite(old)
    if not known.any():
        return None
    if not np.isfinite(new[known]).all():
        return f"{int((~np.isfinite(new[known])).sum())} of {int(known.sum())} predictions are not finite"
    limits = ((1e-6, 1e9), (1e-7, 3600.0), (1e-7, 3600.0))
    for place, (low, high) in enumerate(limits):
        values = new[..., place][known[..., place]]
        if values.size and not (low <= values.min() and values.max() <= high):
            return f"predictions lie outside {low} to {high}: {values.min():.3g} to {values.max():.3g}"
        if values.size and (old_by_model or place < _P99):
            off = float(np.median(np.abs(np.log(values / old[..., place][known[..., place]]))))
            if off > np.log(max_ratio):
                return f"half of the predictions are off the present ones by a factor of {np.exp(off):.3g} and more"
    return None
