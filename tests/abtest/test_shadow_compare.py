"""The shadow comparison on made telemetry: who predicts better is known, and a lake from end to end."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fingerpost.abtest.experiment.confidence import paired_evidence
from fingerpost.abtest.offpolicy.records import challenger_off_policy
from fingerpost.abtest.reports import shadow_errors, shadow_markdown
from fingerpost.abtest.shadow.compare import compare, regret_table
from fingerpost.abtest.shadow.join import join_outcomes, load_shadow
from fingerpost.clock import US
from fingerpost.errors import NoDataError
from fingerpost.features.definition import TARGETS
from fingerpost.lake import read_frame
from fingerpost.settings import Settings

BEGIN = 1_790_000_000 * US
HOSTS, CATEGORIES = ("h1", "h2", "h3"), ("a", "b")


def made(windows=120, noise=(0.3, 0.15), seed=0):
    """Predictions every third window, and windows of 10 s; errors of champion and challenger have these spreads."""
    rng = np.random.default_rng(seed)
    predictions, outcomes = [], []
    for number in range(windows):
        end = BEGIN + (number + 1) * 10 * US
        for host in HOSTS:
            for category in CATEGORIES:
                level = np.array([100.0, 0.01, 0.05]) * np.exp(rng.normal(0, 0.3))
                cell = {"host": host, "category": category}
                measured = {**dict(zip(TARGETS, level, strict=True)), "latency_p90_s": level[1] * 3}
                outcomes.append({"time_us": end, **cell, **measured, "requests": 10})
                if number % 3 == 2:
                    said = {
                        f"{side}_{target}": value * np.exp(rng.normal(0, noise[place]))
                        for place, side in enumerate(("champion", "challenger"))
                        for target, value in zip(TARGETS, level, strict=True)
                    }
                    # Known up to a second before the window began.
                    time_us = end - 10 * US - int(rng.integers(1, US))
                    versions = {"champion_version": "1", "challenger_version": "2"}
                    predictions.append({"time_us": time_us, **cell, **versions, **said, "file": str(number)})
    return pd.DataFrame(predictions), pd.DataFrame(outcomes)


def joined(**arguments):
    predictions, windows = made(**arguments)
    return join_outcomes(predictions, windows, pd.DataFrame(), pd.DataFrame(), 10)


def test_a_prediction_meets_the_first_whole_window_after_it():
    predictions, windows = made(windows=30)
    rows = join_outcomes(predictions, windows, pd.DataFrame(), pd.DataFrame(), 10)
    assert len(rows) == len(predictions) == 60
    assert (rows["end_us"] - rows["time_us"]).between(10 * US, 20 * US).all()
    first = rows.iloc[7]
    cell = windows[(windows["host"] == first["host"]) & (windows["category"] == first["category"])].set_index("time_us")
    assert first["actual_throughput_rps"] == cell.loc[first["end_us"], "throughput_rps"]
    # What was known then: the window that had ended before the prediction.
    assert first["naive_throughput_rps"] == cell.loc[first["end_us"] - 20 * US, "throughput_rps"]


def test_only_cells_that_traffic_reached_are_compared_and_rare_ones_weigh_more():
    predictions, windows = made(windows=30)
    reached = windows[windows["host"] != "h3"]
    ends = windows["time_us"].unique()
    records = pd.DataFrame(
        [
            {"time_us": int(end) - 5 * US, "host": host, "category": "a", "propensity": chance}
            for end in ends
            for host, chance in (("h1", 0.8), ("h2", 0.2), ("h2", 0.6))
        ]
    )
    rows = join_outcomes(predictions, reached, pd.DataFrame(), records, 10)
    assert set(rows["host"]) == {"h1", "h2"}
    weights = rows.groupby(["host", "category"])["weight"].unique()
    # Of three requests in a window: the probability that any reaches the host, and how much one or two of them tell.
    assert weights["h1", "a"] == pytest.approx(1 / 6 / (1 - 0.2**3))
    assert weights["h2", "a"] == pytest.approx(2 / 7 / (1 - 0.6**3))
    assert weights["h1", "b"] == 0


@pytest.mark.parametrize(
    ("noise", "status"), [((0.3, 0.15), "better"), ((0.15, 0.3), "worse"), ((0.2, 0.2), "no difference")]
)
def test_the_better_model_is_told(noise, status):
    report = compare(joined(noise=noise), block_s=60)
    assert report.status == status
    assert report.versions == ("1", "2")
    everything = report.errors["all"]
    assert everything.champion == pytest.approx(np.mean([report.errors[target].champion for target in TARGETS]))
    assert everything.skill == pytest.approx(1 - everything.challenger / everything.champion)
    for target in ("throughput_rps", "latency_p50_s"):
        found = report.errors[target]
        # The mean of |normal| is 0.8 of its spread.
        assert found.champion == pytest.approx(0.8 * noise[0], rel=0.1)
        assert found.challenger == pytest.approx(0.8 * noise[1], rel=0.1)
        assert found.naive > 0.25
        assert found.difference.low < 0.8 * (noise[1] - noise[0]) < found.difference.high
    assert set(report.by_host) == set(HOSTS)
    assert set(report.by_category) == set(report.regret_by_category) == set(CATEGORIES)
    if status != "no difference":
        assert (report.regret.difference.value < 0) == (status == "better")


@pytest.mark.parametrize("lasts_s", [0, 300])
def test_an_equal_challenger_is_rarely_called_worse_however_often_one_looks(lasts_s):
    """Errors that depend on each other over minutes; looked at after every block of ten, for six hours."""
    rng = np.random.default_rng(9)
    steps = np.zeros((1500, 6 * 120))
    kept = np.exp(-30 / lasts_s) if lasts_s else 0.0
    for place in range(1, steps.shape[1]):
        steps[:, place] = kept * steps[:, place - 1] + np.sqrt(1 - kept**2) * rng.normal(0, 0.05, 1500)
    above, _ = paired_evidence(steps.reshape(1500, 36, 20).mean(axis=2), 0.02)
    assert (above >= np.log(2 / 0.05)).any(axis=1).mean() <= 0.05


def test_few_outcomes_are_insufficient():
    assert compare(joined(windows=12), block_s=60).status == "insufficient"
    # The block in which the latest outcome lies is not over.
    assert compare(joined(), block_s=600).blocks <= 2
    rows = joined()
    few = compare(rows.assign(weight=np.where(rows.index < 9, 50.0, 1.0)), block_s=60)
    assert (few.status, "worth" in few.reason) == ("insufficient", True)
    assert compare(pd.DataFrame()).status == "insufficient"
    predictions, windows = made(windows=12)
    assert join_outcomes(predictions.head(0), windows, pd.DataFrame(), pd.DataFrame(), 10).empty
    assert join_outcomes(predictions, windows.head(0), pd.DataFrame(), pd.DataFrame(), 10).empty


def test_another_pair_of_versions_is_not_mixed_in():
    rows = joined()
    older = rows["time_us"] < rows["time_us"].median()
    rows.loc[older, "challenger_version"] = "0"
    report = compare(rows, block_s=60)
    assert report.versions == ("1", "2")
    assert report.rows == (~older).sum()


def test_regret_is_what_the_chosen_host_costs_over_the_best():
    rows = pd.DataFrame(
        {
            "end_us": [1, 1, 2], "category": "a", "inflight": [1.0, 0.0, 0.0],
            "actual_throughput_rps": [100.0, 40.0, 10.0], "actual_latency_p50_s": 0.01,
            "champion_throughput_rps": [50.0, 40.0, 10.0], "champion_latency_p50_s": 0.01,
            "challenger_throughput_rps": [90.0, 40.0, 10.0], "challenger_latency_p50_s": 0.01,
        }
    )  # fmt: skip
    # True costs: 2 / 100 and 1 / 40. The champion believes 2 / 50 and 1 / 40.
    table = regret_table(rows)
    assert len(table) == 1
    assert table.loc[0, "champion"] == pytest.approx(0.25)
    assert table.loc[0, "challenger"] == pytest.approx(0.0)


def test_a_report_is_json_and_text_and_a_picture():
    for report in (compare(joined(), block_s=60), compare(joined(windows=12), block_s=60), compare(pd.DataFrame())):
        told = json.loads(json.dumps(report.to_json(), allow_nan=False))
        assert told["status"] == report.status
        assert report.status in shadow_markdown(report)
        assert len(shadow_errors(report).axes) == 3


@pytest.fixture(scope="module")
def shadow_lake(featured_lake):
    """Predictions for a measured fleet, every 10 s: the challenger's are nearly true, the champion swaps hosts."""
    windows = read_frame(featured_lake, "windows", "shop", 0, 2**52)
    rng = np.random.default_rng(2)
    typical = windows.groupby(["host", "category"])[list(TARGETS)].median().reset_index()
    turned = {"h1": "h3", "h2": "h2", "h3": "h1", "h4": "h4"}
    other = typical.assign(host=typical["host"].map(turned)).set_index(["host", "category"])
    first, last = int(windows["time_us"].min()), int(windows["time_us"].max())
    for time_us in range(first, last, 10 * US):
        table = {
            "time": pa.array([time_us - US] * len(typical), pa.timestamp("us", tz="UTC")),
            "service": ["shop"] * len(typical),
            **{name: pa.array(typical[name].astype(str)).dictionary_encode() for name in ("host", "category")},
        }
        keys = pd.MultiIndex.from_frame(typical[["host", "category"]])
        for side, source in (("champion", other), ("challenger", typical.set_index(["host", "category"]))):
            table[f"{side}_version"] = ["1" if side == "champion" else "2"] * len(typical)
            for target in TARGETS:
                values = source[target].reindex(keys).to_numpy() * np.exp(rng.normal(0, 0.05, len(typical)))
                table[f"{side}_{target}"] = values.astype(np.float32)
        day = str(pd.Timestamp(time_us, unit="us").date())
        folder = featured_lake / "predictions" / "service=shop" / f"date={day}"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), folder / f"{time_us}.parquet")
    return featured_lake


def test_a_lake_is_compared(shadow_lake):
    rows = load_shadow(shadow_lake, "shop", 0, 2**52, 5)
    report = compare(rows, block_s=10)
    assert report.status == "better", report.reason
    assert report.errors["throughput_rps"].skill > 0.1
    assert report.by_host["h3"].challenger < report.by_host["h3"].champion
    assert report.regret.challenger < report.regret.champion


def test_a_lake_tells_what_the_challenger_would_have_cost(shadow_lake):
    settings = Settings(home=shadow_lake.parent, window_s=5, shadow_every_s=10, exploration=0.2)
    found = challenger_off_policy(settings, 0, 2**52)
    told = found.to_json()
    json.dumps(told, allow_nan=False)
    assert (told["champion"], told["challenger"]) == ("1", "2")
    assert found.estimate.requests > 10_000
    assert 0 < found.replay < 1
    assert found.estimate.usable
    # Requests of this lake went anywhere alike; the challenger avoids the slow host.
    assert found.estimate.dr.value < found.estimate.logged.value


def test_a_lake_without_predictions_says_so(tmp_path):
    with pytest.raises(NoDataError, match="is there a challenger"):
        challenger_off_policy(Settings(home=tmp_path), 0, 2**40)
    assert load_shadow(tmp_path, "shop", 0, 2**40, 10).empty
