"""The trees of a booster over a block of rows, compiled: importing this module takes seconds.

Bit vectors in place of walks from the root (QuickScorer: Lucchese et al., SIGIR 2015). A tree's leaves are the bits of
a word, the leftmost the lowest. Every split that a row fails rules out the leaves on its left, whichever way the row
came; of those that are left, the lowest is the row's. There is no branch to mispredict, and one split is compared with
many rows at once.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from fingerpost.training.trees.fast import DE_BRUIJN, LEFT_IF, LEFT_UNLESS, TOP_SIX

# Rows whose used features fit into a core's second-level cache.
_ROWS = 256
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_NONE, _ONE = np.uint64(0), np.uint64(1)
_DE_BRUIJN, _TOP_SIX = np.uint64(DE_BRUIJN), np.uint64(TOP_SIX)


# For the one signature, and so when this is imported, not at the first call; kept nowhere: the program's folder may be
# read-only.
compiled: Any = njit(
    "void(float64[:, ::1], int64[::1], int64[::1], float64[::1], int64[::1], uint64[::1], int64[::1],"
    " float64[:, ::1], int64[::1], uint64[::1], float64[::1])",
    nogil=True,
    error_model="numpy",
)


@compiled
def add_trees(
    columns: NDArray[np.float64],
    used: NDArray[np.int64],
    feature: NDArray[np.int64],
    threshold: NDArray[np.float64],
    kind: NDArray[np.int64],
    stay: NDArray[np.uint64],
    first_split: NDArray[np.int64],
    values: NDArray[np.float64],
    first_word: NDArray[np.int64],
    sets: NDArray[np.uint64],
    out: NDArray[np.float64],
) -> None:
    """Adds every tree's value to `out`, in the order of the trees; S splits and T trees.

    Args:
        columns: features, shape (features, rows).
        used: the features that trees ask for.
        feature: of each split, as a place in `used`, shape (S,).
        threshold: of each split; of IN_SET the least category beyond the set's bits, shape (S,).
        kind: LEFT_IF, LEFT_UNLESS or IN_SET, shape (S,).
        stay: the leaves that are left when a row fails the split, shape (S,).
        first_split: of each tree, and the end, shape (T + 1,).
        values: of leaves, at the places that `slot_of` says, shape (T, 64).
        first_word: of each split's set in `sets`, and the end, shape (S + 1,).
        sets: of categories, a bit each, 32 a word, and a word of zeros after each.
        out: shape (rows,).
    """
    block = np.empty((len(used), _ROWS))
    left = np.empty(_ROWS, dtype=np.uint64)
    for begin in range(0, columns.shape[1], _ROWS):
        count = min(_ROWS, columns.shape[1] - begin)
        for place in range(len(used)):
            for row in range(count):
                block[place, row] = columns[used[place], begin + row]
        for tree in range(len(values)):
            for row in range(count):
                left[row] = _ALL
            for split in range(first_split[tree], first_split[tree + 1]):
                asked, limit, others = block[feature[split]], threshold[split], stay[split]
                if kind[split] == LEFT_IF:
                    for row in range(count):
                        left[row] &= _ALL if asked[row] <= limit else others
                elif kind[split] == LEFT_UNLESS:
                    for row in range(count):
                        left[row] &= others if asked[row] > limit else _ALL
                else:
                    words, outside = sets[first_word[split] : first_word[split + 1]], limit
                    for row in range(count):
                        # A fraction is cut off, also that of a negative number.
                        code = np.int64(asked[row]) if -1.0 < asked[row] < outside else np.int64(outside)
                        inside = _ONE & (words[np.uint64(code >> 5)] >> np.uint64(code & 31))
                        left[row] &= others | (_NONE - inside)
            for row in range(count):
                lowest = left[row] & (~left[row] + _ONE)
                out[begin + row] += values[tree, (lowest * _DE_BRUIJN) >> _TOP_SIX]
