"""The measurements measure what they say: everything written is reported, every cell is scored."""

from bench.agent import measure_agent
from bench.scoring import measure_scoring
from bench.training import measure_training
from bench.windowing import measure_windowing


def test_the_measured_agent_reports_every_line():
    figures = measure_agent(rate_rps=100, seconds=2)
    assert figures["records"] == figures["lines"] > 100
    assert figures["rss_mb"] > 0


def test_every_cell_is_scored():
    figures = measure_scoring(hosts=20, categories=10)
    assert figures["cells"] == 200
    assert figures["cells_per_s"] > 0


def test_every_record_is_windowed_and_every_target_fitted():
    windowed = measure_windowing(5000)
    assert windowed["records_per_s"] > 0
    assert 0 < windowed["windows"] <= 5000
    assert measure_training(2000, 10)["targets"] == 3
