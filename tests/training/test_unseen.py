"""Hosts that no model has seen, in telemetry like the demo fleet's."""

import pytest

from fingerpost.errors import NoDataError
from fingerpost.features.build import build_features
from fingerpost.features.prepare import FeatureSettings
from fingerpost.training.backtest import leave_hosts_out_score
from tests.support.demo_telemetry import write_demo_lake

SETTINGS = FeatureSettings(10, 60, 40, 30)


@pytest.mark.process
def test_hosts_never_seen_are_predicted_by_those_that_resemble_them(tmp_path):
    write_demo_lake(tmp_path, hosts=9, seconds=300, rate_rps=90)
    build_features(tmp_path, "shop", SETTINGS)
    score = leave_hosts_out_score(tmp_path, "shop", SETTINGS, 0.3)
    assert score.rows > 100
    assert score.skill > 0.3


def test_two_hosts_are_too_few_to_hold_some_out(tmp_path):
    write_demo_lake(tmp_path, hosts=2, seconds=60, rate_rps=20)
    build_features(tmp_path, "shop", SETTINGS)
    with pytest.raises(NoDataError, match="too few to hold some out"):
        leave_hosts_out_score(tmp_path, "shop", SETTINGS, 0.3)
