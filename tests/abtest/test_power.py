"""What makes experiments short: covariates that take noise out, and a wash-out no longer than it must be."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest

from fingerpost.abtest.experiment.adjustment import adjusted
from fingerpost.abtest.experiment.confidence import paired_evidence
from fingerpost.abtest.experiment.guardrails import Rules, shown_of_latency
from fingerpost.abtest.experiment.pairs import paired_differences, switchback_pairs
from fingerpost.abtest.experiment.verdict import judge
from fingerpost.abtest.reports import verdict_markdown
from fingerpost.clock import US
from tests.support.experiment_records import made_experiment, made_records


def explained(rng, runs, pairs, effect=0.0, noise=0.1):
    """Differences of which a covariate explains most, and the covariate."""
    covariate = rng.normal(0, 0.5, (runs, pairs))
    return effect + 0.4 * covariate + rng.normal(0, noise, (runs, pairs)), covariate[..., None]


def test_what_a_covariate_explains_is_taken_out():
    differences, covariates = explained(np.random.default_rng(1), 200, 100)
    left = adjusted(differences, covariates)
    assert left[:, 30:].std() < 0.55 * differences[:, 30:].std()
    # One that explains nothing costs next to nothing.
    unlike = np.random.default_rng(2).normal(0, 1, covariates.shape)
    assert adjusted(differences, unlike)[:, 10:].std() < 1.06 * differences[:, 10:].std()


def test_an_effect_is_found_sooner_and_none_no_more_often():
    rng, rules = np.random.default_rng(3), Rules()
    found = {}
    for effect in (0.0, -0.05):
        differences, covariates = explained(rng, 1000, 120, effect)
        for name, values in (("plain", differences), ("adjusted", adjusted(differences, covariates))):
            found[effect, name] = shown_of_latency(values, rules)["better"].any(axis=1).mean()
    assert found[-0.05, "adjusted"] > found[-0.05, "plain"] + 0.2
    assert found[0.0, "adjusted"] <= rules.alpha


def test_the_sign_of_what_is_left_is_decided_by_the_coin():
    """Drawn the other way round, a pair's difference and covariates change sign, and so does what is left."""
    rng = np.random.default_rng(4)
    differences, covariates = explained(rng, 1, 60)
    first = adjusted(differences, covariates)
    coin = np.ones(60)
    coin[40] = -1.0
    other = adjusted(differences * coin, covariates * coin[:, None])
    assert other[0, 40] == pytest.approx(-first[0, 40])
    np.testing.assert_allclose(other[0, :40], first[0, :40])


def test_what_is_not_known_of_covariates_changes_nothing():
    differences, covariates = explained(np.random.default_rng(5), 3, 40)
    np.testing.assert_array_equal(adjusted(differences, np.full_like(covariates, np.nan)), differences)
    assert adjusted(differences[0, :0], covariates[0, :0]).shape == (0,)
    assert adjusted(differences, covariates[:, :, :0]) is differences


@pytest.mark.parametrize(("effect", "outcome"), [(-0.3, "better"), (0.3, "worse"), (0.0, "not worse")])
def test_each_outcome_is_shown_of_what_is_so(effect, outcome):
    differences = np.random.default_rng(6).normal(effect, 0.05, (50, 150))
    shown = shown_of_latency(differences, Rules())
    assert shown[outcome].any(axis=1).mean() > 0.9
    assert all(shown[other].any(axis=1).mean() < 0.1 for other in {"better", "worse", "not worse"} - {outcome})


def test_a_challenger_that_is_worse_by_the_margin_is_rarely_called_not_worse():
    rng, rules = np.random.default_rng(7), Rules()
    differences = math.log1p(rules.margin) + 0.05 * rng.standard_t(3, (2000, 200))
    assert shown_of_latency(differences, rules)["not worse"].any(axis=1).mean() <= rules.alpha


def test_evidence_of_better_needs_less_than_a_two_sided_one():
    differences = np.random.default_rng(8).normal(-0.05, 0.1, (400, 200))
    _, below = paired_evidence(differences)
    two_sided = (below >= math.log(2 / 0.05)).argmax(axis=1)
    one_sided = shown_of_latency(differences, Rules(min_pairs=1))["better"].argmax(axis=1)
    assert np.median(one_sided) < np.median(two_sided)


def reaching(seconds, effect=1.0, pairs=80):
    """Records of an experiment in which a slot goes on as the one before for so long."""
    experiment = made_experiment(pairs=pairs, slot_s=40.0, washout_s=4.0)
    records = made_records(experiment, rate_rps=20, seed=21, tail=0.3)
    begun = records["time_us"].to_numpy() - np.round(records["duration_s"].to_numpy() * US).astype(np.int64)
    slow = np.array([experiment.arm_at(int(each - seconds * US)) == "challenger" for each in begun])
    return experiment, records.assign(duration_s=records["duration_s"] * np.where(slow, 1 + effect, 1.0))


@pytest.mark.parametrize(("seconds", "longest"), [(0.0, 4.0), (3.0, 4.0), (12.0, 16.0)])
def test_the_wash_out_lengthens_where_an_arm_reaches_into_the_next_slot(seconds, longest):
    experiment, records = reaching(seconds)
    pairs = switchback_pairs(records, experiment, experiment.end_us)
    assert (pairs.washout_s[0], pairs.washout_s[-1]) == (4.0, longest)
    differences, _ = paired_differences(pairs, "latency_geomean_s")
    if seconds <= 4 or longest > seconds:
        assert np.median(differences[-20:]) == pytest.approx(math.log(2), abs=0.1)
    verdict = judge(pairs, Rules(), experiment.pairs, over=True)
    said = verdict_markdown(replace(verdict, experiment=asdict(experiment)))
    assert (f"by now {longest:g} s" in said) == (longest > 4)


def test_the_wash_out_of_a_pair_depends_on_earlier_pairs_alone():
    experiment, records = reaching(12.0)
    whole = switchback_pairs(records, experiment, experiment.end_us)
    for count in (20, 41):
        part = switchback_pairs(records, experiment, experiment.slot_begin_us(2 * count))
        np.testing.assert_array_equal(part.washout_s, whole.washout_s[:count])
        np.testing.assert_allclose(part.values["latency_geomean_s"], whole.values["latency_geomean_s"][:count])


def test_load_and_work_that_came_anyway_are_covariates():
    """Slots are slow where much arrives, whatever the arm: what is left of it varies less."""
    experiment = made_experiment(pairs=100, slot_s=10.0, washout_s=1.0)
    records = made_records(experiment, rate_rps=60, seed=22, tail=0.3)
    begun = records["time_us"].to_numpy() - np.round(records["duration_s"].to_numpy() * US).astype(np.int64)
    slot = (begun - experiment.begin_us) // (10 * US)
    busy = np.random.default_rng(22).uniform(0.3, 1.0, int(slot.max() - slot.min()) + 1)[slot - slot.min()]
    kept = np.random.default_rng(23).random(len(records)) < busy
    made = records.assign(duration_s=records["duration_s"] * busy**0.8)[kept]
    pairs = switchback_pairs(made, experiment, experiment.end_us)
    raw = np.diff(np.log(pairs.values["latency_geomean_s"]), axis=1)[:, 0]
    left, _ = paired_differences(pairs, "latency_geomean_s")
    assert left[30:].std() < 0.75 * raw[30:].std()
