"""A pool that serves language models keeps count of every token, takes the time it says, and routes as the product."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.__main__ import app
from benchmarks.llm import Run, measure_llm, summarise
from fingerpost.errors import FingerpostError
from fingerpost.routing.inflight import work_ahead
from fingerpost.simulator import llm_kernel as kernel
from fingerpost.simulator.llm import CLASSES, POLICIES, Pool, Seen, learn_pool, pool_hosts, run_pool, seen
from fingerpost.simulator.llm_traffic import (
    CATEGORIES,
    MAX_ANSWER,
    MAX_PROMPT,
    Service,
    Traffic,
    drawn_service,
    pool_traffic,
    read_service,
)

FAST, SMALL = CLASSES[0], CLASSES[-1]
SEEN = Seen(requests=9, first_mean_s=1.0, first_p50_s=1.0, first_p99_s=2.0, end_p99_s=9.0, shares=(1.0,))


def traffic(*requests, pickers=1):
    """Requests of (seconds, prompt, answer)."""
    times, prompts, answers = (np.array(column) for column in zip(*requests, strict=True))
    whole = np.zeros(len(times), dtype=np.int64)
    picker = np.arange(len(times)) % pickers
    return Traffic(times.astype(float), prompts.astype(np.int64), answers.astype(np.int64), whole, picker)


def run_alone(host, *requests):
    pool = Pool([host], traffic(*requests), 1, "random", 1)
    pool.step(np.inf)
    return pool.state.requests_f - pool.state.requests_f[:, [kernel.SENT]]


@pytest.mark.parametrize("prompt", [1, 2048, 2049, 7000])
@pytest.mark.parametrize("host", CLASSES)
def test_a_lone_request_takes_the_time_that_the_formula_says(host, prompt):
    answer = 5
    (took,) = run_alone(host, (3.0, prompt, answer))
    steps = -(-prompt // host.budget)
    assert took[kernel.FIRST] == pytest.approx(host.first_token_s(prompt))
    assert took[kernel.FIRST] == pytest.approx(steps * host.step_s + prompt * host.prefill_s)
    # Of every further token, the cache holds the prompt and those before it.
    contexts = sum(prompt + made for made in range(1, answer))
    decoded = (answer - 1) * (host.step_s + host.decode_s) + contexts * host.context_s
    assert took[kernel.END] == pytest.approx(host.first_token_s(prompt) + decoded)


def test_a_batch_slows_all_that_is_in_it_and_prompts_take_what_the_budget_leaves():
    alone = run_alone(FAST, (0.0, 100, 50))
    batched = run_alone(FAST, (0.0, 100, 50), *[(0.0, 100, 50)] * 9)
    assert (batched[:, kernel.END] > alone[0, kernel.END]).all()
    # Ten answers at once are a good deal: far from ten times as long.
    assert batched[:, kernel.END].max() < 2 * alone[0, kernel.END]
    # One that is decoded goes on while a long prompt is read, slower by the prompt's chunks.
    beside = run_alone(FAST, (0.0, 100, 50), (0.05, 7000, 1))
    chunks = 7000 * FAST.prefill_s
    assert beside[0, kernel.END] == pytest.approx(alone[0, kernel.END] + chunks, abs=1e-9)
    assert beside[1, kernel.FIRST] > FAST.first_token_s(7000)


def test_a_full_cache_or_batch_makes_requests_wait_in_order():
    took = run_alone(SMALL, *[(number / 1000, MAX_PROMPT, 100) for number in range(8)])
    first = took[:, kernel.FIRST] + np.arange(8) / 1000
    assert (np.diff(first) > 0).all()
    # Five of 7,537 tokens fit: the sixth is read only once another has ended.
    ends = np.sort(took[:, kernel.END] + np.arange(8) / 1000)
    assert first[5] > ends[0] > first[4]
    narrow = run_alone(replace(FAST, limit=1), (0.0, 10, 10), (0.0, 10, 10))
    assert narrow[1, kernel.FIRST] == pytest.approx(narrow[0, kernel.END] + FAST.first_token_s(10))
    # One that is larger than the cache is served alone rather than never.
    assert np.isfinite(run_alone(replace(FAST, cache=50), (0.0, 100, 5), (0.0, 100, 5))).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_no_request_and_no_token_is_lost(policy):
    coming = pool_traffic(drawn_service(1), 40.0, 20.0, 3, 1)
    pool = run_pool(policy, [FAST, FAST, SMALL, SMALL], coming, 3, 1)
    state = pool.state
    assert sorted(state.ended.tolist()) == list(range(len(coming.time_s)))
    assert (state.requests_i[:, kernel.READ] == coming.prompt).all()
    assert (state.requests_i[:, kernel.MADE] == coming.answer).all()
    assert (state.requests_i[:, kernel.HOST] >= 0).all()
    assert (np.diff(state.requests_f[:, : kernel.END + 1], axis=1) >= 0).all()
    assert not state.hosts_i[:, [kernel.BATCH, kernel.WAITING, kernel.RESERVED, kernel.FILLED, kernel.UNREAD]].any()
    assert not state.views[[kernel.OUT, kernel.UNANSWERED, kernel.TOKENS]].any()


def test_the_cache_never_holds_more_than_is_reserved():
    coming = pool_traffic(drawn_service(2), 20.0, 20.0, 2, 2)
    pool = Pool([FAST, SMALL], coming, 2, "least_request", 2)
    while pool.state.counters[kernel.ENDED] < len(coming.time_s):
        pool.step(pool.now_s + 0.5)
        has, may = pool.state.hosts_i, pool.state.classes_i
        assert (has[:, kernel.FILLED] <= has[:, kernel.RESERVED]).all()
        assert (has[:, kernel.RESERVED] <= may[:, kernel.CACHE]).all()
        assert (has[:, kernel.BATCH] <= may[:, kernel.LIMIT]).all()


@pytest.mark.parametrize("host", CLASSES)
def test_a_saturated_host_serves_what_its_capacity_says(host):
    some = pool_traffic(drawn_service(1), 20.0, 400.0, 1, 1)
    count = min(int(host.capacity_rps(some.prompt, some.answer) * 1000), len(some.time_s))
    prompt, answer = some.prompt[:count], some.answer[:count]
    pool = Pool([host], traffic(*zip(np.zeros(count), prompt, answer, strict=True)), 1, "random", 1)
    pool.step(np.inf)
    # Less than it: at the end few long answers are left.
    assert 0.85 < count / pool.now_s / host.capacity_rps(prompt, answer) < 1.02


def test_drawn_services_are_like_the_trace_that_they_were_fitted_to():
    drawn = [drawn_service(seed) for seed in range(8)]
    prompt = np.concatenate([each.prompt for each in drawn])
    answer = np.concatenate([each.answer for each in drawn])
    # Of Azure's trace of code, 2023: means of 2,048 and 27.9 tokens; these quantiles.
    assert prompt.mean() == pytest.approx(2048, rel=0.1)
    assert np.quantile(prompt, [0.5, 0.75, 0.9]) == pytest.approx([1469, 2744, 5188], rel=0.15)
    assert np.quantile(answer, [0.5, 0.9]) == pytest.approx([13, 55], rel=0.3)
    assert answer.mean() == pytest.approx(27.9, rel=0.25)
    assert np.mean([each.rate_rps for each in drawn]) == pytest.approx(2.57, rel=0.25)
    assert prompt.min() >= 1 and prompt.max() <= MAX_PROMPT and answer.max() <= MAX_ANSWER
    for each in drawn:
        counts = np.bincount((each.time_s // 10).astype(int))
        assert counts.std() / counts.mean() > 1.0


def test_a_pool_meets_the_bursts_of_many_services_at_the_rate_that_is_asked_for():
    service = drawn_service(1)
    whole = pool_traffic(service, 37.0, service.span_s / 1.2, 10, 1)
    assert len(whole.time_s) / (service.span_s / 1.2) == pytest.approx(37.0, rel=0.1)
    assert (np.diff(whole.time_s) >= 0).all()
    assert set(whole.category) <= set(range(CATEGORIES)) and set(whole.picker) == set(range(10))
    talks = whole.category % 2 == 1
    assert talks.mean() == pytest.approx(1 / 3, abs=0.02)
    assert whole.answer[talks].mean() > 5 * whole.answer[~talks].mean()
    same = pool_traffic(service, 37.0, 60.0, 10, 1)
    assert (same.time_s == pool_traffic(service, 37.0, 60.0, 10, 1).time_s).all()


def test_a_trace_is_read_and_a_bad_line_named(tmp_path):
    path = tmp_path / "trace.csv"
    later, sooner = "2023-11-16 18:17:04.0319600,3180,8", "2023-11-16 18:17:03.9799600,99999,0"
    path.write_text(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{later}\n{sooner}\n")
    found = read_service(path)
    assert found.time_s.tolist() == pytest.approx([0.0, 0.052])
    assert (found.prompt.tolist(), found.answer.tolist()) == ([MAX_PROMPT, 3180], [1, 8])
    assert found.rate_rps == pytest.approx(1 / 0.052, rel=1e-3)
    for text, problem in (("a,b,c\n2023-11-16 18:17:04,many,8\n", "line 2"), ("a,b,c\n", "two times")):
        path.write_text(text)
        with pytest.raises(FingerpostError, match=problem):
            read_service(path)


def test_requests_are_counted_until_answers_begin_where_they_are_streamed():
    """A host whose answers are long is as good for the next prompt as an idle one, but for what a batch costs."""
    long_ones = [(0.0, 10, 1500)] * 4
    coming = traffic(*long_ones, *[(3.0 + number, 10, 1) for number in range(20)])
    pool = Pool([FAST, FAST], coming, 1, "streamed", 1)
    cost = np.ones((1, 3, CATEGORIES, 2))
    cost[:, 0], cost[:, 1] = [1.0, 1.5], 0.0
    pool.install(cost, np.zeros(1))
    pool.step(np.inf)
    assert (pool.state.requests_i[4:, kernel.HOST] == 0).all()
    whole = Pool([FAST, FAST], coming, 1, "fingerpost", 1)
    whole.install(cost, np.zeros(1))
    whole.step(np.inf)
    assert (whole.state.requests_i[4:, kernel.HOST] == 1).any()


@pytest.mark.parametrize(("pickers", "ours", "other"), [(1, "streamed", "token_load"), (10, "queued", "streamed")])
def test_ours_brings_the_first_token_sooner_than_the_gateways_rules(pickers, ours, other):
    """One picker sees all requests; ten that know nothing of each other look at queues, as gateways do."""
    coming = pool_traffic(drawn_service(1), 55.0, 150.0, pickers, 1)
    hosts = pool_hosts()
    p99 = {
        policy: seen(run_pool(policy, hosts, coming, pickers, 1), 60.0).first_p99_s
        for policy in ("queue_and_cache", "known", other, ours)
    }
    assert p99["known"] < p99[ours] < 0.8 * min(p99["queue_and_cache"], p99[other])


def test_a_picker_that_looks_at_queues_counts_the_work_ahead_as_the_endpoint_picker_does():
    count, picker = 5, 0
    pool = Pool([FAST] * count, traffic((1.0, 10, 1)), 1, "queued", 1)
    rng, views = np.random.default_rng(4), pool.state.views
    for _ in range(200):
        own, queued, since = rng.integers(0, 4, (3, count)).astype(np.float64)
        own_s, cost = own * rng.uniform(0.1, 1, count), rng.uniform(0.1, 1, (3, count))
        for plane, values in (
            *((kernel.UNANSWERED, own), (kernel.AHEAD, own_s), (kernel.QUEUE, queued)), (kernel.SINCE, since)
        ):  # fmt: skip
            views[plane, picker] = values
        expected = work_ahead(own, own_s, queued, since, cost[0]) + cost[0] + cost[1]
        assert kernel.choose(pool.state, kernel.QUEUED, cost, picker, 0, 0.0) == np.argmin(expected)


def test_a_model_learns_from_a_past_of_the_pool_and_serves_it():
    hosts = [FAST, FAST, SMALL, SMALL]
    model = learn_pool(hosts, pool_traffic(drawn_service(1), 4.0, 400.0, 1, 9), 9)
    coming = pool_traffic(drawn_service(1), 4.0, 60.0, 1, 1)
    by_model, by_baseline = (run_pool("streamed", hosts, coming, 1, 1, bundle).state for bundle in (model, None))
    assert by_model.counters[kernel.ENDED] == len(coming.time_s)
    assert (by_model.requests_i[:, kernel.HOST] != by_baseline.requests_i[:, kernel.HOST]).any()


def test_ratios_are_to_the_best_heuristic_over_all_seeds():
    base = Run("streamed", 0.8, 1, 1, SEEN)
    found = [
        base,
        Run("token_load", 0.8, 1, 1, replace(SEEN, first_p99_s=3.0)),
        Run("token_load", 0.8, 1, 2, replace(SEEN, first_p99_s=7.0)),
        Run("queue_and_cache", 0.8, 1, 1, replace(SEEN, first_p99_s=4.0)),
        Run("known", 0.8, 1, 1, replace(SEEN, first_p99_s=1.0)),
    ]
    (row,) = summarise(found)
    assert (row["best"], row["streamed_ratio"], row["token_load_first_p99_s"]) == ("queue_and_cache", 0.5, 5.0)
    with pytest.raises(FingerpostError, match="nobody"):
        measure_llm([0.6], [1], [1], ["nobody"], None, print)


def test_a_trace_stands_for_many_services():
    service = Service(np.array([0.0, 1.0]), np.array([10, 20]), np.array([3, 4]), 2.0)
    found = pool_traffic(service, 5.0, 4.0, 1, 1)
    assert len(found.time_s) == pytest.approx(20, abs=3)
    assert set(found.prompt) == {10, 20}


def test_the_command_tells_each_run_and_what_they_come_to():
    options = ["--loads", "0.3", "--pickers", "2", "--seeds", "1", "--policies", "token_load,known", "--json"]
    found = CliRunner().invoke(app, ["llm", *options], catch_exceptions=False)
    assert found.exit_code == 0
    told = json.loads(found.stdout)
    assert [run["policy"] for run in told["runs"]] == ["token_load", "known"]
    (row,) = told["rows"]
    assert (row["load"], row["pickers"], row["best"]) == (0.3, 2, "token_load")
    assert row["known_first_p99_s"] < row["token_load_first_p99_s"]
