"""A pool of unlike accelerators that serve language models: capacity, runs under each rule, and what clients saw.

Ours is the product's own code (`fingerpost.simulator.control`): agents read a log of whole requests, the baseline
forecasts from their windows, and the guard and the cost are those that serve.

- `fingerpost`: the native picker; it counts requests until they end, and hosts tell theirs with the first token;
- `streamed`: the endpoint picker with `--streamed`, which counts requests until their answers begin;
- `queued`: the same with `--queue-metric`, which also looks at hosts' queues every 250 ms.

Peers are the scorers of the inference gateways with their default weights. The prefix cache scorer is left out: no
prompt here repeats another, so it would give all hosts the same.

- `queue_and_cache`: Gateway API inference extension, the default of its endpoint picker: `queue-scorer`, weight 2,
  `(longest - queue) / (longest - shortest)`; `kv-cache-utilization-scorer`, weight 2, `1 - use`; `max-score-picker`,
  ties at random; metrics scraped every 50 ms;
- `token_load`: llm-d router, `token-load-scorer`: the fewest prompt tokens of requests whose answer has not begun, of
  those that the picker itself sent (`inflight-load-producer`);
- `active_request`: llm-d router, `active-request-scorer`: the fewest requests in flight, of those it sent;
- `least_request`: Envoy's, the lesser of two drawn hosts; `random`.

`known` is no rule that exists: it takes the host with the earliest first token, knowing all there is on every host now.
The network takes no time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fingerpost.arrays import Floats, Ints
from fingerpost.simulator import llm_kernel as kernel
from fingerpost.simulator.control import Control
from fingerpost.simulator.llm_traffic import CATEGORIES, Traffic
from fingerpost.simulator.scenario import ClassFleet, Scenario, Telemetry
from fingerpost.simulator.served import Served, fit, training_rows
from fingerpost.simulator.simulation import Chunk, HostSamples, Records
from fingerpost.simulator.telemetry import Telemetry as WindowTelemetry
from fingerpost.telemetry.windows import Arrays

if TYPE_CHECKING:
    from fingerpost.training.bundle import ModelBundle

POLICIES = {
    "random": kernel.RANDOM,
    "least_request": kernel.LEAST_REQUEST,
    "active_request": kernel.ACTIVE_REQUEST,
    "token_load": kernel.TOKEN_LOAD,
    "queue_and_cache": kernel.QUEUE_AND_CACHE,
    "known": kernel.KNOWN,
    "fingerpost": kernel.FINGERPOST,
    "streamed": kernel.STREAMED,
    "queued": kernel.QUEUED,
}
HEURISTICS = ("random", "least_request", "active_request", "token_load", "queue_and_cache")
OURS = ("fingerpost", "streamed", "queued")
# How often gateways look at queues by default, and our endpoint picker.
SCRAPE_S, LOOK_S = 0.05, 0.25


@dataclass(frozen=True)
class Accelerator:
    """A class of hosts.

    Attributes:
        step_s: of a step by itself: the weights are read once.
        prefill_s, decode_s, context_s: added by a prompt token, by a request that is decoded, and by each of its tokens
            in the cache.
        cache: tokens that the key-value cache holds.
        limit: requests in a batch.
        budget: tokens in a step.
    """

    step_s: float
    prefill_s: float
    decode_s: float
    context_s: float
    cache: int
    limit: int = 256
    budget: int = 2048

    def first_token_s(self, prompt: int) -> float:
        """Seconds to the first token of a request that is alone."""
        return -(-prompt // self.budget) * self.step_s + prompt * self.prefill_s

    def capacity_rps(self, prompt: Ints, answer: Ints) -> float:
        """Requests a second of such a mix with the batch as large as the cache and the limit allow.

        A request takes its prompt tokens * prefill, its answer tokens * (decode + context tokens * context), and its
        part of the steps: one for each token of its answer, shared by all that are decoded at once, or one for each
        budget full of tokens, whichever is more.

        Args:
            prompt, answer: tokens of a sample of requests, shape (n,).
        """
        read, made = float(np.mean(prompt)), float(np.mean(answer))
        # Tokens there are while answers are made: long answers stay longer.
        context = float(np.mean((prompt + answer / 2) * answer) / made)
        batch = min(self.limit, self.cache / float(np.mean((prompt + answer) * answer) / made))
        steps = max(made / batch, (read + made) / self.budget)
        return 1 / (steps * self.step_s + made * (self.decode_s + self.context_s * context) + read * self.prefill_s)


# Made, in the proportions of four generations: memory bandwidths of 3.3, 2, 0.9 and 0.3 TB/s, and 16-bit arithmetic in
# practice of 300, 130, 100 and 30 Tflop/s, for a model of 8 billion parameters of 16 bits (128 KB a token cached).
CLASSES = (
    Accelerator(0.008, 55e-6, 60e-6, 0.04e-6, 400_000),
    Accelerator(0.012, 125e-6, 100e-6, 0.065e-6, 400_000),
    Accelerator(0.023, 165e-6, 150e-6, 0.15e-6, 200_000),
    Accelerator(0.060, 530e-6, 400e-6, 0.43e-6, 40_000),
)
POOL = (4, 8, 12, 8)


@dataclass(frozen=True)
class Seen:
    """What clients saw of the requests sent after the warm-up, seconds.

    Attributes:
        first_p99_s: to the first token; `end_p99_s`: to the last.
        shares: of the prompt tokens that each class read.
    """

    requests: int
    first_mean_s: float
    first_p50_s: float
    first_p99_s: float
    end_p99_s: float
    shares: tuple[float, ...]


class Pool:
    """A run in progress.

    Args:
        hosts: as they are, shape (H,).
        traffic: all that will come.
    """

    def __init__(self, hosts: list[Accelerator], traffic: Traffic, pickers: int, policy: str, seed: int) -> None:
        count, requests = len(hosts), len(traffic.time_s)
        floats = np.full((requests, 4), np.nan)
        floats[:, kernel.SENT] = traffic.time_s
        ints = np.zeros((requests, 11), dtype=np.int64)
        for column, name in ((kernel.PROMPT, "prompt"), (kernel.ANSWER, "answer")):
            ints[:, column] = getattr(traffic, name)
        ints[:, kernel.CATEGORY], ints[:, kernel.PICKER] = traffic.category, traffic.picker
        ints[:, [kernel.HOST, kernel.NEXT]] = -1
        self._scrape_s = LOOK_S if policy == "queued" else SCRAPE_S
        of_pickers = np.zeros((pickers, 2))
        of_pickers[:, kernel.SCRAPE_AT] = np.arange(pickers) / pickers * self._scrape_s
        self.state = kernel.State(
            ints,
            floats,
            np.zeros((count, 8), dtype=np.int64),
            np.full(count, np.inf),
            np.zeros((count, max(host.limit for host in hosts)), dtype=np.int64),
            np.array([[host.step_s, host.prefill_s, host.decode_s, host.context_s] for host in hosts]),
            np.array([[host.cache, host.limit, host.budget] for host in hosts], dtype=np.int64),
            np.zeros((10, pickers, count)),
            of_pickers,
            np.zeros(requests, dtype=np.int64),
            np.ones(count, dtype=np.int64),
            np.zeros(2, dtype=np.int64),
            np.array([np.random.default_rng([seed, 23]).integers(1, 2**62)], dtype=np.int64),
        )
        self._policy, self._cost, self._exploration = POLICIES[policy], np.zeros((1, 3, CATEGORIES, count)), np.zeros(1)
        self._cost[:, [0, 2]] = 1.0
        self.now_s = 0.0

    def install(self, costs: Floats, exploration: Floats) -> None:
        """Pickers use these costs from now on; see `fingerpost.simulator.simulation.Simulation.install`."""
        self._cost, self._exploration = np.ascontiguousarray(costs), np.ascontiguousarray(exploration)

    def step(self, end_s: float) -> Chunk:
        """Runs to `end_s`; infinite: until every request has its last token."""
        state, begin_s, before = self.state, self.now_s, int(self.state.counters[kernel.ENDED])
        kernel.advance(state, end_s, self._policy, self._cost, self._exploration, self._scrape_s)
        ended = state.ended[before : int(state.counters[kernel.ENDED])]
        floats, ints = state.requests_f[ended], state.requests_i[ended]
        self.now_s = end_s if np.isfinite(end_s) else float(floats[:, kernel.END].max(initial=begin_s))
        took = floats[:, kernel.END] - floats[:, kernel.SENT]
        records = Records(
            sent_s=floats[:, kernel.SENT],
            time_s=floats[:, kernel.END],
            service_time_s=took,
            host=ints[:, kernel.HOST],
            category=ints[:, kernel.CATEGORY],
            picker=ints[:, kernel.PICKER],
            inflight=ints[:, kernel.FOUND],
            error=np.zeros(len(ended), dtype=np.bool_),
            explored=ints[:, kernel.EXPLORED] > 0,
        )
        return Chunk(begin_s, self.now_s, records, self._samples())

    def _samples(self) -> HostSamples:
        has = self.state.hosts_i
        unknown = np.full(len(has), np.nan)
        inflight = has[:, kernel.BATCH] + has[:, kernel.WAITING]
        up, beside = np.ones(len(has), dtype=np.bool_), np.zeros((len(has), CATEGORIES), dtype=np.int64)
        # A batch's limit is no number of free places: each request in it slows the others.
        return HostSamples(unknown, inflight, unknown, unknown, up, np.ones(len(has)), unknown, up < 0, beside)


def pool_hosts() -> list[Accelerator]:
    """The hosts of the pool, class by class."""
    return [accelerator for accelerator, count in zip(CLASSES, POOL, strict=True) for _ in range(count)]


def pool_scenario(hosts: int, hosts_tell: bool) -> Scenario:
    """Settings as shipped, of a service known by its log alone, or also by requests in flight if `hosts_tell`."""
    return Scenario(
        name="llm",
        fleet=ClassFleet(kind="classes", hosts=hosts, classes=1, categories=CATEGORIES),
        telemetry=Telemetry(hosts_tell=hosts_tell, cpu="unknown"),
    )


def run_pool(
    policy: str,
    hosts: list[Accelerator],
    traffic: Traffic,
    pickers: int,
    seed: int,
    bundle: "ModelBundle | None" = None,
    watch: Callable[[Chunk], None] | None = None,
) -> Pool:
    """Runs one of `POLICIES` until every request has its last token.

    Args:
        bundle: the model that predicts for ours; None: the baseline.
        watch: called with what every span of ours emitted.
    """
    pool = Pool(hosts, traffic, pickers, policy, seed)
    if policy in OURS:
        scenario = pool_scenario(len(hosts), policy == "fingerpost")
        control, look_s, steps = Control(scenario, Served(scenario, seed, bundle), pickers), scenario.picker.look_s, 0
        while pool.now_s < traffic.time_s[-1]:
            if (costs := control.costs(pool.now_s)) is not None:
                pool.install(costs, control.exploration)
            steps += 1
            chunk = pool.step(steps * look_s)
            control.observe(chunk)
            if watch is not None:
                watch(chunk)
    pool.step(np.inf)
    return pool


def learn_pool(hosts: list[Accelerator], past: Traffic, seed: int) -> "ModelBundle":
    """Trains a model on the windows of a past in which the baseline served.

    Raises:
        NoDataError: too few requests to learn from.
    """
    scenario = pool_scenario(len(hosts), hosts_tell=False)
    telemetry, parts = WindowTelemetry(scenario), list[tuple[Arrays, Arrays]]()

    def watch(chunk: Chunk) -> None:
        if (ended := telemetry.closed(chunk)) is not None:
            parts.append(ended)

    run_pool("streamed", hosts, past, 1, seed, watch=watch)
    return fit(training_rows(scenario, parts), scenario.telemetry.window_s)


def pool_capacity_rps(hosts: list[Accelerator], prompt: Ints, answer: Ints) -> float:
    """Requests a second of such a mix that the pool can serve: the sum over its hosts."""
    return sum(host.capacity_rps(prompt, answer) for host in hosts)


def seen(pool: Pool, warmup_s: float) -> Seen:
    """What clients saw of a run that has ended."""
    floats, ints = pool.state.requests_f, pool.state.requests_i
    of = floats[:, kernel.SENT] >= warmup_s
    first, end = (floats[of, column] - floats[of, kernel.SENT] for column in (kernel.FIRST, kernel.END))
    kinds = np.repeat(np.arange(len(POOL)), POOL)
    tokens = np.bincount(kinds[ints[of, kernel.HOST]], ints[of, kernel.PROMPT], len(POOL))
    return Seen(
        requests=int(of.sum()),
        first_mean_s=float(first.mean()),
        first_p50_s=float(np.quantile(first, 0.5)),
        first_p99_s=float(np.quantile(first, 0.99)),
        end_p99_s=float(np.quantile(end, 0.99)),
        shares=tuple((tokens / tokens.sum()).tolist()),
    )
