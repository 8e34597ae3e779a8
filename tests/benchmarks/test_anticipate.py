"""What foresight is worth is told of the same requests for all, against the best setting of each reference."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.anticipate import Seen, near_spells, summarise

BASE = Seen("jobs", "average", 10.0, 0.8, 10, 1, p99_s=0.5, spell_p99_s=0.8, mean_s=0.1)


def test_requests_near_a_spell_are_those_of_its_first_fifteen_seconds():
    sent = np.array([9.9, 10.0, 24.9, 25.0, 40.0, 54.0])
    near = near_spells(sent, np.array([10.0, 39.5]))
    assert near.tolist() == [False, True, True, False, True, True]
    assert not near_spells(sent, np.zeros(0)).any()


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
