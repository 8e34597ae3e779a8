"""Compiled trees say what LightGBM says, to the bit; where they cannot, LightGBM is asked."""

from concurrent.futures import ThreadPoolExecutor

import lightgbm
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fingerpost.training.loss import quantile_objective
from fingerpost.training.trees.fast import Forest, UnsupportedTreesError, fast_predict

QUIET = {"verbosity": -1, "num_threads": 1, "min_data_in_leaf": 2, "min_data_in_bin": 1, "learning_rate": 0.3}
# Numbers, numbers with many zeros, whole numbers, categories, categories with unknown ones, and one constant.
FEATURES = 6


def rows(rng, count, missing):
    matrix = np.empty((count, FEATURES))
    matrix[:, 0] = rng.normal(size=count)
    matrix[:, 1] = np.where(rng.random(count) < 0.6, 0.0, rng.normal(size=count) * 10.0 ** rng.integers(-30, 30))
    matrix[:, 2] = rng.integers(-3, 4, count)
    matrix[:, 3] = rng.integers(0, 5, count)
    matrix[:, 4] = rng.integers(0, 80, count)
    matrix[:, 5] = 7.0
    matrix[rng.random(matrix.shape) < missing] = np.nan
    return matrix


def outcome(rng, matrix):
    known = np.nan_to_num(matrix)
    values = known[:, 0] * (1 + known[:, 3] % 2) + np.sin(known[:, 4]) + np.sign(known[:, 1]) - np.isnan(matrix[:, 2])
    return values + rng.normal(size=len(matrix)) * 0.1


def hard_rows(rng, matrix, forest):
    """Rows of what splits are about: thresholds and their neighbours, next to nothing, infinity, no such category."""
    used, place, threshold, kind = forest.arrays[:4]
    hard = matrix[rng.integers(0, len(matrix), 400)].copy()
    odd = [0.0, -0.0, 1e-36, -1e-36, 2e-35, -2e-35, np.float64(np.float32(1e-35)), -np.float64(np.float32(1e-35))]
    odd += [np.inf, -np.inf, np.nan, -0.5, -1.0, 3.7, 31.0, 32.0, 1e6, 1e18, -1e18]
    for feature in range(FEATURES):
        asked = threshold[(kind < 2) & (used[place] == feature)] if len(used) else np.empty(0)
        values = np.r_[asked, np.nextafter(asked, np.inf), np.nextafter(asked, -np.inf), odd]
        swapped = rng.random(len(hard)) < 0.5
        hard[swapped, feature] = rng.choice(values, swapped.sum())
    return hard


def compare(booster, rng, matrix):
    forest = Forest.of(booster)
    for each in (matrix, hard_rows(rng, matrix, forest)):
        np.testing.assert_array_equal(forest.predict(each), booster.predict(each))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 2**32),
    st.sampled_from([2, 3, 7, 24, 32, 33, 64]),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["regression", "regression_l1", "quantile", "own"]),
)
def test_predictions_are_those_of_lightgbm_to_the_bit(seed, leaves, missing, use_missing, categories, objective):
    rng = np.random.default_rng(seed)
    matrix = rows(rng, int(rng.integers(50, 700)), missing)
    own = quantile_objective() if objective == "own" else objective
    params = {**QUIET, "num_leaves": leaves, "use_missing": use_missing, "objective": own, "cat_smooth": 1.0}
    params["max_cat_to_onehot"] = int(rng.integers(1, 8))
    data = lightgbm.Dataset(matrix, outcome(rng, matrix), categorical_feature=[3, 4] if categories else [])
    booster = lightgbm.train(params, data, num_boost_round=int(rng.integers(1, 12)))
    compare(booster, rng, matrix)
    compare(lightgbm.Booster(model_str=booster.model_to_string()), rng, matrix)


def test_stopped_early_the_best_rounds_count():
    rng = np.random.default_rng(1)
    matrix = rows(rng, 300, 0.1)
    data = lightgbm.Dataset(matrix, outcome(rng, matrix))
    booster = lightgbm.train({**QUIET, "objective": "regression_l1"}, data, 9)
    booster.best_iteration = 4
    assert np.any(booster.predict(matrix) != booster.predict(matrix, num_iteration=9))
    compare(booster, rng, matrix)


def test_trees_of_one_leaf_and_no_rows():
    matrix = np.zeros((60, FEATURES))
    params = {**QUIET, "objective": "regression"}
    booster = lightgbm.train(params, lightgbm.Dataset(matrix, np.full(60, 3.5)), num_boost_round=2)
    forest = Forest.of(booster)
    np.testing.assert_array_equal(forest.predict(matrix), booster.predict(matrix))
    assert forest.predict(matrix[:0]).shape == (0,)


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"objective": "regression", "zero_as_missing": True}, "zeros"),
        ({"objective": "regression", "num_leaves": 65}, "leaves"),
        ({"objective": "regression", "linear_tree": True}, "linear"),
        ({"objective": "regression", "reg_sqrt": True}, "sum"),
        ({"objective": "binary"}, "sum"),
        ({"objective": "multiclass", "num_class": 3}, "outputs"),
        ({"objective": "regression", "boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "averaged"),
    ],
)
def test_what_it_cannot_do_is_refused_and_left_to_lightgbm(params, reason):
    rng = np.random.default_rng(2)
    matrix = rows(rng, 900, 0.0)
    target = outcome(rng, matrix)
    if params["objective"] != "regression":
        target = np.digitize(target, np.quantile(target, [0.33, 0.66]) if "num_class" in params else [0.0])
    booster = lightgbm.train({**QUIET, **params}, lightgbm.Dataset(matrix, target), num_boost_round=3)
    with pytest.raises(UnsupportedTreesError, match=reason):
        Forest.of(booster)
    np.testing.assert_array_equal(fast_predict(booster)(matrix), booster.predict(matrix))


def test_layout_and_threads_make_no_difference_and_features_are_counted():
    rng = np.random.default_rng(3)
    matrix = rows(rng, 3000, 0.1)
    data = lightgbm.Dataset(matrix, outcome(rng, matrix), categorical_feature=[3, 4])
    booster = lightgbm.train({**QUIET, "objective": "regression_l1"}, data, num_boost_round=20)
    predict, wanted = fast_predict(booster), booster.predict(matrix)
    for each in (matrix, np.asfortranarray(matrix), matrix[::-1][::-1]):
        np.testing.assert_array_equal(predict(each), wanted)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(predict, [matrix] * 8):
            np.testing.assert_array_equal(found, wanted)
    with pytest.raises(ValueError, match="5 features"):
        predict(matrix[:, :5])
