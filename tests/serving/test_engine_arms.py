"""An experiment in the engine: the clock chooses the arm's table, and what is wrong is said."""

import asyncio
import json
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fingerpost.clock import US, clock_us
from fingerpost.errors import FingerpostError
from fingerpost.experiment import Experiment
from fingerpost.routing.picker_table import table_from_json
from fingerpost.routing.table_file import decode, encode
from fingerpost.serving.fleet_state import build_fleet
from fingerpost.serving.model_files import AliasState, ModelFiles, ResolvedAlias
from fingerpost.serving.models import Models, Slot
from fingerpost.serving.scoring import ModelScorer, score_fleet
from fingerpost.serving.table import build_table, of_arm, render_json
from fingerpost.serving.views import NO_ARM, ServiceView, plan_arms
from fingerpost.settings import Settings
from tests.support.made_fleet import FORM, MadeFleet, fit_model, states_of

BEGIN = 1_790_000_000 * US


def experiment(**changes):
    good = {"id": "x1", "service": "shop", "champion": "1", "challenger": "2", "begin_us": BEGIN}
    return Experiment(**{**good, "slot_s": 10.0, "washout_s": 1.0, "pairs": 50, **changes})


@pytest.fixture(scope="module")
def made():
    return MadeFleet.make(6, 5)


@pytest.fixture(scope="module")
def scorers(made):
    models = {"champion": ("1", fit_model(made, 5, 4)), "challenger": ("2", fit_model(made, 5, 4, factor=1.3))}
    return {alias: ModelScorer.compiled(model, version, FORM, alias) for alias, (version, model) in models.items()}


@pytest.fixture(scope="module")
def tables(made, scorers):
    fleet = build_fleet("shop", states_of(made), 256)
    plain = {}
    for alias, scorer in scorers.items():
        scored = score_fleet(fleet, scorer)
        plain[alias] = build_table(scored, (), 0.0)
    arms = {alias: of_arm(table, alias, "x1") for alias, table in plain.items()}
    return {NO_ARM: plain["champion"], **arms}


def test_the_tables_of_arms_differ_in_version_and_say_which_they_are(tables):
    assert len({table.version for table in tables.values()}) == 3
    found = {arm: json.loads(render_json(table, 5.0)) for arm, table in tables.items()}
    about = {arm: (each["arm"], each["experiment"], each["model_version"]) for arm, each in found.items()}
    assert about == {
        NO_ARM: ("", "", "1"),
        "champion": ("champion", "x1", "1"),
        "challenger": ("challenger", "x1", "2"),
    }
    rates = [np.array(found[arm]["throughput_rps"]) for arm in ("champion", "challenger")]
    assert np.median(rates[1] / rates[0]) == pytest.approx(1.3, rel=0.1)


def test_the_clock_says_which_table_is_in_force(tables):
    view, running = ServiceView("shop"), experiment()
    view.publish(tables, running, 0.0)
    for slot in range(20):
        for at_us in (running.slot_begin_us(slot), running.slot_begin_us(slot + 1) - 1):
            assert view.at(at_us).table.arm == running.arm_of(slot)
    assert view.at(BEGIN - 1).table.arm == view.at(running.end_us).table.arm == ""
    assert view.of_arm("challenger").table.arm == "challenger"
    view.publish({NO_ARM: tables[NO_ARM]}, None, 0.0)
    assert view.at(running.slot_begin_us(3)).table.arm == ""
    assert (view.of_arm("challenger"), view.of_arm("champion").table.arm) == (None, "")


@pytest.mark.parametrize(
    ("purpose", "closed", "arm"), [("compare", ("challenger",), ""), ("watch", ("champion",), "challenger")]
)
def test_of_a_closed_arm_no_table_is_served_whatever_the_slot(tables, purpose, closed, arm):
    view, running = ServiceView("shop"), experiment(purpose=purpose)
    view.publish(tables, running, 0.0, closed)
    for slot in range(20):
        assert view.at(running.slot_begin_us(slot)).table.arm == arm
    view.publish(tables, running, 0.0)
    assert {view.at(running.slot_begin_us(slot)).table.arm for slot in range(20)} == {"champion", "challenger"}


def test_of_several_challengers_each_has_its_table_in_its_slots(tables):
    view, running = ServiceView("shop"), experiment(others=("3",))
    several = {**tables, "challenger-2": of_arm(tables[NO_ARM], "challenger-2", "x1")}
    view.publish(several, running, 0.0)
    arms = [running.arm_of(slot) for slot in range(20)]
    assert set(arms) == {"champion", "challenger", "challenger-2"}
    assert [view.at(running.slot_begin_us(slot)).table.arm for slot in range(20)] == arms
    # One that is closed keeps nobody else from routing.
    view.publish(several, running, 0.0, ("challenger-2",))
    shown = [view.at(running.slot_begin_us(slot)).table.arm for slot in range(20)]
    assert shown == [arm if arm != "challenger-2" else "" for arm in arms]


def test_who_waits_is_woken_when_an_arm_is_closed(tables):
    running = experiment(begin_us=clock_us() - 20 * US, slot_s=600.0)
    view = ServiceView("shop")
    view.publish(tables, running, 0.0)
    before = view.published.table
    other = {"champion": "challenger", "challenger": ""}[before.arm]

    async def wait():
        waiting = asyncio.create_task(view.changed(before.version, 60.0))
        await asyncio.sleep(0)
        view.publish(tables, running, 0.0, (before.arm,))
        await waiting

    asyncio.run(wait())
    assert view.published.table.arm == other


def test_who_waits_is_woken_when_a_slot_begins(tables):
    """No new table comes: it is the other arm's turn."""
    now_us = clock_us()
    begin_us = now_us // US * US - 20 * US
    running = experiment(begin_us=begin_us, slot_s=1.5)
    view = ServiceView("shop")
    view.publish(tables, running, 0.0)

    async def wait():
        seen = []
        for _ in range(3):
            before = view.published.table
            await view.changed(before.version, 10.0)
            at_us = clock_us()
            seen.append((view.published.table.arm, running.arm_at(at_us), before.arm))
        return seen

    for now, wanted, before in asyncio.run(wait()):
        assert now == wanted != before


def test_pickers_carry_the_arm(tables):
    settings = Settings()
    for arm in ("champion", "challenger", NO_ARM):
        data = json.loads(render_json(tables[arm], time.time() + 60))
        [found] = decode(encode(table_from_json(data, settings, 1))).arms
        wanted = {"champion": "1", "challenger": "2", NO_ARM: "1"}[arm]
        assert (found.name, found.policy, found.model_version) == (arm or "main", "fingerpost", wanted)
    data = json.loads(render_json(tables["challenger"], time.time() + 60))
    shares = {"fingerpost": 0.5, "least_request": 0.5}
    arms = table_from_json(data, Settings(arm_shares=shares), 1).arms
    assert [each.name for each in arms] == ["fingerpost", "least_request"]
    [only] = table_from_json(data, Settings(arm_shares={"least_request": 1.0}), 1).arms
    assert only.name == "main"
    with pytest.raises(FingerpostError):
        table_from_json(data, Settings(arm_shares={"other": 1.0}), 1)


def test_several_challengers_run_once_all_are_loaded(scorers, tmp_path):
    running = experiment(others=("3",))
    models = loaded(scorers, tmp_path, running.to_json())
    during = BEGIN + 5 * US
    assert "needs version 3 as challenger-2, no version is loaded" in plan_arms(models, "shop", during).problem
    models._slots[("shop", "challenger-2")] = Slot(replace(scorers["challenger"], version="3"))
    plan = plan_arms(models, "shop", during)
    assert {arm: each.version for arm, each in plan.challengers.items()} == {"challenger": "2", "challenger-2": "3"}


def loaded(scorers, tmp_path, text, versions=("1", "2")):
    """Models as they are after a look at the registry's files, with these versions in memory."""
    files = ModelFiles(tmp_path)
    files.write_aliases("shop", AliasState(known=True, experiment=text))
    metrics = SimpleNamespace(registry_problem=_Gauge(), model_problem=_Gauge())
    models = Models(Settings(home=tmp_path), metrics, list, lambda _: None)
    models.refresh("shop")
    for alias, version in zip(("champion", "challenger"), versions, strict=True):
        if version:
            scorer = replace(scorers[alias], version=version)
            models._slots[("shop", alias)] = Slot(scorer, ResolvedAlias(version, "f"))
    return models


class _Gauge:
    def labels(self, *_):
        return self

    def set(self, _value):
        return None


def test_an_experiment_runs_only_with_its_own_models(scorers, tmp_path):
    text = experiment().to_json()
    during, before = BEGIN + 5 * US, BEGIN - 3600 * US
    good = plan_arms(loaded(scorers, tmp_path, text), "shop", during)
    assert (good.experiment, good.challengers["challenger"].version, good.problem) == (experiment(), "2", None)
    assert plan_arms(loaded(scorers, tmp_path, text), "shop", before).experiment is None
    for versions, said in (
        (("1", None), "needs version 2 as challenger, no version is loaded"),
        (("1", "3"), "needs version 2 as challenger, version 3 is loaded"),
        (("4", "2"), "needs version 1 as champion, version 4 is loaded"),
    ):
        plan = plan_arms(loaded(scorers, tmp_path, text, versions), "shop", during)
        assert plan.experiment is None
        assert said in plan.problem
    assert (
        "another service"
        in plan_arms(loaded(scorers, tmp_path, experiment(service="bank").to_json()), "shop", during).problem
    )
    assert "not an experiment" in plan_arms(loaded(scorers, tmp_path, "{"), "shop", during).problem
    assert plan_arms(loaded(scorers, tmp_path, None), "shop", during).problem is None
