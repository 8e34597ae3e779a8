"""The latest fingerprints, as the features step wrote them; read again when the file is another."""

from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq

from fingerpost.features.build import fingerprints_path
from fingerpost.features.definition import schema_hash


class LatestFingerprints:
    """Reads `fingerprints/service=S/latest.parquet`, once for every version of the file.

    After `read`, `problem` says why there are none, or is None.
    """

    def __init__(self, lake: Path, service: str) -> None:
        self._path = fingerprints_path(lake, service)
        self._stamp: tuple[int, int] | None = None
        self._frame: pd.DataFrame | None = None
        self.problem: str | None = None

    def read(self) -> pd.DataFrame | None:
        """The fingerprints; None if there are none yet, or if they have other features than this program."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            self.problem = "the features flow has not run"
            return None
        stamp = (stat.st_mtime_ns, stat.st_ino)
        if stamp != self._stamp:
            table = pq.read_table(self._path)
            found = (table.schema.metadata or {}).get(b"schema_hash", b"").decode()
            fits = found == schema_hash()
            self.problem = None if fits else f"their schema is {found or 'unknown'}, this program's is {schema_hash()}"
            self._frame, self._stamp = (table.to_pandas() if fits else None), stamp
        return self._frame
