"""Follows the engine's table and keeps the picker's file. Requests never wait for it."""

import json
import logging
import re
import socket
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from fingerpost.clock import US, clock_us
from fingerpost.engine_api import EngineClient
from fingerpost.errors import FingerpostError
from fingerpost.heartbeat import beat
from fingerpost.lake import remove_left_over, write_atomically
from fingerpost.routing.picker_table import Predictions, predictions_from_json, table_of
from fingerpost.routing.table_file import MAX_CATEGORIES, MAX_HOSTS, PickerTable, encode
from fingerpost.routing.trust import TrustKeeper, guard_file
from fingerpost.settings import Settings

_LOG = logging.getLogger("fingerpost.router")
# Six matrices: rows are the only lists, hosts the only maps.
_MAX_CONTAINERS = 6 * MAX_CATEGORIES + MAX_HOSTS + 64
# The engine answers a waiting request when it has another table; the file's expiry is renewed in between. With a guard
# outcomes are looked at in between as well.
_WAIT_S = 5.0
GUARDED_WAIT_S = 0.5
_PAUSE_S, _MAX_PAUSE_S = 0.1, 10.0
_NOT_IN_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def write_table(path: Path, table: PickerTable) -> None:
    """Writes the picker's file: whole or not at all.

    Raises:
        ValueError: the table is more than a picker takes.
    """
    _write(path, encode(table))


def _write(path: Path, data: bytes) -> None:
    def write(temporary: Path) -> None:
        temporary.write_bytes(data)
        # The proxy may run as another user.
        temporary.chmod(0o644)

    write_atomically(path, write)


class Router:
    """Copies the engine's table of one service into the picker's file.

    Args:
        engine: URL of the engine.
        path: the picker's file.
        access_log: the proxies' log, to correct predictions by the outcomes of requests; None: they are trusted as far
            as the setting `prediction_trust` says. The guard's state is kept in a file beside the picker's, of the
            same name with `.guard.json` after it.
        kind: what the engine's page calls it: `router`, or `endpoint-picker`.

    Attributes:
        table: that is in force; None before the first.
        guard_state: see `fingerpost.routing.trust.TrustKeeper.state`; empty before the first look at the log.
    """

    def __init__(
        self, engine: str, path: Path, settings: Settings, access_log: Path | None = None, kind: str = "router"
    ) -> None:
        self._path, self._settings = path, settings
        self._who, self._told_s = f"{kind}/{_name_of(path, settings.service)}", 0.0
        remove_left_over(path.parent, recursive=False)
        self._guard = TrustKeeper(access_log, settings.service, settings.prediction_trust) if access_log else None
        self._predictions: Predictions | None = None
        self._client = EngineClient(engine, settings.token_to_send, tls=settings.engine_tls)
        self._etag = ""
        self.table: PickerTable | None = None
        self.guard_state: dict[str, Any] = {}

    @property
    def table_age_s(self) -> float | None:
        """Since the engine gave the table in force, or said that it is still right, seconds; None before the first."""
        return time.monotonic() - self._told_s if self.table else None

    def close(self) -> None:
        self._client.close()
        if self._guard:
            self._guard.close()

    def sync(self, wait_s: float = 0.0, who: str = "") -> bool:
        """Asks once for the table and writes it; False if it is the one that is there, whose expiry is renewed.

        Args:
            who: goes on to ask, and is told so to the engine; empty: nobody does.

        Raises:
            FingerpostError: the engine does not answer, or not with a table.
        """
        try:
            changed = self._sync(wait_s, who)
        except (FingerpostError, ValueError) as error:
            raise FingerpostError(f"no table from {self._client.url}: {error}") from error
        self._told_s = time.monotonic()
        return changed

    def _sync(self, wait_s: float, who: str) -> bool:
        given = self._client.table(self._settings.service, self._etag, wait_s, who)
        if given.body is None:
            if self.table is None:
                raise ValueError("304 Not Modified, although no table was named in the request")
            if given.expires_at:
                self._keep(replace(self.table, expires_us=round(given.expires_at * US)))
            return False
        if given.body.count(b"[") + given.body.count(b"{") > _MAX_CONTAINERS:
            raise ValueError(f"the answer has more than {_MAX_CONTAINERS} lists and maps")
        import orjson

        self._keep_predictions(predictions_from_json(orjson.loads(given.body)))
        self._etag = given.etag
        return True

    def judge(self) -> bool:
        """Compares predictions with outcomes; writes the table anew, and returns True, if costs are to be corrected."""
        if not self._guard or not self._predictions or not self.table:
            return False
        try:
            changed = self._guard.update(self._predictions)
        except OSError as error:
            # Without a log nothing is judged; the table must stay fresh all the same.
            _LOG.warning("the access log cannot be read: %s", error)
            return False
        try:
            self.guard_state = self._guard.state()
            _write(guard_file(self._path), json.dumps(self.guard_state).encode())
        except OSError as error:
            # It is for people: the table is corrected and kept fresh without it.
            _LOG.warning("what the guard found cannot be written: %s", error)
        if changed:
            self._keep_predictions(replace(self._predictions, expires_us=self.table.expires_us))
        return changed

    def _keep_predictions(self, predictions: Predictions) -> None:
        correction = self._guard.correct(predictions) if self._guard else None
        self._keep(table_of(predictions, self._settings, clock_us(), correction))
        self._predictions = predictions

    def _keep(self, table: PickerTable) -> None:
        write_table(self._path, table)
        self.table = table

    def follow(self, stop: threading.Event) -> None:
        """Keeps the file fresh until stopped. While the engine is away the file stays as it is, and expires."""
        pause, wait_s = _PAUSE_S, (GUARDED_WAIT_S if self._guard else _WAIT_S) - _PAUSE_S
        while not stop.is_set():
            beat()
            try:
                self.judge()
                if self.sync(wait_s if self._etag else 0.0, self._who):
                    _LOG.info("table %s", self.table.version if self.table else "")
                pause = _PAUSE_S
            except (FingerpostError, OSError) as error:
                _LOG.warning("%s; the table there is stays in force until it expires", error)
                pause = min(pause * 2, _MAX_PAUSE_S)
            stop.wait(pause)


def _name_of(path: Path, service: str) -> str:
    """What the engine's page calls a picker: its machine, and its file where that is not called as its service."""
    parts = [socket.gethostname(), *([path.stem] if path.stem != service else [])]
    return _NOT_IN_NAME.sub("-", "-".join(parts)).strip("._-")[:64] or "unnamed"
