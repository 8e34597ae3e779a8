"""The off-policy estimate of the challenger, from the lake."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fingerpost.abtest.offpolicy.estimate import OffPolicy, capped_cost, evaluate_policy
from fingerpost.abtest.offpolicy.target_policy import replayed_choices
from fingerpost.abtest.results import BETTER, NO_DIFFERENCE, WORSE, ComparisonResult
from fingerpost.errors import NoDataError
from fingerpost.experiment import ALIASES
from fingerpost.features.build import with_categories
from fingerpost.features.windows import CATEGORY_COLUMNS, numbers, record_weights
from fingerpost.lake import FILE, PREDICTIONS, read_frame
from fingerpost.request_status import failed
from fingerpost.settings import Settings

_MAX_RECORDS = 300_000
_PREDICTED = ("version", "throughput_rps", "latency_p50_s")
_PREDICTION_COLUMNS = ("time", "host", "category", FILE, *(f"{side}_{name}" for side in ALIASES for name in _PREDICTED))
_RECORD_COLUMNS = ("time", "host", "status", "duration_s", "propensity", "weight", *CATEGORY_COLUMNS)
_CAP_QUANTILE = 0.999
# Below this the log does not show what the router knew: several proxies, or tables that changed in between.
MIN_REPLAY = 0.9
MAX_WEIGHT_ERROR = 0.1


@dataclass(frozen=True)
class ChallengerOffPolicy:
    """What routing by the challenger would have cost.

    Args:
        estimate: mean latency, seconds, up to `cap_s`.
        replay: mean probability with which the champion, replayed in the same way, takes the host that was taken: how
            well the replay knows what the router knew.
        versions: of champion and challenger.
    """

    estimate: OffPolicy
    cap_s: float
    replay: float
    versions: tuple[str, str]

    @property
    def unreliable(self) -> str | None:
        """Why the estimate decides nothing; None: it may."""
        if not self.estimate.usable:
            return self.estimate.reason
        if self.replay < MIN_REPLAY:
            return f"the champion, replayed, agrees with its own choices in {self.replay:.2f}, {MIN_REPLAY:g} is needed"
        if abs(self.estimate.mean_weight - 1) > MAX_WEIGHT_ERROR:
            return (
                f"the mean weight is {self.estimate.mean_weight:.2f}, not 1: what the challenger takes is not explored"
            )
        return None

    def to_json(self) -> dict[str, Any]:
        """The plain values; numbers that are not finite are None."""
        about = {"champion": self.versions[0], "challenger": self.versions[1]}
        return {**about, "cap_s": self.cap_s, "replay": self.replay, **self.estimate.to_json()}

    def result(self) -> ComparisonResult | None:
        """The result that is logged, and read by the promotion's gates; None where nothing can be relied on."""
        gain = self.estimate.gain
        if self.unreliable is not None or gain is None:
            return None
        verdict = BETTER if gain.high < 0 else WORSE if gain.low > 0 else NO_DIFFERENCE
        about = {"verdict": verdict, "samples": int(self.estimate.effective)}
        return ComparisonResult.read({**self.to_json(), **about, "reason": f"mean latency by {gain.value:+.4f} s"})


def challenger_off_policy(settings: Settings, from_us: int, to_us: int) -> ChallengerOffPolicy:
    """Reads records and predictions of a span of time; the latest 300,000 records that a policy chose hosts for.

    Raises:
        NoDataError: there are no predictions of a challenger, or no requests with a propensity.
    """
    lake, service = settings.lake, settings.service
    predictions = read_frame(lake, PREDICTIONS, service, from_us, to_us, _PREDICTION_COLUMNS)
    if predictions.empty:
        raise NoDataError(f"no predictions of champion and challenger in {lake / PREDICTIONS}: is there a challenger?")
    last = predictions.iloc[-1]
    versions = (str(last["champion_version"]), str(last["challenger_version"]))
    same = (predictions["champion_version"] == versions[0]) & (predictions["challenger_version"] == versions[1])
    records = read_frame(lake, "requests", service, from_us, to_us, _RECORD_COLUMNS)
    records = with_categories(records.tail(_MAX_RECORDS).reset_index(drop=True), lake, service)
    propensity = numbers(records["propensity"])
    if not (propensity > 0).any():
        raise NoDataError(
            "no request has a propensity: only those that the native picker, or `random`, routed have one"
        )
    duration = numbers(records["duration_s"])
    cap_s = float(np.nanquantile(duration, _CAP_QUANTILE)) if np.isfinite(duration).any() else 1.0
    cost = capped_cost(duration, failed(records["status"].to_numpy(np.int64)), cap_s)
    max_age_s = 3 * settings.shadow_every_s
    choices = {side: replayed_choices(records, predictions[same], side, settings, max_age_s) for side in ALIASES}
    hosts = {name: place for place, name in enumerate(choices["challenger"].hosts)}
    taken = records["host"].map(hosts).to_numpy(np.int64)
    category = np.unique(records["category"].to_numpy(dtype=str), return_inverse=True)[1]
    weight = record_weights(records)
    target = choices["challenger"].probability
    replayed = choices["champion"].probability
    estimate = evaluate_policy(
        records["time_us"], category, taken, cost, propensity, target, stands_for=weight, reference=replayed
    )
    likely = replayed[np.arange(len(taken)), taken]
    known = np.isfinite(likely) & (propensity > 0)
    replay = float(np.average(likely[known], weights=weight[known])) if known.any() else 0.0
    return ChallengerOffPolicy(estimate, cap_s, replay, versions)
