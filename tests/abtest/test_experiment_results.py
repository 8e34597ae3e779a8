"""Experiments from request records to the verdict: effects, guardrails, routers that do not follow, and none at all."""

import json
import math

import numpy as np
import pytest

from fingerpost.abtest.experiment.guardrails import Rules
from fingerpost.abtest.experiment.pairs import block_pairs, paired_differences, switchback_pairs
from fingerpost.abtest.experiment.power import pilot_differences, plan
from fingerpost.abtest.experiment.verdict import judge
from fingerpost.abtest.reports import differences, latencies, verdict_markdown
from fingerpost.clock import US
from fingerpost.errors import NoDataError
from tests.support.experiment_records import BEGIN, made_experiment, made_records

RULES = Rules()


def verdict_of(experiment, records, until_us=None, rules=RULES):
    until = experiment.end_us if until_us is None else until_us
    pairs = switchback_pairs(records, experiment, until)
    return judge(pairs, rules, experiment.pairs, over=until >= experiment.end_us)


def test_slots_become_pairs_with_what_was_sent_in_them():
    experiment = made_experiment(pairs=5)
    records = made_records(experiment, seed=1)
    pairs = switchback_pairs(records, experiment, experiment.end_us)
    assert len(pairs) == 5
    assert pairs.skipped == {}
    begun = records["time_us"] - np.round(records["duration_s"] * US).astype(np.int64)
    for pair in range(5):
        for second in (0, 1):
            slot = 2 * pair + second
            low = experiment.slot_begin_us(slot) + 4 * US
            inside = records[(begun >= low) & (begun < experiment.slot_begin_us(slot + 1))]
            side = 1 if experiment.arm_of(slot) == "challenger" else 0
            assert pairs.requests[pair, side] == len(inside)
            for metric, share in (("latency_p50_s", 0.5), ("latency_p99_s", 0.99)):
                assert pairs.values[metric][pair, side] == pytest.approx(inside["duration_s"].quantile(share))
            assert pairs.values["latency_mean_s"][pair, side] == pytest.approx(inside["duration_s"].mean())
            assert pairs.values["throughput_rps"][pair, side] == pytest.approx(len(inside) / 16)


def test_only_pairs_that_are_over_count():
    experiment = made_experiment(pairs=10)
    records = made_records(experiment)
    assert len(switchback_pairs(records, experiment, experiment.slot_begin_us(5))) == 2
    assert len(switchback_pairs(records, experiment, BEGIN - 1)) == 0
    assert len(switchback_pairs(records.head(0), experiment, BEGIN)) == 0


def test_pairs_that_the_router_did_not_follow_do_not_count():
    experiment = made_experiment(pairs=10)
    records = made_records(experiment)
    begun = records["time_us"] - np.round(records["duration_s"] * US).astype(np.int64)
    away = (begun >= experiment.slot_begin_us(4)) & (begun < experiment.slot_begin_us(8))
    pairs = switchback_pairs(records.assign(arm=records["arm"].mask(away, "champion")), experiment, experiment.end_us)
    assert pairs.skipped == {"not followed": 2}
    assert pairs.misrouted > 0
    few = switchback_pairs(records[~away], experiment, experiment.end_us)
    assert few.skipped == {"too few requests": 2}


@pytest.mark.parametrize(
    ("share", "words"),
    [(1.0, "no request's record tells which arm routed it; only Envoy's log does"), (0.6, "requests' records do not")],
)
def test_records_that_tell_no_arm_are_the_reason_that_no_pair_counts(share, words):
    experiment = made_experiment(pairs=12)
    records = made_records(experiment)
    unknown = np.random.default_rng(1).random(len(records)) < share
    blind = records.assign(arm=records["arm"].astype(object).mask(unknown, None))
    for until_us in (experiment.slot_begin_us(6), experiment.end_us):
        found = verdict_of(experiment, blind, until_us)
        assert (found.verdict, found.pairs) == ("undecided", 0)
        assert words in found.reason
    assert found.reason.startswith("only 0 pairs can be used of at least 10: ")
    assert words in verdict_markdown(found)


def test_a_few_records_without_arm_are_no_reason():
    experiment = made_experiment(pairs=12)
    records = made_records(experiment)
    some = records.assign(arm=records["arm"].astype(object).mask(records.index % 50 == 0, None))
    found = verdict_of(experiment, some, experiment.slot_begin_us(6))
    assert found.pairs == 3
    assert "arm" not in found.reason


@pytest.mark.parametrize(("effect", "verdict"), [(-0.25, "better"), (0.3, "worse")])
def test_a_true_effect_is_found_and_measured(effect, verdict):
    experiment = made_experiment(pairs=60)
    found = verdict_of(experiment, made_records(experiment, effect, seed=2))
    assert (found.verdict, found.rule) == (verdict, "latency")
    assert RULES.min_pairs <= found.decided_at < 60
    mean = found.effects["latency_mean_s"]
    assert mean.low < 1 + effect < mean.high
    assert mean.low < mean.estimate < mean.high
    assert found.effects["throughput_rps"].low < 1 < found.effects["throughput_rps"].high


def test_what_was_decided_stays_decided():
    experiment = made_experiment(pairs=60)
    records = made_records(experiment, -0.25, seed=2)
    last = verdict_of(experiment, records)
    for pair in (1, 5, 9, *range(last.decided_at - 2, last.decided_at + 3), 40, 59):
        seen = verdict_of(experiment, records, experiment.slot_begin_us(2 * pair))
        assert seen.verdict == ("undecided" if pair < last.decided_at else "better")


@pytest.mark.process
def test_experiments_without_effect_are_rarely_called_however_often_one_looks():
    called = 0
    for seed in range(40):
        experiment = made_experiment(pairs=25, slot_s=5.0, washout_s=1.0, name=f"x{seed}")
        found = verdict_of(
            experiment, made_records(experiment, rate_rps=12, seed=seed, error_rates=(0.02, 0.02), tail=1.5)
        )
        called += found.verdict not in ("not worse", "no difference", "undecided")
    # Of 40 at most 2 are to be expected; 7 or more would come about once in 200 times.
    assert called < 7


def slow_ones(records, share=0.009):
    """Which requests are slow for whatever version serves them, the same in every slot."""
    return np.random.default_rng(9).random(len(records)) < share


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("status", [504, 499])
def test_a_challenger_that_breaks_slow_requests_off_is_no_better(seed, status):
    """Both keep clients waiting for 10 s; the challenger does so without an answer in the end."""
    experiment = made_experiment(pairs=60, name=f"x{seed}")
    records = made_records(experiment, seed=seed, tail=0.5)
    slow = slow_ones(records)
    lost = slow & (records["arm"] == "challenger")
    records = records.assign(
        duration_s=records["duration_s"].mask(slow, 10.0), status=records["status"].mask(lost, status)
    )
    pairs = switchback_pairs(records, experiment, experiment.end_us)
    assert judge(pairs, RULES, 60, over=True).verdict != "better"
    for metric in ("latency_geomean_s", "latency_mean_s"):
        differences, _ = paired_differences(pairs, metric)
        assert np.median(differences) > -0.05


def test_failing_fast_is_no_gain():
    experiment = made_experiment(pairs=20)
    records = made_records(experiment, error_rates=(0.0, 0.02), seed=3, tail=0.5)
    fast = records["duration_s"].mask(records["status"] == 503, 0.0001)
    found = verdict_of(experiment, records.assign(duration_s=fast), rules=Rules(max_error_increase=0.5))
    assert found.effects["latency_geomean_s"].estimate > 1
    assert found.effects["latency_mean_s"].estimate > 1


MIX = {"light": (0.7, 1.0), "heavy": (0.25, 10.0), "rare": (0.05, 3.0)}


def test_another_mix_of_requests_is_no_difference():
    experiment = made_experiment(pairs=60)
    records = made_records(experiment, seed=11, tail=0.5, categories=MIX)
    # Half of the heavy requests happen to come in other time slices than the challenger's.
    fewer = (records["category"] == "heavy") & (records["arm"] == "challenger") & (records.index % 2 == 0)
    found = verdict_of(experiment, records[~fewer])
    assert found.effects["latency_mean_s"].high < 0.9
    assert found.effects["latency_geomean_s"].estimate == pytest.approx(1.0, abs=0.05)
    assert found.verdict in ("not worse", "no difference")


@pytest.mark.parametrize(
    ("category", "times", "rule"), [("rare", 3.0, "category"), ("light", 1.6, "category"), ("heavy", 1.4, "mean")]
)
def test_a_category_that_becomes_slower_does_not_hide(category, times, rule):
    """All others become faster, so that the whole does not."""
    experiment = made_experiment(pairs=60)
    records = made_records(experiment, rate_rps=30, seed=12, tail=0.5, categories=MIX)
    challenger = records["arm"] == "challenger"
    slower = np.where(records["category"] == category, times, 0.95 if category != "light" else 0.25)
    found = verdict_of(
        experiment, records.assign(duration_s=records["duration_s"].where(~challenger, records["duration_s"] * slower))
    )
    assert (found.verdict, found.rule) == ("guardrail", rule)
    assert rule != "category" or repr(category) in found.reason


def test_a_category_that_fails_does_not_hide():
    experiment = made_experiment(pairs=60)
    records = made_records(experiment, rate_rps=30, seed=13, tail=0.5, categories=MIX)
    broken = (records["category"] == "rare") & (records["arm"] == "challenger") & (records.index % 5 == 0)
    lenient = Rules(max_error_increase=0.011, max_mean_ratio=9, max_p99_ratio=99, max_category_ratio=99)
    found = verdict_of(experiment, records.assign(status=records["status"].mask(broken, 503)), rules=lenient)
    assert (found.verdict, found.rule) == ("guardrail", "category errors")
    assert "'rare'" in found.reason


def test_clients_that_stay_away_end_an_experiment():
    experiment = made_experiment(pairs=40)
    records = made_records(experiment, rate_rps=20, seed=14, tail=0.3)
    away = (records["arm"] == "challenger") & (records.index % 3 != 0)
    found = verdict_of(experiment, records[~away])
    assert (found.verdict, found.rule) == ("guardrail", "throughput")


@pytest.mark.parametrize(
    ("error_rates", "rule", "at_most"), [((0.0, 0.5), "gross errors", 2), ((0.005, 0.08), "errors", 25)]
)
def test_errors_end_an_experiment(error_rates, rule, at_most):
    experiment = made_experiment(pairs=40)
    # Failing fast makes the challenger look fast.
    found = verdict_of(
        experiment, made_records(experiment, -0.4, error_rates, seed=3), experiment.slot_begin_us(2 * at_most)
    )
    if rule == "errors":
        found = judge(
            switchback_pairs(made_records(experiment, 0.0, error_rates, seed=3), experiment, experiment.end_us),
            RULES, 40, over=True,
        )  # fmt: skip
    assert (found.verdict, found.rule) == ("guardrail", rule)
    assert found.decided_at <= at_most


def test_a_worse_p99_ends_an_experiment():
    experiment = made_experiment(pairs=40)
    records = made_records(experiment, seed=4, tail=0.2)
    slow = (records["arm"] == "challenger") & (np.random.default_rng(1).random(len(records)) < 0.03)
    found = verdict_of(experiment, records.assign(duration_s=records["duration_s"].mask(slow, 0.3)))
    assert (found.verdict, found.rule) in {("guardrail", "p99"), ("worse", "latency")}
    lenient = Rules(min_pairs=40, max_p99_ratio=1.5)
    assert (
        verdict_of(experiment, records.assign(duration_s=records["duration_s"].mask(slow, 0.3)), None, lenient).rule
        == "p99"
    )


def test_alike_versions_end_as_not_worse_or_no_difference_and_few_pairs_as_undecided():
    experiment = made_experiment(pairs=60)
    found = verdict_of(experiment, made_records(experiment, rate_rps=40, seed=6, tail=0.3))
    assert (found.verdict, found.rule) == ("not worse", "margin")
    # Only a gain is looked for; or slots differ too much to tell.
    for rules, tail in ((Rules(margin=0.0), 0.5), (RULES, 3.0)):
        found = verdict_of(experiment, made_records(experiment, seed=6, tail=tail), rules=rules)
        assert (found.verdict, found.rule) == ("no difference", "all pairs seen")
    short = made_experiment(pairs=5)
    found = verdict_of(short, made_records(short, seed=5))
    assert (found.verdict, found.rule) == ("undecided", "too few pairs")
    quiet = made_experiment(pairs=30)
    exact = verdict_of(quiet, made_records(quiet, seed=6).assign(duration_s=0.05), rules=Rules(margin=0.0))
    assert (exact.verdict, exact.rule) == ("no difference", "indifference")


def test_nothing_measured_is_undecided():
    experiment = made_experiment()
    found = verdict_of(experiment, made_records(experiment).head(0))
    assert (found.verdict, found.pairs, found.skipped) == ("undecided", 0, {"too few requests": 40})


def test_a_verdict_is_json_and_text_and_pictures():
    experiment = made_experiment(pairs=12)
    pairs = switchback_pairs(made_records(experiment), experiment, experiment.end_us)
    found = judge(pairs, RULES, 12, over=True)
    told = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert told["effects"]["error_rate"]["champion"] == 0
    assert "latency_p99_s" in verdict_markdown(found)
    for picture in (differences(pairs, 0.05), differences(pairs, 0.05, "error_rate"), latencies(pairs)):
        assert picture.axes[0].lines
    none = switchback_pairs(made_records(experiment).head(0), experiment, BEGIN)
    assert differences(none, 0.05).axes
    assert latencies(none).axes


def test_arms_that_ran_side_by_side_are_paired_by_blocks():
    experiment = made_experiment(pairs=40)
    records = made_records(experiment, rate_rps=30, seed=7)
    arm = np.where(np.random.default_rng(7).random(len(records)) < 0.5, "fingerpost", "least_request")
    slower = np.where(arm == "fingerpost", 0.8, 1.0)
    mixed = records.assign(arm=arm, duration_s=records["duration_s"] * slower)
    pairs = block_pairs(mixed, ("least_request", "fingerpost"), 20.0, experiment.end_us)
    found = judge(pairs, RULES, 100, over=False)
    assert found.verdict == "better"
    assert found.effects["latency_mean_s"].low < 0.8 < found.effects["latency_mean_s"].high
    log_ratio, places = paired_differences(pairs, "latency_mean_s")
    assert len(log_ratio) == len(places) == len(pairs)
    alike = judge(
        block_pairs(records.assign(arm=arm), ("least_request", "fingerpost"), 20.0, experiment.end_us),
        RULES,
        100,
        False,
    )
    assert alike.verdict in ("undecided", "not worse")


def test_the_plan_tells_what_experiments_then_find():
    pilot = made_experiment(pairs=60)
    measured = pilot_differences(made_records(pilot, seed=8), 20.0, 4.0, "shop")
    assert len(measured) > 50
    made = plan(measured, [-0.05, -0.25], RULES, 60)
    small, large = made.needs
    assert small.found < 0.5
    assert large.found > 0.8
    assert large.pairs < 60 < (small.pairs or math.inf)
    found = 0
    for seed in range(8):
        experiment = made_experiment(pairs=60, name=f"p{seed}")
        found += verdict_of(experiment, made_records(experiment, -0.25, seed=100 + seed)).verdict == "better"
    assert found >= 6


def test_too_little_to_plan_from_is_said():
    experiment = made_experiment(pairs=3)
    with pytest.raises(NoDataError, match="measure for longer"):
        pilot_differences(made_records(experiment), 20.0, 4.0, "shop")
    with pytest.raises(NoDataError, match="too few"):
        pilot_differences(made_records(experiment).head(0), 20.0, 4.0, "shop")
