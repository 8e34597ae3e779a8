"""Trees compiled once and read by all: the same predictions; what is damaged or of another make is not believed."""

import lightgbm
import numpy as np
import pytest

from fingerpost.training.trees import compiled as compiled_trees
from fingerpost.training.trees import fast as fast_trees
from fingerpost.training.trees.compiled import COMPILED, compile_trees, load_trees, save_trees

QUIET = {"verbosity": -1, "num_threads": 1, "min_data_in_leaf": 2, "objective": "regression_l1"}


@pytest.fixture(scope="module")
def rows():
    matrix = np.random.default_rng(1).normal(size=(500, 4))
    matrix[:, 3] = np.abs(matrix[:, 3] * 10).astype(int)
    return matrix


@pytest.fixture(scope="module")
def boosters(rows):
    """Two of one target and one of another, whose leaves are more than the kernel can do."""

    def booster(number, **params):
        data = lightgbm.Dataset(rows, np.sin(rows[:, 0] * number) + rows[:, 3] % 3, categorical_feature=[3])
        return lightgbm.train({**QUIET, **params}, data, num_boost_round=5)

    return {"throughput_rps": [booster(1), booster(2)], "latency_p50_s": [booster(3, num_leaves=100)]}


def compare(trees, boosters, rows):
    assert {target: len(some) for target, some in trees.items()} == {"throughput_rps": 2, "latency_p50_s": 1}
    for target, some in boosters.items():
        for predict, booster in zip(trees[target], some, strict=True):
            np.testing.assert_array_equal(predict(rows), booster.predict(rows))


@pytest.fixture
def compilations(monkeypatch):
    """The boosters that are compiled from now on."""
    made = []

    def counted(booster):
        made.append(booster)
        return fast_trees.fast_predict(booster)

    monkeypatch.setattr(compiled_trees, "fast_predict", counted)
    return made


def test_trees_read_say_what_the_boosters_say_and_only_what_is_not_there_is_compiled(
    boosters, rows, tmp_path, compilations
):
    save_trees(tmp_path, boosters)
    compare(load_trees(tmp_path, boosters), boosters, rows)
    assert compilations == boosters["latency_p50_s"]
    compare(compile_trees(boosters), boosters, rows)


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def flip(path):
    content = bytearray(path.read_bytes())
    place = content.index(b"throughput_rps/0/values") + 400
    content[place] ^= 255
    path.write_bytes(content)


def layout_of_tomorrow(path):
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, "layout": np.array(99)})


def one_array_less(path):
    with np.load(path) as file:
        arrays = dict(file)
    del arrays["throughput_rps/1/sets"]
    np.savez(path, **arrays)


def code(path):
    np.savez(path, **{"layout": np.array([print], dtype=object)})


@pytest.mark.parametrize(
    "damage", [cut, flip, layout_of_tomorrow, one_array_less, code, lambda path: path.write_bytes(b"")]
)
def test_a_damaged_file_is_not_believed(boosters, rows, tmp_path, caplog, compilations, damage):
    save_trees(tmp_path, boosters)
    damage(tmp_path / COMPILED)
    compare(load_trees(tmp_path, boosters), boosters, rows)
    assert len(compilations) == 3
    assert "compiled trees are not used" in caplog.text


def test_without_a_file_all_is_compiled(boosters, rows, tmp_path, caplog, compilations):
    compare(load_trees(tmp_path, boosters), boosters, rows)
    assert len(compilations) == 3
    assert "not used" not in caplog.text
