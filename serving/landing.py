"""Lands batches that agents send in the lake's inbox, where the ingest flow finds them."""

import re
import time
from pathlib import Path

from fingerpost.clock import clock_us
from fingerpost.engine_api import BATCH_KINDS, LANDED_KINDS
from fingerpost.errors import RefusedError
from fingerpost.lake import INBOX, date_of, partition, service_folder, write_bytes_atomically
from fingerpost.names import is_name

MAX_BATCH_BYTES = 16 * 2**20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_MAGIC = b"PAR1"
_LEAST_BYTES = 12
_LOOK_EVERY_S = 5.0


class FullError(Exception):
    """The inbox holds as much as it may: nobody ingests."""


class Landing:
    """Writes batches into the inbox, whole or not at all; one that comes again replaces itself.

    What is in a batch is checked by ingest, row by row. Several engines may land in one lake.

    Args:
        lake: folder of the lake; an attribute too.
        most_bytes: of a service's batches that wait; further ones are refused until some are ingested.
    """

    def __init__(self, lake: Path, most_bytes: int) -> None:
        self.lake, self._most_bytes = lake, most_bytes
        self._waiting: dict[str, tuple[float, int]] = {}

    def land(self, kind: str, service: str, name: str, body: bytes) -> None:
        """Writes a batch.

        Args:
            name: of the file, without its suffix; the same for what is reported twice.

        Raises:
            RefusedError: it can be no batch: `kind:unknown`, `service:invalid`, `name:invalid`, `batch:not_parquet`.
            FullError: too much waits to be ingested.
            OSError: it cannot be written.
        """
        if kind not in BATCH_KINDS:
            raise RefusedError("kind:unknown")
        if not is_name(service):
            raise RefusedError("service:invalid")
        if not _NAME.fullmatch(name):
            raise RefusedError("name:invalid")
        if len(body) < _LEAST_BYTES or body[:4] != _MAGIC or body[-4:] != _MAGIC:
            raise RefusedError("batch:not_parquet")
        self.write(kind, service, name, body)

    def write(self, kind: str, service: str, name: str, body: bytes | memoryview) -> None:
        """Writes a batch of the engine's own, under a name that it knows to be good.

        Raises:
            FullError: too much waits to be ingested.
            OSError: it cannot be written.
        """
        if self._bytes(service) + len(body) > self._most_bytes:
            raise FullError(f"{self._most_bytes / 2**20:g} MB of {service} wait for the ingest flow")
        folder = partition(self.lake / INBOX, kind, service, date_of(clock_us()))
        write_bytes_atomically(folder / f"{name}.parquet", body)
        looked_s, size = self._waiting[service]
        self._waiting[service] = (looked_s, size + len(body))

    def _bytes(self, service: str) -> int:
        """What waits of a service; looked at every few seconds, in between what was landed is added."""
        looked_s, size = self._waiting.get(service, (-_LOOK_EVERY_S, 0))
        now_s = time.monotonic()
        if now_s - looked_s >= _LOOK_EVERY_S:
            size = sum(
                _size(path) for kind in (*BATCH_KINDS, *LANDED_KINDS) for path in _files(self.lake, kind, service)
            )
            self._waiting[service] = (now_s, size)
        return size


def _files(lake: Path, kind: str, service: str) -> list[Path]:
    return list(service_folder(lake / INBOX, kind, service).rglob("*.parquet*"))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it was ingested meanwhile
        return 0
