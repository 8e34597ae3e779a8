"""Results of comparisons: what is written can be read again, what is damaged is refused by name."""

import json
import math

import pytest

from fingerpost.abtest.drift.report import DataTest
from fingerpost.abtest.drift.verdict import DriftVerdict
from fingerpost.abtest.experiment.confidence import Estimate
from fingerpost.abtest.experiment.guardrails import Rules
from fingerpost.abtest.experiment.pairs import switchback_pairs
from fingerpost.abtest.experiment.store import Evaluation
from fingerpost.abtest.experiment.verdict import judge
from fingerpost.abtest.offpolicy.estimate import OffPolicy
from fingerpost.abtest.offpolicy.records import ChallengerOffPolicy
from fingerpost.abtest.results import ComparisonResult, DriftResult, log_result
from fingerpost.abtest.shadow.compare import ShadowReport
from fingerpost.clock import US
from fingerpost.errors import FingerpostError
from fingerpost.experiment import Experiment
from fingerpost.training.runs import HeldOutSkill
from tests.support.experiment_records import BEGIN, made_records


def shadow():
    return ShadowReport("better", "its mean error is lower", ("1", "2"), 900, 20).result()


def off_policy():
    known = Estimate(-0.01, -0.02, -0.005, 20)
    estimate = OffPolicy(True, "", 5000, 4000.5, 0.1, 60, math.inf, 1.0, 0.9, known, known, known, known, known)
    return ChallengerOffPolicy(estimate, 1.0, 0.95, ("1", "2")).result()


def experiment():
    planned = Experiment("e1", "shop", "1", "2", BEGIN, 20.0, 4.0, 30)
    pairs = switchback_pairs(made_records(planned, effect=-0.3), planned, planned.end_us + US)
    return Evaluation(planned, judge(pairs, Rules(), 30, over=True), pairs).result()


@pytest.mark.process
@pytest.mark.parametrize(
    ("made", "verdict", "samples"), [(shadow, "better", 900), (off_policy, "better", 4000), (experiment, "better", 30)]
)
def test_what_a_comparison_writes_its_gate_reads(made, verdict, samples):
    result = made()
    found = ComparisonResult.read(json.loads(json.dumps(result.to_json(), allow_nan=False)))
    assert found == result
    assert (found.verdict, found.samples, found.champion, found.challenger) == (verdict, samples, "1", "2")
    assert found.reason


def test_what_cannot_be_estimated_is_no_result():
    estimate = OffPolicy(False, "too few", 5, 4.0, 0.1, 1, 1, 0, 0.9)
    assert ChallengerOffPolicy(estimate, 1.0, 0.9, ("1", "2")).result() is None
    with pytest.raises(FingerpostError, match="verdict = 'insufficient'"):
        ShadowReport("insufficient", "too few", ("1", "2"), 5, 1).result()


def test_what_drift_writes_its_gates_read():
    verdict = DriftVerdict("fingerpost-shop", "2", "drift", ["h1 is slower"], {"current": 9}, {}, skill_then=math.nan)
    # Live errors alone are drift too: then nothing is known of the data.
    assert verdict.result().holds("data")[0] is None
    verdict.tests = [DataTest("rows", True, "there are enough rows")]
    found = DriftResult.read(json.loads(json.dumps(verdict.to_json(), allow_nan=False)))
    assert found.model_version == "2"
    assert found.holds("drift") == (False, "h1 is slower")
    assert found.holds("data") == (True, "")
    few = DriftVerdict("fingerpost-shop", "2", "too little data", ["3 rows"], {}, {})
    assert [few.result().holds(gate)[0] for gate in ("drift", "data")] == [None, None]


def test_what_a_training_writes_its_gate_reads():
    written = HeldOutSkill(skill={"throughput_rps": 0.2, "latency_p50_s": math.nan}, rows=500)
    assert written.mean == pytest.approx(0.2)
    assert HeldOutSkill.of(written.metrics(), {"test_rows": "500"}) == written


@pytest.mark.process
def test_a_damaged_result_is_refused_by_name_and_logged_anew(made):
    made.result("shadow", "2", {"verdict": "better", "samples": "many"})
    with pytest.raises(FingerpostError, match="samples = 'many'"):
        ComparisonResult.read(made.registry.latest_result("shadow", "2")["result"])
    assert log_result(made.registry, "shadow", shadow()) is not None
    assert log_result(made.registry, "shadow", shadow()) is None
    assert made.registry.latest_result("shadow", "2")["result"]["samples"] == 900


@pytest.mark.process
def test_a_result_that_is_not_json_is_named(made):
    made.result("shadow", "2", {})
    [run] = made.registry.runs("shadow")
    made.registry.client.log_text(run.info.run_id, "{", "verdict.json")
    with pytest.raises(FingerpostError, match=r"verdict.json of run .* is not JSON"):
        made.registry.latest_result("shadow", "2")
