"""A history kept between runs: arrays by name, never anything that could be executed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fingerpost.lake import write_atomically
from fingerpost.telemetry.history import History
from fingerpost.telemetry.history_state import fresh_state, index_of_common, remap_state


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
        old = {name: saved[f"state_{name}"] for name in state}
        remap_state(
            old,
            state,
            index_of_common(saved["hosts"].tolist(), hosts),
            index_of_common(saved["categories"].tolist(), categories),
        )
        return History(len(hosts), len(categories), window_s, halflife_s, state), int(saved["windows_seen"][0])
