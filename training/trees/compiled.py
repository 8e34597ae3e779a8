"""The compiled trees of a model in a file beside it: made once where it is fetched, read by everyone who serves it.

To compile them takes a tenth of a second of Python, in which a process answers nobody; to read them, milliseconds.
"""

import logging
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fingerpost.training.trees.fast import ARRAYS, Forest, Predict, UnsupportedTreesError, fast_predict

if TYPE_CHECKING:
    from lightgbm import Booster

logger = logging.getLogger(__name__)
COMPILED = "compiled.npz"
# To be raised when the arrays, or what the kernel makes of them, change.
_LAYOUT = 1
Boosters = Mapping[str, Sequence["Booster"]]
Trees = dict[str, list[Predict]]


def compile_trees(boosters: Boosters) -> Trees:
    """What the boosters of each target predict; see `fingerpost.training.trees.fast.fast_predict`."""
    return {target: [fast_predict(each) for each in some] for target, some in boosters.items()}


def save_trees(folder: Path, boosters: Boosters) -> None:
    """Compiles a model's trees into its folder, in place of what lies there; those the kernel cannot do are left out.

    Raises:
        OSError: they cannot be written.
    """
    arrays: dict[str, Any] = {"layout": np.array(_LAYOUT)}
    for target, some in boosters.items():
        for number, booster in enumerate(some):
            try:
                forest = Forest.of(booster)
            except UnsupportedTreesError:
                continue
            arrays[f"{target}/{number}/features"] = np.array(forest.features)
            arrays.update({f"{target}/{number}/{name}": each for name, each in zip(ARRAYS, forest.arrays, strict=True)})
    np.savez(folder / COMPILED, **arrays)


def load_trees(folder: Path, boosters: Boosters) -> Trees:
    """As `compile_trees`, by what `save_trees` wrote of these boosters; compiles what is not there, or not readable."""
    saved = _saved(folder)
    return {
        target: [saved.get((target, number)) or fast_predict(booster) for number, booster in enumerate(some)]
        for target, some in boosters.items()
    }


def _saved(folder: Path) -> dict[tuple[str, int], Predict]:
    try:
        with np.load(folder / COMPILED, allow_pickle=False) as file:
            arrays = dict(file)
        if arrays.pop("layout") != _LAYOUT:
            raise ValueError("they have another layout")
        forests: dict[tuple[str, int], Predict] = {}
        for target, number in sorted({tuple(name.split("/")[:2]) for name in arrays}):
            of = f"{target}/{number}"
            forest = Forest(int(arrays[f"{of}/features"]), tuple(arrays[f"{of}/{name}"] for name in ARRAYS))
            forests[target, int(number)] = forest.predict
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("compiled trees are not used: %s: %s", type(error).__name__, error)
        return {}
    return forests
