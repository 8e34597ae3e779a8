"""LightGBM's trees as flat arrays, which a compiled kernel goes through several times as fast as LightGBM itself does.

The predictions are the same to the bit: every row ends in the same leaf, and leaves are added up in the same order.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fingerpost.arrays import Floats

if TYPE_CHECKING:
    from lightgbm import Booster

logger = logging.getLogger(__name__)
Predict = Callable[[Floats], Floats]

# What `fingerpost.training.trees.kernel.add_trees` asks for, by name and in its order.
ARRAYS = ("used", "feature", "threshold", "kind", "stay", "first_split", "values", "first_word", "sets")
# Of a split's decision type (LightGBM's include/LightGBM/tree.h): flags, and what counts as missing from bit 2 on.
_CATEGORICAL, _DEFAULT_LEFT = 1, 2
_MISSING_NONE, _MISSING_ZERO = 0, 1
# Numbers this near 0 are 0 to LightGBM (kZeroThreshold, a float there).
_ZERO = float(np.float32(1e-35))
# Objectives whose predictions are the sum of the leaves; a function of one's own is not named at all.
_PLAIN_OBJECTIVES = ("regression", "regression_l1", "huber", "fair", "quantile", "mape", "custom")
# How a split asks: `x <= t`, where NaN goes right; `not x > t`, where NaN goes left; is the category in a set?
LEFT_IF, LEFT_UNLESS, IN_SET = 0, 1, 2
MAX_LEAVES = 64
# Multiplied by it, each power of two has other topmost six bits (Leiserson et al., 1998): numbers the single bits.
DE_BRUIJN = 0x03F79D71B4CB0A89
TOP_SIX = 58
_WORD = 2**64 - 1


class UnsupportedTreesError(ValueError):
    """The trees of a booster ask for what the kernel cannot do."""


class DamagedTreesError(ValueError):
    """What is written of a booster's trees is not of trees."""


def fast_predict(booster: "Booster") -> Predict:
    """What `booster.predict` says of float64 rows: by the kernel, or where that cannot, by LightGBM on one thread."""
    try:
        return Forest.of(booster).predict
    except UnsupportedTreesError as reason:
        logger.warning("trees are not compiled: %s", reason)
        return lambda matrix: np.asarray(booster.predict(matrix, num_threads=1))


@dataclass(frozen=True)
class Forest:
    """A booster's trees; see `fingerpost.training.trees.kernel.add_trees`.

    Args:
        features: number of features that rows have.
        arrays: the kernel's, those of `ARRAYS`.
    """

    features: int
    arrays: tuple[NDArray[Any], ...]

    @classmethod
    def of(cls, booster: "Booster") -> "Forest":
        """The trees that `booster.predict` goes through.

        Raises:
            UnsupportedTreesError: it has more than 64 leaves a tree, zeros that count as missing, linear leaves,
                several outputs, or an objective whose predictions are not the sum of the leaves.
            DamagedTreesError: nodes, features or leaves are not those of trees; the kernel would read past its arrays.
        """
        header, trees = _parse(booster.model_to_string())
        for number, tree in enumerate(trees):
            if problem := _problem(tree, int(header["max_feature_idx"]) + 1):
                raise DamagedTreesError(f"tree {number}: {problem}")
        _refuse_other_outputs(header)
        splits = [split for number, tree in enumerate(trees) for split in _splits(number, tree)]
        asked = np.array([split.feature for split in splits], dtype=np.int64)
        used = np.unique(asked)
        values = np.zeros((len(trees), MAX_LEAVES))
        for number, tree in enumerate(trees):
            for place, leaf in enumerate(_leaves(tree)):
                values[number, slot_of(place)] = tree.leaf_value[leaf]
        words = [split.words for split in splits]
        return cls(
            int(header["max_feature_idx"]) + 1,
            (
                used,
                np.searchsorted(used, asked),
                np.array([split.threshold for split in splits], dtype=np.float64),
                np.array([split.kind for split in splits], dtype=np.int64),
                np.array([split.stay for split in splits], dtype=np.uint64),
                np.cumsum([0, *(len(tree.feature) for tree in trees)], dtype=np.int64),
                values,
                np.cumsum([0, *map(len, words)], dtype=np.int64),
                np.array([word for each in words for word in each], dtype=np.uint64),
            ),
        )

    def predict(self, matrix: Floats) -> Floats:
        """As `Booster.predict`, shape (rows,).

        Args:
            matrix: shape (rows, features); quickest if a feature's values lie side by side (Fortran order).

        Raises:
            ValueError: it has another number of features than the booster was trained with.
        """
        # Compiles the kernel, unless that has been done.
        from fingerpost.training.trees.kernel import add_trees

        if matrix.shape[1] != self.features:
            raise ValueError(f"rows have {matrix.shape[1]} features, the trees were made for {self.features}")
        out = np.zeros(len(matrix))
        add_trees(np.ascontiguousarray(matrix.T, dtype=np.float64), *self.arrays, out)
        return out


@dataclass(frozen=True)
class _Tree:
    """A tree as LightGBM writes it: children below 0 are leaves, -1 the first."""

    feature: list[int]
    threshold: list[float]
    decision: list[int]
    left: list[int]
    right: list[int]
    leaf_value: list[float]
    set_begins: list[int]
    set_words: list[int]


@dataclass(frozen=True)
class _Split:
    feature: int
    threshold: float
    kind: int
    stay: int
    words: list[int]


def _parse(text: str) -> tuple[dict[str, str], list[_Tree]]:
    """The header and the trees of a model file."""
    header, *blocks = text.split("\n\nend of trees", maxsplit=1)[0].split("\nTree=")
    trees = []
    for block in blocks:
        said = _said(block)
        if said.get("is_linear", "0") != "0":
            raise UnsupportedTreesError("leaves are linear functions")

        def ints(name: str, said: dict[str, str] = said) -> list[int]:
            return [int(value) for value in said.get(name, "").split()]

        def floats(name: str, said: dict[str, str] = said) -> list[float]:
            return [float(value) for value in said.get(name, "").split()]

        trees.append(
            _Tree(
                ints("split_feature"),
                floats("threshold"),
                ints("decision_type"),
                ints("left_child"),
                ints("right_child"),
                floats("leaf_value"),
                ints("cat_boundaries"),
                ints("cat_threshold"),
            )
        )
    return _said(header), trees


def _problem(tree: _Tree, features: int) -> str | None:
    """What is wrong with a tree, or None: every node and leaf hangs in one place, and asks for what there is."""
    nodes, leaves = len(tree.feature), len(tree.leaf_value)
    if {nodes} != {len(each) for each in (tree.feature, tree.threshold, tree.decision, tree.left, tree.right)}:
        return "its nodes are not all told of"
    if leaves != nodes + 1:
        return f"{leaves} leaves do not fit to {nodes} nodes"
    children = sorted([*tree.left, *tree.right])
    # Each but the root has one parent, and a parent's number is smaller than its own: there are no circles.
    if children != [*range(-leaves, 0), *range(1, nodes)] and nodes:
        return "a node or leaf has no place, or two"
    if any(0 < child <= node for side in (tree.left, tree.right) for node, child in enumerate(side)):
        return "a node lies below itself"
    if not all(0 <= feature < features for feature in tree.feature):
        return f"it asks for a feature that is none of {features}"
    if not np.isfinite(tree.leaf_value).all() or np.isnan(tree.threshold).any():
        return "a leaf or threshold is not a number"
    begins, words = tree.set_begins, tree.set_words
    if begins and (begins != sorted(begins) or begins[0] < 0 or begins[-1] > len(words)):
        return "its sets of categories are not all told of"
    if not all(0 <= word < 2**32 for word in words):
        return "a set of categories is out of range"
    chosen = (value for value, decision in zip(tree.threshold, tree.decision, strict=True) if decision & _CATEGORICAL)
    if not all(0 <= value < len(begins) - 1 for value in chosen):
        return "it asks for a set of categories that is not there"
    return None


def _said(lines: str) -> dict[str, str]:
    return {name: value for name, _, value in (line.partition("=") for line in lines.splitlines())}


def _refuse_other_outputs(header: dict[str, str]) -> None:
    if header.get("num_class") != "1" or header.get("num_tree_per_iteration") != "1":
        raise UnsupportedTreesError("there are several outputs")
    if "average_output" in header:
        raise UnsupportedTreesError("trees are averaged")
    objective, *options = header.get("objective", "custom").split()
    if objective not in _PLAIN_OBJECTIVES or "sqrt" in options:
        raise UnsupportedTreesError(f"predictions of the objective {objective} are not the sum of the leaves")


def _leaves(tree: _Tree, node: int = 0) -> Iterator[int]:
    """The leaves under a node from left to right."""
    if not tree.feature:
        yield 0
    elif node < 0:
        yield ~node
    else:
        yield from _leaves(tree, tree.left[node])
        yield from _leaves(tree, tree.right[node])


def _splits(number: int, tree: _Tree) -> list[_Split]:
    if len(tree.leaf_value) > MAX_LEAVES:
        raise UnsupportedTreesError(f"tree {number} has {len(tree.leaf_value)} leaves, more than {MAX_LEAVES}")
    place = {leaf: position for position, leaf in enumerate(_leaves(tree))}
    splits = []
    for node, feature in enumerate(tree.feature):
        stay = 2**64 - 1
        for leaf in _leaves(tree, tree.left[node]):
            stay &= ~(1 << place[leaf])
        if tree.decision[node] & _CATEGORICAL:
            chosen = int(tree.threshold[node])
            words = tree.set_words[tree.set_begins[chosen] : tree.set_begins[chosen + 1]]
            # What is in no word of the set is looked up in one of zeros.
            splits.append(_Split(feature, 32.0 * len(words), IN_SET, stay, [*words, 0]))
        else:
            threshold, kind = _question(tree.threshold[node], tree.decision[node])
            splits.append(_Split(feature, threshold, kind, stay, []))
    return splits


def _question(threshold: float, decision: int) -> tuple[float, int]:
    """What a split on a number asks, so that what LightGBM takes for 0, and NaN, go where they go there."""
    missing = decision >> 2 & 3
    if missing == _MISSING_ZERO:
        raise UnsupportedTreesError("zeros count as missing values")
    nan_left = threshold >= 0 if missing == _MISSING_NONE else bool(decision & _DEFAULT_LEFT)
    if abs(threshold) <= _ZERO:
        threshold = _ZERO if threshold >= 0 else float(np.nextafter(-_ZERO, -np.inf))
    return threshold, LEFT_UNLESS if nan_left else LEFT_IF


def slot_of(leaf: int) -> int:
    """Where the kernel looks up the value of a leaf."""
    return ((1 << leaf) * DE_BRUIJN & _WORD) >> TOP_SIX
