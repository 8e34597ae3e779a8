"""From fingerprints to tables: baselines, models, incremental scoring, and the formats."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.announcement import Announcement
from fingerpost.clock import US
from fingerpost.serving.answers import TooMuchError, UnknownError, category_of, predict, route
from fingerpost.serving.api_models import Characteristics, PredictRequest, RouteRequest
from fingerpost.serving.fleet_state import build_fleet, silent_host
from fingerpost.serving.histories import HistoryForm
from fingerpost.serving.members import Member
from fingerpost.serving.scoring import ModelScorer, load_model, sanity_check, score_fleet
from fingerpost.serving.table import build_table, render_json
from fingerpost.training.inspection import inspect_files
from fingerpost.training.manifest import SchemaMismatchError
from tests.support.made_fleet import FORM, NOW, MadeFleet, fit_model, state_of, states_of


def table_of(states, scorer=None, slow_start_s=60.0, before=None):
    fleet = build_fleet("shop", states, 256, before.fleet if before else None)
    scored = score_fleet(fleet, scorer, before)
    return build_table(scored, (), slow_start_s), scored


@pytest.fixture(scope="module")
def made():
    return MadeFleet.make(12, 6)


@pytest.fixture(scope="module")
def model(made):
    return fit_model(made, 20, 8)


def test_the_baseline_is_the_bottleneck_law(made):
    table, _ = table_of(states_of(made))
    true = ((made.cores[:, None] - 0.1) / made.cpu_s).T
    assert table.throughput_rps == pytest.approx(true, rel=0.15)
    assert (table.latency_p50_s <= table.latency_p99_s).all()
    assert (table.source, table.model_version) == ("baseline", "")


def test_a_cell_never_served_is_the_fleets_mean_times_the_hosts_ratio(made):
    states = states_of(made)
    print_ = made.fingerprint(0, 1, NOW)
    block = print_.history
    cut = replace(print_, history=replace(block, categories=block.categories[:-1], cells=block.cells[:-1]))
    table, _ = table_of({**states, made.hosts[0]: state_of(cut)})
    assert np.isfinite(table.throughput_rps[-1, 0])
    alike = list(range(3, 12, 3))
    assert table.throughput_rps[-1, 0] < 4 * table.throughput_rps[-1, alike].max()


def test_a_new_host_is_like_its_class_and_is_ramped_up(made):
    print_ = made.fingerprint(0, 1, NOW)
    empty = replace(print_, host="new", history=None)
    states = {**states_of(made), "new": state_of(empty, first_seen_us=970 * US)}
    table, scored = table_of(states)
    place = table.hosts.index("new")
    ratios = scored.reference.host
    assert ratios[place] == pytest.approx(ratios[0:12:3].mean(axis=0), abs=0.06)
    assert table.weights[place] == pytest.approx(0.5)
    assert table.weights[0] == 1.0
    assert table_of(states_of(made, first_seen_us=999 * US))[0].weights.min() == 1.0  # all new: none newer


def test_a_host_that_came_back_is_ramped_up_until_it_has_served_in_a_window_since(made):
    """From then on what is predicted of it knows that it begins cold: both together would count that twice."""
    window_us = round(FORM.window_s * US)
    before, since = (
        {
            **states_of(made),
            made.hosts[0]: state_of(made.fingerprint(0, 1, NOW), received_us=NOW, first_seen_us=NOW + shift_us),
        }
        for shift_us in (-window_us // 4, -3 * window_us // 4)
    )
    assert table_of(before)[0].weights[0] < 0.3
    assert table_of(since)[0].weights[0] == 1.0
    # All that is known of a host that is new is of since it came: a few requests, of some categories.
    new = {**states_of(made), made.hosts[0]: state_of(made.fingerprint(0, 1, NOW), NOW, NOW - 5 * window_us)}
    assert table_of(new)[0].weights[0] < 1.0


def test_a_new_host_is_served_by_its_class_until_it_has_a_history_of_its_own(made, model):
    """To the model all hosts without history are alike."""
    classes = {host: f"class-{place % 3}" for place, host in enumerate(made.hosts)}
    states = {host: replace(each, host_class=classes[host]) for host, each in states_of(made).items()}
    for number in range(3):
        about = Announcement(host_class=f"class-{number}")
        member = Member(f"new-{number}", "b", "serving", about, NOW, NOW)
        states[member.host] = silent_host("shop", member.host, member, 0.0)
    scorer = ModelScorer.compiled(model, "1", FORM)
    table, scored = table_of(states, scorer)
    truth = np.log(made.cpu_s)
    for number in range(3):
        mine = np.log(table.latency_p50_s[:, table.hosts.index(f"new-{number}")])
        off = [np.abs(mine - mine.mean() - (row - row.mean())).mean() for row in truth[:3]]
        assert int(np.argmin(off)) == number
    assert scored.by_model


def test_the_model_corrects_the_baseline_towards_the_truth(made, model):
    truth = np.log((made.cores[:, None] - 0.1) / made.cpu_s)
    errors = {}
    for name, scorer in (("baseline", None), ("model", ModelScorer.compiled(model, "1", FORM))):
        fleet = build_fleet("shop", states_of(made, 77), 256)
        errors[name] = np.abs(np.log(score_fleet(fleet, scorer).predictions[..., 0]) - truth).mean()
    assert errors["model"] < errors["baseline"]


@pytest.mark.process
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(1, 5), st.booleans()), max_size=12), st.booleans())
def test_scoring_what_changed_equals_scoring_all(changes, with_model):
    made = MadeFleet.make(12, 6)
    scorer = _scorer(with_model)
    states = states_of(made)
    _, scored = table_of(states, scorer)
    for host, sequence, leaves in changes:
        if leaves:
            states.pop(made.hosts[host], None)
        else:
            told = made.fingerprint(host, sequence, NOW + 7 * US * sequence)
            states[made.hosts[host]] = state_of(told, US * (1000 + sequence))
        if states:
            table, scored = table_of(dict(states), scorer, before=scored)
            anew, _ = table_of(dict(reversed(states.items())), scorer)
            assert table.version == anew.version


_SCORERS: dict[bool, object] = {False: None}


def _scorer(with_model):
    if with_model not in _SCORERS:
        _SCORERS[True] = ModelScorer.compiled(fit_model(MadeFleet.make(12, 6), 20, 8), "1", FORM)
    return _SCORERS[with_model]


def test_only_new_histories_are_scored(made, model):
    scorer = ModelScorer.compiled(model, "1", FORM)
    states = states_of(made)
    _, first = table_of(states, scorer)
    assert (first.cells, first.source, first.version) == (72, "champion", "1")
    told = made.fingerprint(4, 2, NOW)
    same = replace(told, history=states[made.hosts[4]].fingerprint.history)
    _, after = table_of({**states, made.hosts[4]: state_of(same)}, scorer, before=first)
    assert after.cells == 0
    assert after.predictions is not first.predictions
    _, after = table_of({**states, made.hosts[4]: state_of(told)}, scorer, before=first)
    assert after.cells == 72


def test_without_histories_the_model_says_nothing(made, model):
    scorer = ModelScorer.compiled(model, "1", FORM)
    silent = {host: state_of(replace(each.fingerprint, history=None)) for host, each in states_of(made).items()}
    table, _ = table_of(silent, scorer)
    assert (table.source, table.model_version) == ("baseline", "")
    assert np.isnan(table.throughput_rps).all()
    # One host with a history is enough to say something of all, as of new ones.
    table, _ = table_of({**silent, made.hosts[0]: states_of(made)[made.hosts[0]]}, scorer)
    assert (table.source, np.isfinite(table.throughput_rps).all()) == ("champion", True)
    # Of histories of another form the model says nothing; the baseline reads them all the same.
    other = ModelScorer.compiled(model, "1", HistoryForm(5.0, 60.0))
    table, plain = table_of(states_of(made), other)[0], table_of(states_of(made))[0]
    assert (table.source, table.version) == ("baseline", plain.version)
    assert np.isfinite(table.throughput_rps).all()


def test_histories_of_other_columns_are_not_read(made):
    def other(fingerprint):
        history = replace(fingerprint.history, schema="other", cells=np.zeros((6, 3)))
        return state_of(replace(fingerprint, history=history))

    table, _ = table_of({host: other(each.fingerprint) for host, each in states_of(made).items()})
    assert table.categories == made.categories
    assert np.isnan(table.throughput_rps).all()
    assert (table.success_rate == 1).all()


def test_one_host_cannot_push_out_the_categories_of_others(made):
    print_ = made.fingerprint(0, 1, NOW)
    names = tuple(f"x{number}" for number in range(300))
    block = replace(print_.history, categories=names, cells=print_.history.cells[:1].repeat(300, axis=0) * 1000)
    rogue = replace(print_, host="rogue", categories=names, history=block)
    fleet = build_fleet("shop", {**states_of(made), "rogue": state_of(rogue)}, 20)
    assert len(fleet.categories) == 20
    assert set(made.categories) <= set(fleet.categories)


def test_predictions_that_are_wildly_off_are_objected_to(made):
    old = score_fleet(build_fleet("shop", states_of(made), 256), None).predictions
    assert sanity_check(old * 1.5, old, 5.0) is None
    assert "factor of 9" in sanity_check(old * 9, old, 5.0)
    sparse = old * [1.0, 1.0, 9.0]
    assert "factor of 9" in sanity_check(sparse, old, 5.0)
    assert sanity_check(sparse, old, 5.0, old_by_model=False) is None
    assert "factor of 9" in sanity_check(old * [1.0, 9.0, 1.0], old, 5.0, old_by_model=False)
    bad = old.copy()
    bad[0, 0, 1] = np.nan
    assert "1 of 216 predictions are not finite" in sanity_check(bad, old, 5.0)
    assert "outside" in sanity_check(old * 1e12, old, 1e15)


@pytest.mark.process
def test_a_model_of_other_features_is_refused_by_name(model, tmp_path):
    model.save(tmp_path)
    inspect_files(tmp_path)
    assert load_model(tmp_path, "3", "champion", FORM).version == "3"
    about = json.loads((tmp_path / "bundle.json").read_text())
    (tmp_path / "bundle.json").write_text(json.dumps({**about, "schema_hash": "0000other000"}))
    with pytest.raises(SchemaMismatchError, match="0000other000"):
        inspect_files(tmp_path)


def test_the_json_is_the_table(made):
    table, _ = table_of(states_of(made))
    given = json.loads(render_json(table, 5.0))
    assert (given["expires_at"], given["version"]) == (5.0, table.version)
    assert [host["name"] for host in given["hosts"]] == list(made.hosts)
    for name in ("throughput_rps", "latency_p50_s", "latency_p99_s", "success_rate", "age_s"):
        assert np.array(given[name], dtype=np.float32) == pytest.approx(getattr(table, name))


def test_requests_are_predicted_and_routed(made):
    table, _ = table_of(states_of(made))
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
    asked = Characteristics(method="POST", path="/work/k002?x=1", bytes_in=100, user_agent=agent, region="DE")
    assert category_of(table, asked) == made.categories[2]
    answer = predict(table, PredictRequest(service="shop", request=asked), "fingerpost-shop", 0.0)
    assert [cell["host"] for cell in answer["cells"]] == list(made.hosts)
    assert sum(cell["best"] for cell in answer["cells"]) == 1
    best = route(table, RouteRequest(service="shop", request=asked), 0.0)
    assert best["host"] == next(cell["host"] for cell in answer["cells"] if cell["best"])
    busy = route(table, RouteRequest(service="shop", request=asked, inflight={best["host"]: 1e6}), 0.0)
    assert busy["host"] != best["host"]
    others = route(table, RouteRequest(service="shop", request=asked, exclude=[best["host"]]), 0.0)
    assert others["host"] != best["host"]
    with pytest.raises(UnknownError):
        route(table, RouteRequest(service="shop", category="none such"), 0.0)
    with pytest.raises(UnknownError):
        category_of(table, Characteristics(path="/elsewhere"))


def test_too_many_cells_are_not_answered_at_once():
    table, _ = table_of(states_of(MadeFleet.make(200, 101)))
    with pytest.raises(TooMuchError, match="name hosts"):
        predict(table, PredictRequest(service="shop"), "m", 0.0)


def test_references_hold_for_fleets_of_nothing():
    print_ = MadeFleet.make(1, 1).fingerprint(0, 1, NOW)
    none = replace(print_.history, categories=(), cells=print_.history.cells[:0])
    empty = replace(print_, categories=(), history=none)
    blank = replace(print_, history=None, host_values=print_.host_values * np.nan)
    for one, other in itertools.product((empty, blank), repeat=2):
        table, scored = table_of({"a": state_of(one), "b": state_of(other)})
        assert scored.fleet.baseline().host.shape == (2, 3)
        assert json.loads(render_json(table, 1.0))["hosts"][0]["name"] == "a"
