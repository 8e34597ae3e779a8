"""Goes on in the middle of a date: of one whose windows are still coming, what was replayed is not replayed again.

A checkpoint holds the history as of some minutes before the date's last window, and a digest of the windows up to
there. While the digest fits, replaying the rest ends the same as replaying all; else the date is replayed from its
beginning.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fingerpost.clock import US
from fingerpost.features.definition import schema_hash
from fingerpost.features.outside import Outside
from fingerpost.features.replay import Replay, was_saved
from fingerpost.features.thinning import Thinning, name_hashes
from fingerpost.lake import write_table
from fingerpost.telemetry.windows import Arrays

# What agents report later than this after the date's last window has the date replayed.
LATE_S = 600.0
_NAMES = pa.dictionary(pa.int32(), pa.string())


class OpenDate:
    """What is kept of one date: its history, its training rows, and while it is the latest, its checkpoint.

    Args:
        history: file of the history as of the date's end.
        features: file of the training rows.
        window_s, halflife_s: seconds.
    """

    def __init__(self, history: Path, features: Path, window_s: float, halflife_s: float) -> None:
        self.history, self._features = history, features
        self._checkpoint = history.with_name("open.npz")
        self._span, self._span_us = (window_s, halflife_s), round(window_s * US)
        # What a checkpoint that fits has: its time, and the rows up to there.
        self._until_us, self._rows = 0, list[pa.Table]()

    @property
    def is_done(self) -> bool:
        """Whether the date was replayed to its end, with these settings and this version's features."""
        return was_saved(self.history, *self._span)

    def forget(self) -> None:
        """Has the date replayed: what comes before it is about to change."""
        self.history.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Removes the checkpoint."""
        self._checkpoint.unlink(missing_ok=True)

    def resume(
        self, windows: Arrays, loads: Arrays, hosts: Sequence[str], categories: Sequence[str], outside: Outside
    ) -> Replay | None:
        """The replay as of the checkpoint; None: there is none, or it does not fit.

        Args:
            windows, loads: of the date, their indices in `hosts` and `categories`.
        """
        if not was_saved(self._checkpoint, *self._span):
            return None
        with np.load(self._checkpoint, allow_pickle=False) as saved:
            until_us, count, digest = int(saved["until_us"]), int(saved["rows"]), str(saved["digest"])
        if digest_of(windows, loads, hosts, categories, until_us) != digest:
            return None
        rows = [self._rows_until(until_us)] if self._features.exists() else []
        if sum(each.num_rows for each in rows) != count:
            return None
        self._until_us, self._rows = until_us, rows
        return Replay.resume(self._checkpoint, hosts, categories, *self._span, outside)

    def run(self, replay: Replay, windows: Arrays, loads: Arrays, thinning: Thinning | None, is_latest: bool) -> int:
        """Replays what comes after the checkpoint; writes training rows, history, and of the latest date a checkpoint.

        Args:
            replay: of `resume`, or as of the end of the date before.
            windows, loads: of the whole date.

        Returns:
            How many windows were replayed.
        """
        share = np.ones(len(windows["end_us"])) if thinning is None else thinning.shares(windows["end_us"])
        windows = {**windows, "share": share}
        ends = np.unique(np.r_[windows["end_us"], loads["end_us"]])
        last_us = int(ends[-1]) if len(ends) else self._until_us
        edge_us = max(self._until_us, last_us - round(LATE_S * US))
        rows = [self._thinned(each, windows) for each in self._rows]
        rows += _tables(
            replay.run(_between(windows, self._until_us, edge_us), _between(loads, self._until_us, edge_us))
        )
        fresh = self._checkpoint.with_name("next.npz")
        if is_latest:
            digest = digest_of(windows, loads, replay.hosts, replay.categories, edge_us)
            count = sum(each.num_rows for each in rows)
            replay.save(fresh, until_us=np.array(edge_us), rows=np.array(count), digest=np.array(digest))
        rows += _tables(replay.run(_between(windows, edge_us, last_us), _between(loads, edge_us, last_us)))
        if sum(each.num_rows for each in rows):
            write_table(self._features, pa.concat_tables(rows).unify_dictionaries(), {"schema_hash": schema_hash()})
        else:
            self._features.unlink(missing_ok=True)
        if is_latest:
            # After its rows: the checkpoint from before tells another number of them, and is not used.
            fresh.replace(self._checkpoint)
        replay.save(self.history)
        return int((ends > self._until_us).sum())

    def _rows_until(self, until_us: int) -> pa.Table:
        """The rows of windows that ended by a time, where they are of this version."""
        table = pq.read_table(self._features, partitioning=None)
        if (table.schema.metadata or {}).get(b"schema_hash", b"").decode() != schema_hash():
            return table.slice(0, 0)
        begun_us = table.column("time").cast(pa.int64())
        return table.filter(pc.less_equal(begun_us, until_us - self._span_us))

    def _thinned(self, rows: pa.Table, windows: Arrays) -> pa.Table:
        """The rows that are still kept, now that there are more windows: shares only fall as a date goes on."""
        ends, first = np.unique(windows["end_us"], return_index=True)
        end_us = rows.column("time").cast(pa.int64()).to_numpy() + self._span_us
        share = windows["share"][first][np.searchsorted(ends, end_us)]
        kept = rows.column("draw").to_numpy() < share
        weight = np.maximum(rows.column("weight").to_numpy(), 1 / share)
        return rows.set_column(rows.schema.get_field_index("weight"), "weight", pa.array(weight)).filter(pa.array(kept))


def digest_of(windows: Arrays, loads: Arrays, hosts: Sequence[str], categories: Sequence[str], until_us: int) -> str:
    """A digest of the windows and loads that ended by a time, whichever places hosts and categories have."""
    digest = hashlib.blake2b(digest_size=16)
    names = {"host": name_hashes(hosts), "category": name_hashes(categories)}
    for arrays in (windows, loads):
        count = int(np.searchsorted(arrays["end_us"], until_us, side="right"))
        for name in sorted(arrays.keys() - {"share"}):
            values = arrays[name][:count]
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(names[name][values.astype(np.int64)] if name in names else values).data)
    return digest.hexdigest()


def _between(arrays: Arrays, after_us: int, until_us: int) -> Arrays:
    """The entries of windows that ended after a time, and by another; `arrays` are ordered by `end_us`."""
    low, high = (int(np.searchsorted(arrays["end_us"], each, side="right")) for each in (after_us, until_us))
    return {name: values[low : max(low, high)] for name, values in arrays.items()}


def _tables(rows: pd.DataFrame) -> list[pa.Table]:
    """Rows as a table, in the types that it has when it is read again; none where there are none."""
    if rows.empty:
        return []
    table = pa.Table.from_pandas(rows, preserve_index=False).replace_schema_metadata()
    types = [_NAMES if pa.types.is_dictionary(field.type) else field.type for field in table.schema]
    return [table.cast(pa.schema(zip(table.column_names, types, strict=True)))]
