"""What a policy makes of evidence: a pure function, and the policy files it is asked with."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.abtest.promotion.decide import FORMAT, decide
from fingerpost.abtest.promotion.policy import load_policy, parse_policy
from fingerpost.errors import FingerpostError
from tests.support.registry_harness import GOOD

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)  # a Wednesday
SHIPPED = load_policy(None)


def evidence(**changes):
    """Evidence with which the shipped policy promotes, with changes; a result may be given bare."""
    made = {
        "format": FORMAT,
        "champion": "1",
        "challenger": "2",
        "as_of": NOW.isoformat(),
        "hold": None,
        "offline": {
            "metrics": {"throughput_rps.skill": 0.2, "latency_p50_s.skill": 0.1},
            "params": {"test_rows": "500"},
        },
        "offpolicy": None,
        **GOOD,
        **changes,
    }
    for kind in ("shadow", "offpolicy", "experiment", "drift"):
        if made[kind] is not None and "at" not in made[kind]:
            made[kind] = {"at": NOW.isoformat(), "result": made[kind]}
    return made


NOT_WORSE = {"verdict": "not worse", "samples": 40}


def with_regret(low, high):
    return {**GOOD["shadow"], "regret": {"rows": 90, "difference": {"low": low, "high": high}}}


def replayed(**metrics):
    return {"metrics": {"a.skill": 0.9, "replay.groups": 100.0, **metrics}, "params": {"test_rows": 500}}


def gate_of(decision, name):
    return next(gate for gate in decision.gates if gate.name == name)


def test_the_shipped_policy_is_what_its_defaults_say():
    assert SHIPPED.policy == parse_policy("").policy


def test_good_evidence_promotes():
    decision = decide(SHIPPED.policy, evidence())
    assert decision.outcome == "promote"
    assert "experiment: better, 20 samples" in decision.reason


@pytest.mark.parametrize(
    ("changes", "outcome", "gate", "words"),
    [
        ({"experiment": None}, "wait", "experiment", "no result yet"),
        ({"experiment": {"verdict": "undecided", "samples": 3}}, "wait", "experiment", "undecided, 3 samples"),
        (
            {"experiment": {"verdict": "undecided", "samples": 0, "reason": "no arm"}},
            "wait",
            "experiment",
            "undecided, 0 samples (no arm)",
        ),
        ({"experiment": {"verdict": "better", "samples": 3}}, "wait", "experiment", "3 of 10 samples"),
        ({"experiment": {"verdict": "worse", "samples": 3}}, "reject", "experiment", "worse"),
        ({"experiment": {"verdict": "guardrail", "samples": 1}}, "reject", "experiment", "guardrail"),
        ({"experiment": {"verdict": "no difference", "samples": 40}}, "wait", "experiment", "must be better"),
        (
            {"experiment": {"verdict": "no difference", "samples": 40}, "format": 1},
            "reject",
            "experiment",
            "must be better",
        ),
        ({"experiment": NOT_WORSE}, "wait", "experiment", "regret of its choices in the shadow is not known"),
        ({"experiment": NOT_WORSE, "shadow": None}, "wait", "experiment", "in the shadow no result yet"),
        ({"experiment": NOT_WORSE, "shadow": with_regret(-0.02, 0.01)}, "promote", "experiment", "not worse, 40"),
        ({"experiment": NOT_WORSE, "shadow": with_regret(0.002, 0.01)}, "wait", "experiment", "higher by 0.0020"),
        ({"experiment": NOT_WORSE, "shadow": with_regret(None, None)}, "wait", "experiment", "is not known"),
        ({"experiment": {"verdict": "better", "samples": 40, "challenger": "3"}}, "wait", "experiment", "challenger 3"),
        ({"experiment": {"verdict": "better", "samples": 40, "champion": "7"}}, "wait", "experiment", "champion 7"),
        ({"experiment": {"samples": 40}}, "wait", "experiment", "cannot be read: verdict"),
        ({"experiment": {"verdict": "better"}}, "wait", "experiment", "cannot be read: samples"),
        ({"experiment": {"verdict": "splendid", "samples": 40}}, "wait", "experiment", "verdict = 'splendid'"),
        ({"experiment": {"verdict": "better", "samples": "40"}}, "wait", "experiment", "samples = '40'"),
        ({"experiment": {"verdict": "better", "samples": -1}}, "wait", "experiment", "samples = -1"),
        ({"experiment": {"verdict": "better", "samples": 40, "challenger": 2}}, "wait", "experiment", "challenger = 2"),
        ({"experiment": {"verdict": "better", "pairs": 40}}, "promote", "experiment", "better, 40 samples"),
        ({"experiment": [1]}, "wait", "experiment", "cannot be read: it = [1]"),
        ({"shadow": None}, "promote", "shadow", "no result yet"),
        ({"shadow": {"verdict": "worse", "samples": 9}}, "reject", "shadow", "worse"),
        ({"offpolicy": {"verdict": "worse", "samples": 900}}, "reject", "offpolicy", "worse"),
        ({"offline": None}, "wait", "offline", "no skill"),
        (
            {"offline": {"metrics": {"a.skill": 0.9, "b.skill": float("nan")}, "params": {"test_rows": 500}}},
            "promote",
            "offline",
            "mean skill +0.900 on 500 rows",
        ),
        ({"offline": {"metrics": {"a.skill": "x"}, "params": {}}}, "wait", "offline", "skill.a = 'x'"),
        ({"offline": {"metrics": {"a.skill": 0.9}, "params": {"test_rows": "?"}}}, "wait", "offline", "rows = '?'"),
        ({"offline": {"metrics": {"a.skill": -0.1}, "params": {"test_rows": 500}}}, "reject", "offline", "mean skill"),
        (
            {"offline": {"metrics": {"a.skill": 0.9, "b.skill": -0.5}, "params": {"test_rows": 500}}},
            "reject",
            "offline",
            "skill of b",
        ),
        ({"offline": {"metrics": {"a.skill": 0.9}, "params": {"test_rows": 5}}}, "wait", "offline", "5 rows"),
        ({"offline": replayed(**{"replay.bound": 0.02})}, "reject", "offline", "up to +2.0% worse"),
        ({"offline": replayed()}, "reject", "offline", "not shown to choose better hosts"),
        ({"offline": replayed(**{"replay.bound": -0.02})}, "promote", "offline", "mean skill"),
        ({"offline": replayed(**{"replay.groups": 0.0})}, "promote", "offline", "mean skill"),
        ({"drift": {"verdict": "drift", "reasons": ["h3 is slower"]}}, "wait", "drift", "h3 is slower"),
        ({"drift": {**GOOD["drift"], "model_version": "1"}}, "wait", "drift", "of version 1"),
        ({"drift": {"verdict": "no drift"}}, "wait", "data", "cannot be told yet"),
        ({"drift": {**GOOD["drift"], "data": {"passed": "yes"}}}, "wait", "data", "data.passed = 'yes'"),
        (
            {"drift": {"verdict": "no drift", "data": {"passed": False, "failed": ["few rows"]}}},
            "wait",
            "data",
            "few rows",
        ),
        ({"hold": {"reason": "on hold by ann", "until": None}}, "wait", "hold", "by ann"),
        ({"hold": {"reason": "x", "until": "2026-03-04T11:00:00+00:00"}}, "promote", "hold", "no hold"),
        ({"as_of": "yesterday"}, "wait", "hold", "when it was gathered"),
    ],
)
def test_every_gate_counts(changes, outcome, gate, words):
    decision = decide(SHIPPED.policy, evidence(**changes))
    assert decision.outcome == outcome
    assert words in gate_of(decision, gate).reason


def test_old_results_do_not_count():
    old = {"at": (NOW - timedelta(hours=200)).isoformat(), "result": GOOD["experiment"]}
    decision = decide(SHIPPED.policy, evidence(experiment=old))
    assert decision.outcome == "wait"
    assert "older than 168 h" in decision.reason


def test_a_policy_can_ask_for_less():
    policy = parse_policy('[experiment]\nuse = "off"\n[drift]\nuse = "optional"\n[data]\nuse = "off"').policy
    assert decide(policy, evidence(experiment=None, drift=None)).outcome == "promote"


@pytest.mark.parametrize(
    ("moment", "frozen"),
    [
        ("2026-03-06T15:59:00+01:00", False),  # Friday
        ("2026-03-06T16:00:00+01:00", True),
        ("2026-03-07T05:59:00+01:00", True),  # it ends on Saturday
        ("2026-03-07T06:00:00+01:00", False),
        ("2026-03-05T20:00:00+01:00", False),
        ("2026-03-06T15:00:00+00:00", True),
    ],
)
def test_freeze_windows(moment, frozen):
    policy = parse_policy(
        '[freeze]\ntimezone = "Europe/Berlin"\nwindows = [{days = ["fri"], from = "16:00", to = "06:00", why = "w"}]'
    ).policy
    decision = decide(policy, {**evidence(), "as_of": moment, "drift": {**evidence()["drift"], "at": moment}})
    reason = gate_of(decision, "hold").reason
    assert ("freeze window fri 16:00-06:00 Europe/Berlin: w" in reason) == frozen


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[ofline]", "unknown key ofline"),
        ("[offline]\nmin_row = 3", "unknown key offline.min_row"),
        ('[offline]\nmin_rows = "3"', "offline.min_rows = '3'"),
        ('[experiment]\nuse = "maybe"', "experiment.use = 'maybe'"),
        ("[experiment]\naccept = []", "experiment.accept"),
        ("[drift]\nmax_age_h = -1", "drift.max_age_h = -1"),
        ("[offline]\nmin_skill = nan", "offline.min_skill"),
        ('[freeze]\ntimezone = "Mars/Olympus"', "Mars/Olympus"),
        ('[freeze]\nwindows = [{from = "25:00"}]', "HH:MM"),
        ('[freeze]\nwindows = [{days = ["friday"]}]', "friday"),
        ("offline = 3", "offline"),
        ("[offline", "not TOML"),
    ],
)
def test_a_bad_policy_is_refused_by_name(text, words):
    with pytest.raises(FingerpostError, match="policy") as caught:
        parse_policy(text)
    assert words in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
documents = st.dictionaries(
    st.sampled_from(["offline", "shadow", "offpolicy", "experiment", "drift", "hold", "as_of", "champion"]),
    json_values
    | st.fixed_dictionaries({"at": st.just(NOW.isoformat()), "result": json_values})
    | st.fixed_dictionaries(
        {
            "at": st.just(NOW.isoformat()),
            "result": st.dictionaries(
                st.sampled_from(["verdict", "samples", "pairs", "data", "reasons", "champion"]), json_values
            ),
        }
    ),
)


@given(documents)
def test_no_evidence_whatever_promotes_by_accident_or_breaks_the_decision(found):
    assert decide(SHIPPED.policy, found).outcome != "promote"


@given(documents)
def test_decisions_survive_json(found):
    decision = decide(SHIPPED.policy, found)
    assert decide(SHIPPED.policy, json.loads(json.dumps(found))).to_json() == decision.to_json()
