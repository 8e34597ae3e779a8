"""Tells gross harm by one arm of an experiment from the requests of the last minutes, as they come.

The verdicts on experiments wait for slots to end, and for the lake. What is told here is so large that neither is
needed: of the arm's newest requests far more are bad than of the other's. Bad is what failed, what its client gave up,
and what took more than three times the other arm's p99.
"""

from dataclasses import dataclass

import numpy as np

from fingerpost.arrays import Bools, Floats, Ints
from fingerpost.clock import US

# A request is bad that took so many times the other arm's p99.
SLOW_TIMES = 3.0
# Requests that are needed of the suspected arm, and of the other to compare it with.
MIN_REQUESTS, _MIN_OTHERS = 20, 100
# By how many times the tolerated rise of errors bad requests must be more, as of gross errors in a verdict.
GROSS_TIMES = 10.0
# Chance of as many bad requests, were the true share twice that of the other arm: at most exp(-this).
_EVIDENCE = np.log(1e6)
# The other arm's bad requests count as at least so many of all.
_LEAST_SHARE = 0.01
# Requests of the suspected arm that ended in the latest of these seconds are judged; of the other, those of minutes.
_RECENT_S, _MEMORY_S = 20.0, 300.0
# Requests that are remembered at most.
_MOST = 50_000
# After a closing, how long the other arm may suffer from what was left to it, and then is looked at, seconds.
SETTLE_S, VERIFY_S = 8.0, 25.0


@dataclass(frozen=True)
class Requests:
    """Requests that ended, arrays of shape (n,).

    Args:
        ended_us: microseconds since 1970.
        duration_s: seconds; NaN where it is not known.
        lost: which failed, or were given up by their client.
        suspected: which the suspected arm routed; the others are the other arm's.
    """

    ended_us: Ints
    duration_s: Floats
    lost: Bools
    suspected: Bools

    @property
    def begun_us(self) -> Ints:
        """When they were sent."""
        return np.asarray(self.ended_us - np.round(np.nan_to_num(self.duration_s) * US).astype(np.int64))

    def where(self, chosen: Bools) -> "Requests":
        """Some of them."""
        return Requests(self.ended_us[chosen], self.duration_s[chosen], self.lost[chosen], self.suspected[chosen])


NONE = Requests(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, bool), np.zeros(0, bool))


class HarmWatch:
    """Remembers the requests of an experiment's last minutes, and judges the suspected arm by them.

    Args:
        tolerated: rise of the error rate that is tolerated, 0..1.
    """

    def __init__(self, tolerated: float) -> None:
        self._gross, self._kept = min(GROSS_TIMES * tolerated, 0.5), NONE

    def add(self, new: Requests) -> None:
        """Adds requests; those of more than five minutes before the latest are forgotten."""
        kept = Requests(
            *(
                np.concatenate([getattr(self._kept, name), getattr(new, name)])
                for name in ("ended_us", "duration_s", "lost", "suspected")
            )
        )
        if not len(kept.ended_us):
            return
        latest = kept.ended_us >= kept.ended_us.max() - round(_MEMORY_S * US)
        if latest.sum() > _MOST:
            latest &= kept.ended_us >= np.partition(kept.ended_us, -_MOST)[-_MOST]
        self._kept = kept.where(latest)

    def harm(self, now_us: int, since_us: int = 0) -> str | None:
        """What gross harm the suspected arm does now, as a sentence; None: none that is certain.

        Args:
            since_us: its requests that were sent before are left out.
        """
        of, other = self._kept.where(self._kept.suspected), self._kept.where(~self._kept.suspected)
        of = of.where((of.ended_us >= now_us - round(_RECENT_S * US)) & (of.begun_us >= since_us))
        if len(of.ended_us) < MIN_REQUESTS or len(other.ended_us) < _MIN_OTHERS:
            return None
        level_s = self._level_s(other)
        before, now = float(_bad(other, level_s).mean()), float(_bad(of, level_s).mean())
        least = max(2 * before, _LEAST_SHARE)
        if now - before < self._gross or len(of.ended_us) * _divergence(now, least) < _EVIDENCE:
            return None
        failed = float(of.lost.mean())
        return (
            f"{now:.0%} of {len(of.ended_us)} requests failed or took more than {SLOW_TIMES:g} times the other "
            f"version's p99, {before:.1%} by the other version; {failed:.0%} failed"
        )

    def refuted(self, closed_us: int, now_us: int) -> bool:
        """Whether the other arm does as badly, `VERIFY_S` after the suspected one was closed: then the harm is not
        the version's."""
        if now_us < closed_us + VERIFY_S * US:
            return False
        other = self._kept.where(~self._kept.suspected)
        begun = other.begun_us
        since = other.where(begun >= closed_us + round(SETTLE_S * US))
        before = other.where(begun < closed_us)
        if len(since.ended_us) < MIN_REQUESTS or not len(before.ended_us):
            return False
        level_s = self._level_s(before)
        rise = _bad(since, level_s).mean() - _bad(before, level_s).mean()
        return bool(rise >= self._gross / 2)

    @staticmethod
    def _level_s(other: Requests) -> float:
        answered = other.duration_s[~other.lost & np.isfinite(other.duration_s)]
        return SLOW_TIMES * float(np.quantile(answered, 0.99)) if len(answered) else np.inf


def _bad(requests: Requests, level_s: float) -> Bools:
    return np.asarray(requests.lost | (requests.duration_s > level_s))


def _divergence(share: float, least: float) -> float:
    """Of Kullback and Leibler, which bounds the chance of a share above its mean (Chernoff, 1952); 0 below it."""
    if share <= least:
        return 0.0
    rest = (1 - share) * np.log((1 - share) / (1 - least)) if share < 1 else 0.0
    return float(share * np.log(share / least) + rest)
