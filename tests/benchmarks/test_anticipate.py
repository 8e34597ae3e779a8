"""What foresight is worth is told of the same requests for all, against the best setting of each reference."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.anticipate import SCENARIOS, Seen, near_spells, summarise, traffic_ahead, young_hosts
from benchmarks.anticipation_pictures import Course, around, chosen, draw, slowdown
from fingerpost.simulator.scenario import load_scenario

BASE = Seen("jobs", "average", 10.0, 0.8, 10, 1, p99_s=0.5, spell_p99_s=0.8, mean_s=0.1, ahead=1.0, young_p99_s=0.9)


def test_requests_near_a_spell_are_those_of_its_first_fifteen_seconds():
    sent = np.array([9.9, 10.0, 24.9, 25.0, 40.0, 54.0])
    near = near_spells(sent, np.array([10.0, 39.5]))
    assert near.tolist() == [False, True, True, False, True, True]
    assert not near_spells(sent, np.zeros(0)).any()


@pytest.mark.parametrize(("sent_ahead", "expected"), [(10, 1.0), (5, 0.5), (0, 0.0)])
def test_traffic_has_left_ahead_where_a_host_gets_less_of_it_in_the_seconds_before_a_spell(sent_ahead, expected):
    scenario = load_scenario(SCENARIOS / "jobs.json").model_copy(update={"warmup_s": 10.0})
    chunks = []
    for second in range(100):
        # The first host is slow from second 60 to 70; the other never is, and gets ten requests a second as well.
        slow, ahead = 60 <= second < 70, 57 <= second < 60
        first = sent_ahead if ahead else 0 if slow else 10
        host = np.repeat([0, 1], [first, 10])
        samples = SimpleNamespace(slowed=np.array([8.0 if slow else 1.0, 1.0]), up=np.ones(2, dtype=bool))
        records = SimpleNamespace(sent_s=np.full(len(host), second + 0.5), host=host)
        chunks.append(SimpleNamespace(end_s=second + 1.0, samples=samples, records=records))
    assert traffic_ahead(scenario, chunks) == pytest.approx(expected)


def test_a_host_is_young_in_the_minute_after_it_came_or_came_back():
    up = np.ones((200, 3), dtype=bool)
    up[:20, 1], up[90:100, 2] = False, False
    chunks = [SimpleNamespace(end_s=second + 1.0, samples=SimpleNamespace(up=up[second])) for second in range(len(up))]
    sent = np.array([5.0, 21.5, 80.5, 81.5, 30.0, 101.5, 102.0])
    host = np.array([0, 1, 1, 1, 2, 2, -1])
    assert young_hosts(chunks, sent, host).tolist() == [False, True, True, False, False, True, False]


def test_hosts_in_their_first_minute_are_compared_with_those_of_the_best_average():
    found = [replace(BASE, setting=3.0, young_p99_s=1.0), BASE, replace(BASE, predictor="learned", young_p99_s=0.45)]
    (row,) = summarise(found)
    assert row["learned_young_ratio"] == 0.5
    (row,) = summarise([replace(each, young_p99_s=np.nan) for each in found])
    assert "learned_young_ratio" not in row


def test_a_share_is_of_the_way_from_the_best_average_to_the_best_clairvoyant():
    found = [
        replace(BASE, setting=3.0, spell_p99_s=1.0, p99_s=0.4),
        BASE,
        replace(BASE, predictor="clairvoyant", setting=1.0, spell_p99_s=0.4),
        replace(BASE, predictor="clairvoyant", setting=3.0, spell_p99_s=0.6),
        replace(BASE, predictor="learned", setting=0.0, spell_p99_s=0.6, p99_s=0.42),
    ]
    (row,) = summarise([*found, *(replace(each, seed=2) for each in found)])
    assert row["average_spell_p99_s"] == pytest.approx(0.8)
    assert (row["average_spell_p99_s_at"], row["average_p99_s_at"]) == (10.0, 3.0)
    assert row["gain"] == pytest.approx(0.5)
    assert row["learned_share"] == pytest.approx(0.5)
    assert row["learned_ratio"] == pytest.approx(0.42 / 0.4)


def test_no_share_is_told_where_there_is_nothing_to_gain():
    found = [BASE, replace(BASE, predictor="clairvoyant", spell_p99_s=0.7999), replace(BASE, predictor="baseline")]
    (row,) = summarise(found)
    assert row["baseline_share"] is None
    assert row["baseline_ratio"] == 1.0


def made_course(true_rps, begins):
    sent = np.ones(true_rps.shape, dtype=np.int64)
    return Course(true_rps, true_rps, sent, begins)


def test_a_picture_is_of_the_host_with_the_most_spells_that_are_whole():
    # The first host's spells are too near to the ends to be drawn.
    course = made_course(np.full((200, 3), 10.0), [[3, 190, 195], [60], [50, 120]])
    assert chosen(course) == (2, [50, 120])


def test_where_nothing_is_a_spell_a_picture_is_of_the_largest_slow_down():
    rps = np.full((200, 3), 10.0)
    rps[100:, 1] = 4.0
    rps[140:, 2] = 8.0
    assert chosen(made_course(rps, [[], [], []])) == (1, [100])


def test_slow_down_is_against_a_host_at_its_best_and_drawn_as_a_mean_over_spells():
    rps = np.full((200, 1), 10.0)
    rps[50:60], rps[120:130] = 2.0, 5.0
    mean = around(slowdown(rps, rps), [50, 120])[:, 0]
    assert len(mean) == 65
    assert mean[:25].tolist() == [1.0] * 25
    assert mean[25] == pytest.approx((5.0 + 2.0) / 2)
    assert mean[35:].tolist() == [1.0] * 30


def test_a_picture_is_made_of_a_run_with_spells_and_of_one_without(tmp_path):
    rps = np.full((200, 3), 10.0)
    rps[100:120, 1] = 2.0
    for name, begins in (("spell", [[], [100], []]), ("none", [[], [], []])):
        course = made_course(rps, begins)
        path = draw(name, 1, {"average": course, "model": course}, tmp_path / f"{name}.png")
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size < 60_000
