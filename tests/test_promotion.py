"""Promotion: policy, decision, record and swap, on a real registry."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abtest.promotion.decide import decide
from abtest.promotion.evidence import gather
from abtest.promotion.policy import load_policy, parse_policy
from abtest.promotion.promote import (
    StaleEvidenceError,
    consider_challenger,
    promote_version,
    rollback,
    set_hold,
    swap,
)
from abtest.promotion.record import history, load_record, replay
from abtest.registry import FATE_TAG, FORMER_TAG, WATCH_TAG, Registry
from fingerpost.errors import FingerpostError
from fingerpost.experiment import EXPERIMENT_TAG
from tests.registry_harness import GOOD

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)  # a Wednesday
SHIPPED = load_policy(None)


def evidence(**changes):
    """Evidence with which the shipped policy promotes, with changes; a result may be given bare."""
    made = {
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
        ({"experiment": {"verdict": "undecided", "pairs": 3}}, "wait", "experiment", "undecided, 3 samples"),
        ({"experiment": {"verdict": "better", "pairs": 3}}, "wait", "experiment", "3 of 10 samples"),
        ({"experiment": {"verdict": "worse", "pairs": 3}}, "reject", "experiment", "worse"),
        ({"experiment": {"verdict": "guardrail", "pairs": 1}}, "reject", "experiment", "guardrail"),
        ({"experiment": {"verdict": "no difference", "pairs": 40}}, "reject", "experiment", "must be better"),
        ({"experiment": {"verdict": "better", "pairs": 40, "challenger": 3}}, "wait", "experiment", "challenger 3"),
        ({"experiment": {"verdict": "better", "pairs": 40, "champion": "7"}}, "wait", "experiment", "champion 7"),
        ({"experiment": {"pairs": 40}}, "wait", "experiment", "undecided"),
        ({"shadow": None}, "promote", "shadow", "no result yet"),
        ({"shadow": {"verdict": "worse", "cells": 9}}, "reject", "shadow", "worse"),
        ({"offpolicy": {"verdict": "worse", "n": 900}}, "reject", "offpolicy", "worse"),
        ({"offline": None}, "wait", "offline", "no skill"),
        ({"offline": {"metrics": {"a.skill": -0.1}, "params": {"test_rows": 500}}}, "reject", "offline", "mean skill"),
        (
            {"offline": {"metrics": {"a.skill": 0.9, "b.skill": -0.5}, "params": {"test_rows": 500}}},
            "reject",
            "offline",
            "skill of b",
        ),
        ({"offline": {"metrics": {"a.skill": 0.9}, "params": {"test_rows": 5}}}, "wait", "offline", "5 rows"),
        ({"drift": {"verdict": "drift", "reasons": ["h3 is slower"]}}, "wait", "drift", "h3 is slower"),
        ({"drift": {**GOOD["drift"], "model_version": "1"}}, "wait", "drift", "of version 1"),
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
            "result": st.dictionaries(st.sampled_from(["verdict", "pairs", "data", "reasons", "n"]), json_values),
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


def test_a_challenger_is_promoted_with_a_record_that_decides_the_same(made):
    made.registry.set_note(EXPERIMENT_TAG, {"champion": "1", "challenger": "2"})
    made.good_results()
    done = consider_challenger(made.settings, "flow promote")
    assert (done.action, done.applied) == ("promote", True)
    assert (made.champion, made.challenger) == ("2", None)
    assert made.registry.former_champions() == ["1"]
    assert made.registry.note(WATCH_TAG)["previous"] == "1"
    assert made.registry.note(EXPERIMENT_TAG) is None
    assert made.registry.version("2").tags[FATE_TAG] == "promoted"

    record = load_record(made.registry, done.record)
    assert record["who"] == "flow promote"
    assert record["policy"]["text"] == SHIPPED.text
    assert record["evidence"]["experiment"]["result"] == GOOD["experiment"]
    again, same = replay(record)
    assert same
    assert again.outcome == "promote"
    record["evidence"]["experiment"]["result"]["verdict"] = "worse"
    assert replay(record)[1] is False
    record["policy"]["text"] += "# changed"
    with pytest.raises(FingerpostError, match="hash"):
        replay(record)

    [line] = history(made.registry)
    assert (line.action, line.champion, line.challenger, line.applied) == ("promote", "1", "2", "yes")
    assert consider_challenger(made.settings, "flow promote") is None


def test_a_challenger_that_fails_is_rejected_and_one_without_evidence_waits(made):
    assert consider_challenger(made.settings, "flow").action == "wait"
    assert made.challenger == "2"
    made.result("experiment", "2", {"verdict": "guardrail", "pairs": 2})
    assert consider_challenger(made.settings, "flow").action == "reject"
    assert (made.champion, made.challenger) == ("1", None)
    assert made.registry.version("2").tags[FATE_TAG].startswith("rejected: experiment: guardrail")
    assert [line.action for line in history(made.registry)] == ["reject", "wait"]


def test_the_newest_result_counts(made):
    made.good_results()
    made.result("experiment", "2", {"verdict": "undecided", "pairs": 1})
    assert gather(made.registry, "2")["experiment"]["result"]["verdict"] == "undecided"


def test_rollback_goes_back_step_by_step(made):
    third = made.version(0.4)
    promote_version(made.settings, "2", "ann", "try", skip_gates=True)
    promote_version(made.settings, third, "ann", "try", skip_gates=True)
    assert made.champion == third
    assert rollback(made.settings, "ann", "slow").version == "2"
    assert rollback(made.settings, "ann", "slow").version == "1"
    assert made.champion == "1"
    assert made.registry.note(WATCH_TAG) is None
    with pytest.raises(FingerpostError, match="nothing to go back to"):
        rollback(made.settings, "ann", "slow")
    assert [line.action for line in history(made.registry)] == ["rollback", "rollback", "forced", "forced"]
    with pytest.raises(FingerpostError, match="no gates"):
        replay(load_record(made.registry, history(made.registry)[0].run_id))


def test_a_hold_keeps_what_would_be_promoted(made):
    made.good_results()
    set_hold(made.settings, True, "ann", "release day", datetime.now(UTC) + timedelta(hours=1))
    done = consider_challenger(made.settings, "flow")
    assert done.action == "wait"
    assert "on hold by ann: release day" in done.reason
    set_hold(made.settings, False, "ann")
    assert consider_challenger(made.settings, "flow").action == "promote"


def test_wrong_versions_are_named(made):
    with pytest.raises(FingerpostError, match="no version '9'"):
        promote_version(made.settings, "9", "ann")
    with pytest.raises(FingerpostError, match="no version 'x'"):
        promote_version(made.settings, "x", "ann")
    with pytest.raises(FingerpostError, match="champion already"):
        promote_version(made.settings, "1", "ann")


def test_evidence_against_another_champion_promotes_nothing(made):
    third = made.version(0.4)
    with pytest.raises(StaleEvidenceError, match="version 1 by now"):
        swap(made.settings, made.registry, third, "2", "")
    assert made.champion == "1"


def test_notes_of_a_promotion_that_was_cut_short_do_no_harm(made):
    made.registry.client.set_registered_model_tag(made.registry.name, FORMER_TAG, '["1"]')
    made.registry.set_note(WATCH_TAG, {"version": "2", "previous": "1", "since": "", "until": "", "record": ""})
    assert made.registry.former_champions() == []
    made.good_results()
    assert consider_challenger(made.settings, "flow").action == "promote"


PROMOTER = """
import sys, time
from pathlib import Path
from abtest.promotion.promote import StaleEvidenceError, swap
from abtest.registry import Registry
from tests.registry_harness import registry_settings
settings = registry_settings(Path(sys.argv[1]))
registry = Registry(settings)
champion = registry.version_of("champion")
print("ready", flush=True)
sys.stdin.readline()
try:
    swap(settings, registry, champion, sys.argv[2], "")
    print("promoted")
except StaleEvidenceError as error:
    print("refused:", error)
"""


def test_of_two_processes_one_promotes(made, tmp_path):
    third = made.version(0.4)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTER, str(tmp_path), version],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for version in ("2", third)
    ]
    for process in processes:
        while process.stdout.readline().strip() != "ready":
            assert process.poll() is None
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=120)[0] for process in processes]
    assert sorted(answer.split(":")[0].strip() for answer in answers) == ["promoted", "refused"]
    winner = "2" if answers[0].startswith("promoted") else third
    assert made.champion == winner
    assert made.registry.former_champions() == ["1"]
    assert Registry(made.settings).note(WATCH_TAG)["version"] == winner
