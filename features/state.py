"""A history kept between runs: arrays by name, never anything that could be executed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fingerpost.lake import write_atomically
from fleet.history import History
from fleet.history_state import CELL_STATE, fresh_state


@dataclass(frozen=True)
class Kept:
    """A history with the names that its places stand for, and how many windows with requests it has seen."""

    history: History
    hosts: list[str]
    categories: list[str]
    windows_seen: int


def save_state(path: Path, kept: Kept) -> None:
    """Writes a history whole or not at all."""
    arrays: dict[str, Any] = {
        "hosts": np.array(kept.hosts, dtype=np.str_),
        "categories": np.array(kept.categories, dtype=np.str_),
    }
    arrays["windows_seen"] = np.array([kept.windows_seen])
    arrays.update({f"state_{name}": each for name, each in kept.history.state.items()})

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez(file, **arrays)

    write_atomically(path, write)


def load_state(
    path: Path, hosts: Sequence[str], categories: Sequence[str], window_s: float, halflife_s: float
) -> tuple[History, int] | None:
    """The history of `save_state` with places for these hosts and categories, and the windows it has seen.

    None if there is none. Hosts and categories that it did not know have no history; those that it knew but that are
    not named are dropped.
    """
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as saved:
        state = fresh_state(len(hosts), len(categories))
        places = {
            "H": _places(saved["hosts"].tolist(), hosts),
            "C": _places(saved["categories"].tolist(), categories),
        }
        for name, fresh in state.items():
            old = saved[f"state_{name}"]
            if name == "now_us":
                fresh[...] = old
            elif name in CELL_STATE:
                (new_h, old_h), (new_c, old_c) = places["H"], places["C"]
                fresh[(..., new_h[:, None], new_c)] = old[(..., old_h[:, None], old_c)]
            else:
                new_h, old_h = places["H"]
                fresh[..., new_h] = old[..., old_h]
        return History(len(hosts), len(categories), window_s, halflife_s, state), int(saved["windows_seen"][0])


def _places(old: Sequence[str], new: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Of the names in both: their places in the new and in the old."""
    index = {name: place for place, name in enumerate(old)}
    both = [(place, index[name]) for place, name in enumerate(new) if name in index]
    pairs = np.array(both, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]
