"""An agent's history between its lives: one small file, written whole or not at all."""

import logging
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from fingerpost.agent.host_history import HostHistory
from fingerpost.agent.window_buffer import MAX_KEYS, REQUEST_ROWS, SAMPLE_ROWS, WindowBuffer
from fingerpost.bounded import Bounds, unpacked
from fingerpost.category import CategoryTable
from fingerpost.lake import write_atomically
from fingerpost.telemetry.history import HISTORY_SCHEMA
from fingerpost.telemetry.history_state import CELL_STATE, fresh_state

logger = logging.getLogger(__name__)
_FORMAT = 1
_MAX_BYTES = 64 * 2**20
# The finest keys and those of the category table, each a list of its own, and some besides.
_BOUNDS = Bounds(containers=MAX_KEYS + 8192, array=32_768, map=256, text=8192, binary=_MAX_BYTES)


class HistoryFile:
    """Keeps a history in step with how far its agent has read.

    It is saved before the agent notes how far it has read. If it ends in between, the same batch is read again: what is
    in the history already is then skipped.

    Args:
        path: of the file.
        history: that is kept; what an earlier life saved with the same settings is taken up.
        batch: name of the batch that is being read, of `Source.batch_name`.
    """

    def __init__(self, path: Path, history: HostHistory, batch: str) -> None:
        self._path, self._history = path, history
        self._taken = self._skip = 0
        try:
            self._load(batch)
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError) as error:
            logger.warning("the history begins anew, its file cannot be read: %s: %s", type(error).__name__, error)

    def add_requests(self, rows: list[dict[str, Any]]) -> None:
        """Takes the next request records of the batch."""
        self._taken += len(rows)
        skipped = min(self._skip, len(rows))
        self._skip -= skipped
        self._history.add_requests(rows[skipped:] if skipped else rows)

    def save(self, batch: str) -> None:
        """Writes what is known by now.

        Raises:
            OSError: it cannot be written.
        """
        history = self._history
        history.recent.gather(history.history.now_us)
        requests, keys = history.recent.open_keys()
        seen = np.flatnonzero(history.history.state["seen"][0])
        state = {
            name: _packed(each[..., seen] if name in CELL_STATE else each)
            for name, each in history.history.state.items()
        }
        about = {
            "format": _FORMAT,
            **_depends(history),
            "table": history.table.to_json(),
            "names": [history.table.names[place] for place in seen.tolist()],
            "state": state,
            "requests": requests.tobytes(),
            "samples": history.recent.samples.tobytes(),
            "keys": keys,
            "batch": batch,
            "taken": self._taken,
        }
        data = msgpack.packb(about)
        write_atomically(self._path, lambda temporary: temporary.write_bytes(data))

    def committed(self) -> None:
        """The agent has noted how far it has read: another batch begins."""
        self._taken = self._skip = 0

    def _load(self, batch: str) -> None:
        if self._path.stat().st_size > _MAX_BYTES:
            raise ValueError("it is too large")
        given = unpacked(self._path.read_bytes(), _BOUNDS)
        history = self._history
        wanted = {"format": _FORMAT, **_depends(history)}
        if {name: given[name] for name in wanted} != wanted:
            raise ValueError("it is of another version, or of other settings")
        names = [str(name) for name in given["names"]]
        state = fresh_state(1, len(names))
        for name, fresh in state.items():
            fresh[...] = _unpacked(given["state"][name], fresh)
        recent = WindowBuffer()
        recent.restore(
            np.frombuffer(given["requests"]).reshape(REQUEST_ROWS, -1).copy(),
            np.frombuffer(given["samples"]).reshape(SAMPLE_ROWS, -1).copy(),
            [tuple(map(str, key)) for key in given["keys"]],
        )
        if recent.requests.shape[1] and not 0 <= recent.requests[-1].max() < len(recent.keys):
            raise ValueError("its keys do not fit")
        history.table = CategoryTable.from_json(given["table"])
        history.restore(state, names, recent)
        # What was read from the same beginning will be read again.
        self._skip = int(given["taken"]) if given["batch"] == batch else 0


def _depends(history: HostHistory) -> dict[str, Any]:
    return {"schema": HISTORY_SCHEMA, "window_s": float(history.window_s), "halflife_s": float(history.halflife_s)}


def _packed(values: NDArray[Any]) -> bytes:
    return values.astype("<f8").tobytes() if values.dtype.kind == "f" else values.astype("<i8").tobytes()


def _unpacked(raw: bytes, like: NDArray[Any]) -> NDArray[Any]:
    return np.frombuffer(raw, dtype="<f8" if like.dtype.kind == "f" else "<i8").reshape(like.shape)
