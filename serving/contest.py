"""Holds the contest of champion and baseline of a service while it is served: what is judged, and what is kept."""

import contextlib
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from fingerpost.arrays import Floats
from fingerpost.features.definition import TARGETS
from fingerpost.lake import write_text_atomically
from fingerpost.serving.contender import Contender, Forecast, Outcome
from fingerpost.serving.fleet_state import FleetState
from fingerpost.serving.histories import Histories
from fingerpost.serving.scoring import ModelOutput, ModelScorer, Scored, Serving, score_fleet
from fingerpost.telemetry.history import HISTORY_PLACE

Score = Callable[[FleetState, ModelScorer | None, Scored | None, Serving | None], Scored]
logger = logging.getLogger(__name__)
# The file of a service's contest, beside its models.
CONTEST = "contest.json"
_SAVE_EVERY_S = 60.0
_QUANTITIES = ("throughput_rps", "latency_p50_s")
_LAST = [HISTORY_PLACE[f"{name}_last"] for name in _QUANTITIES]


class LiveContest:
    """Compares the champion of a service with the baseline, window by window, as tables are made.

    Args:
        path: where the state is kept, so that a restart does not serve anew what was found to be worse.
        window_s: length of windows, seconds.
    """

    def __init__(self, path: Path, window_s: float) -> None:
        self._path, self._window_s = path, window_s
        self._scorer: ModelScorer | None = None
        self._held: tuple[Floats, ModelOutput] | None = None
        self._forecast: Forecast | None = None
        self._judged_us = 0
        self._saved_s = -math.inf
        self.contender: Contender | None = None

    def served(
        self, fleet: FleetState, scorer: ModelScorer | None, before: Scored | None, score: Score = score_fleet
    ) -> tuple[Scored, bool]:
        """Scores a fleet as champion and baseline serve it; tells whether another serves something now.

        Args:
            scorer: the champion's; None: there is none.
            before: an earlier score, whose parts are used again where they still hold.
            score: `score_fleet`, or what does it and more.
        """
        contender = self._of(scorer)
        scored = score(fleet, scorer, before, contender)
        changed = self._observe(scored)
        return (score_fleet(fleet, scorer, scored, contender), True) if changed else (scored, False)

    def _of(self, scorer: ModelScorer | None) -> Contender | None:
        """The contest of a model; None: there is no model. That of another begins anew."""
        if scorer is not self._scorer:
            self._scorer, self._held, self._forecast, self._judged_us = scorer, None, None, 0
            self.contender = None
            if scorer is not None:
                self.contender = Contender(scorer.version, scorer.bundle.verdict, self._window_s)
                with contextlib.suppress(OSError):
                    self.contender.resume(self._path.read_bytes())
        return self.contender

    def _observe(self, scored: Scored) -> bool:
        """Takes in a score of the contender's model; tells whether another serves anything now.

        A window is judged when all hosts have told of it, or the first has told of a later one, by what was predicted
        when it began.
        """
        output = scored.model_output
        if self.contender is None or output is None or scored.scorer is not self._scorer:
            return False
        changed, held = False, self._held
        if held is not None and held[1].histories.now_us != output.histories.now_us:
            changed |= self._judge(self.contender, held[1].histories)
            self._forecast = forecast_of(*held)
        self._held = (scored.baseline_logs, output)
        blocks = output.histories.blocks
        if all(block is None or block.as_of_us == output.histories.now_us for block in blocks):
            changed |= self._judge(self.contender, output.histories)
        self._save(self.contender, changed)
        return changed

    def _judge(self, contender: Contender, histories: Histories) -> bool:
        if self._forecast is None or histories.now_us <= self._judged_us:
            return False
        self._judged_us = histories.now_us
        return contender.observe(self._forecast, outcome_of(histories))

    def _save(self, contender: Contender, at_once: bool) -> None:
        now_s = time.monotonic()
        if not at_once and now_s - self._saved_s < _SAVE_EVERY_S:
            return
        self._saved_s = now_s
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_text_atomically(self._path, contender.to_json())
        except OSError as error:
            logger.warning("what is known of champion and baseline is not saved: %s", error)


def forecast_of(baseline_logs: Floats, output: ModelOutput) -> Forecast:
    """Both forecasts of the window that begins where the histories end.

    Args:
        baseline_logs: of TARGETS, shape (H, C, 3), of the same fleet.
    """
    histories = output.histories
    pair = [TARGETS.index(name) for name in _QUANTITIES]
    told = np.array([block is not None for block in histories.blocks], dtype=bool)[:, None, None]
    model = np.where(told, output.logs[..., pair], np.nan).astype(np.float32)
    baseline, last = baseline_logs[..., pair].astype(np.float32), histories.cells[..., _LAST]
    return Forecast(histories.hosts, histories.categories, histories.now_us, model, baseline, last)


def outcome_of(histories: Histories) -> Outcome:
    """What the latest window measured, of the hosts that have told of it."""
    told = [block is not None and block.as_of_us == histories.now_us for block in histories.blocks]
    served = np.array(told, dtype=bool)[:, None] & (histories.cells[..., HISTORY_PLACE["age_s"]] == 0)
    requests = np.where(served, histories.cells[..., HISTORY_PLACE["requests_last"]], 0.0)
    return Outcome(histories.hosts, histories.categories, histories.now_us, histories.cells[..., _LAST], requests)
