"""Makes requests to language models: when they come, how long their prompts and answers are, and who sends them."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.errors import FingerpostError
from fingerpost.simulator.arrivals import trace_rows

# Categories: prompts of fewer tokens than each of these, and the rest, for each of two models.
PROMPT_BUCKETS = (256, 1024, 2048, 4096)
MODELS = 2
CATEGORIES = (len(PROMPT_BUCKETS) + 1) * MODELS
# The second model converses: a third of the requests, with answers ten times as long. Conversations have a median of
# 129 tokens where code has 13 (Patel et al., Splitwise, ISCA 2024, of the same provider's two services).
TALKING_SHARE, TALKING = 1 / 3, 10
MAX_PROMPT, MAX_ANSWER = 7437, 1899
# One service of the generator: see `drawn_service`.
_SERVICE_S, _BURST_GAP_S = 3435.0, 0.092
_BURST_REQUESTS_LOG, _PAUSE_LOG_S = (3.30, 1.30), (1.71, 1.47)
_PROMPT_LOG, _ANSWER_SHORT, _ANSWER_LONG = (7.40, 0.75), 8.0, 85.0
_FULL_SHARE, _BRIEF_SHARE, _LONG_SHARE = 0.05, 0.16, 0.18


@dataclass(frozen=True)
class Service:
    """Requests of one service over `span_s` seconds, in order of time; arrays of one length."""

    time_s: Floats
    prompt: Ints
    answer: Ints
    span_s: float

    @property
    def rate_rps(self) -> float:
        """Requests a second, bursts and pauses together."""
        return len(self.time_s) / self.span_s


@dataclass(frozen=True)
class Traffic:
    """Requests to a pool in order of time; arrays of one length.

    Attributes:
        time_s: seconds from the start of the run.
        prompt, answer: tokens.
        category: prompt's bucket and model.
    """

    time_s: Floats
    prompt: Ints
    answer: Ints
    category: Ints
    picker: Ints


def read_service(path: Path) -> Service:
    """Reads `TIMESTAMP,ContextTokens,GeneratedTokens` lines, as Azure publishes traces of language models.

    Raises:
        FingerpostError: the file cannot be used; the message names it and the line.
    """
    rows: list[tuple[float, int, int]] = []
    for number, moment_s, row in trace_rows(path):
        try:
            rows.append((moment_s, int(row[1]), int(row[2])))
        except (ValueError, IndexError):
            raise FingerpostError(f"{path}: line {number}: not a time and two counts of tokens: {row!r:.80}") from None
    rows.sort()
    if len(rows) < 2 or rows[-1][0] <= rows[0][0]:
        raise FingerpostError(f"{path}: needs a header and requests at two times at least")
    times, prompts, answers = (np.array(column) for column in zip(*rows, strict=True))
    span_s = (times[-1] - times[0]) * len(rows) / (len(rows) - 1)
    return Service(times - times[0], np.clip(prompts, 1, MAX_PROMPT), np.clip(answers, 1, MAX_ANSWER), float(span_s))


def drawn_service(seed: int) -> Service:
    """Draws a service of an hour like the code service of Azure's trace of 2023 (8,819 requests in 57 minutes).

    Bursts of lognormal size with exponential gaps, and lognormal pauses between them: fitted to the trace cut at gaps
    above 1 s (140 bursts of 63 requests, gaps within of 0.092 s, pauses of a median of 5.5 s). Prompts: 16% are brief,
    log-uniform to 300 tokens, 5% have the most there may be, the others are lognormal. Answers: 6 tokens and an
    exponential of a mean of 8, or for 18% of them of 85. Tests hold means and quantiles to the trace's.
    """
    rng = np.random.default_rng([seed, 21])
    gaps: list[Floats] = []
    passed_s = 0.0
    while passed_s < _SERVICE_S:
        size = 1 + int(rng.lognormal(*_BURST_REQUESTS_LOG))
        burst = rng.exponential(_BURST_GAP_S, size)
        burst[0] = 1.0 + rng.lognormal(*_PAUSE_LOG_S)
        gaps.append(burst)
        passed_s += float(burst.sum())
    times = np.cumsum(np.concatenate(gaps))
    times = times[times < _SERVICE_S]
    count = len(times)
    kind = rng.random(count)
    prompt = rng.lognormal(*_PROMPT_LOG, count)
    prompt = np.where(kind < _BRIEF_SHARE, np.exp(rng.uniform(np.log(3), np.log(300), count)), prompt)
    prompt = np.where(kind > 1 - _FULL_SHARE, MAX_PROMPT, prompt)
    mean = np.where(rng.random(count) < _LONG_SHARE, _ANSWER_LONG, _ANSWER_SHORT)
    answer = 6 + rng.exponential(1.0, count) * mean
    return Service(
        times,
        np.clip(prompt, 1, MAX_PROMPT).astype(np.int64),
        np.clip(answer, 1, MAX_ANSWER).astype(np.int64),
        _SERVICE_S,
    )


def pool_traffic(service: Service, rate_rps: float, seconds: float, pickers: int, seed: int) -> Traffic:
    """Requests of as many such services as make up the rate, each begun at a place of its own, at its own pace.

    So a pool meets the bursts of many: nothing is stretched but the pace, by the same small factor for all, which makes
    the rate exact.
    """
    rng = np.random.default_rng([seed, 22])
    services = max(round(rate_rps / service.rate_rps), 1)
    pace = rate_rps / (services * service.rate_rps)
    times, chosen = [], []
    round_s = service.span_s / pace
    for begin_s in rng.random(services) * round_s:
        at_s = (service.time_s / pace - begin_s) % round_s
        for again in range(math.ceil(seconds / round_s)):
            taken = np.flatnonzero(at_s + again * round_s < seconds)
            times.append(at_s[taken] + again * round_s)
            chosen.append(taken)
    place, time_s = np.concatenate(chosen), np.concatenate(times)
    order = np.argsort(time_s, kind="stable")
    place, count = place[order], len(order)
    model = (rng.random(count) < TALKING_SHARE).astype(np.int64)
    prompt = service.prompt[place]
    answer = np.minimum(service.answer[place] * np.where(model > 0, TALKING, 1), MAX_ANSWER)
    bucket = np.searchsorted(PROMPT_BUCKETS, prompt, side="right")
    return Traffic(time_s[order], prompt, answer, bucket * MODELS + model, rng.integers(0, pickers, count))
