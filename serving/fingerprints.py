"""The latest fingerprints, as the features step wrote them; read again when the file is another."""

from pathlib import Path

import pandas as pd

from features.build import fingerprints_path


class LatestFingerprints:
    """Reads `fingerprints/service=S/latest.parquet`, once for every version of the file."""

    def __init__(self, lake: Path, service: str) -> None:
        self._path = fingerprints_path(lake, service)
        self._stamp: tuple[int, int] | None = None
        self._frame: pd.DataFrame | None = None

    def read(self) -> pd.DataFrame | None:
        """The fingerprints, or None if there are none yet."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return None
        stamp = (stat.st_mtime_ns, stat.st_ino)
        if stamp != self._stamp:
            self._frame, self._stamp = pd.read_parquet(self._path), stamp
        return self._frame
