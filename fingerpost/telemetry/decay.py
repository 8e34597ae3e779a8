"""Forward decay: sums whose old parts weigh less, without touching them as time goes by."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Weights grow as 2**(time / halflife) until the state is brought back to now; far from overflow, and rarely done.
_MAX_HALFLIVES = 64.0


class ForwardDecay:
    """Weights of observations by their time: 2**((time - landmark) / halflife).

    Sums of so weighted observations, divided by the weight of the present, are exponentially weighted by age, whatever
    the order the observations came in. (Cormode, Shkapenyuk, Srivastava and Xu, Forward decay, 2009.)

    Args:
        halflife_s: age at which an observation weighs half, seconds.
        began_s: the landmark, and since when there has been something to observe, seconds of any one clock.
    """

    def __init__(self, halflife_s: float, began_s: float) -> None:
        self._halflife_s = halflife_s
        self._began_s = began_s
        self._landmark_s = began_s

    def weight(self, time_s: ArrayLike) -> NDArray[np.float64]:
        """Weights of times, same shape."""
        return np.exp2((np.asarray(time_s, dtype=np.float64) - self._landmark_s) / self._halflife_s)

    def rescaling(self, now_s: float) -> float | None:
        """What all sums must be multiplied by to stay in range, or None; from then on the landmark is `now_s`."""
        halflives = (now_s - self._landmark_s) / self._halflife_s
        if halflives < _MAX_HALFLIVES:
            return None
        self._landmark_s = now_s
        return float(np.exp2(-halflives))

    def per_second(self, now_s: float) -> float:
        """Turns a decayed count (weights divided by the present's) into a rate, also shortly after the beginning."""
        elapsed = max(now_s - self._began_s, 1e-3)
        return float(np.log(2) / self._halflife_s / -np.expm1(-np.log(2) * elapsed / self._halflife_s))
