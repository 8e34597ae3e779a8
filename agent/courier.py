"""Takes an agent's batches to the engine, so that agents and platform share nothing but the network."""

import http.client
import json
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from fingerpost.agent.sender import Target, ask
from fingerpost.engine_api import BATCH_KINDS, Call, EngineError, batch_call, checked
from fingerpost.lake import (
    INBOX,
    TAKEN,
    batch_name,
    published_categories,
    service_folder,
    set_aside,
    take_batch,
    write_text_atomically,
)
from fingerpost.masking import described

logger = logging.getLogger(__name__)
# The engine has read it, and it will never be one.
_NO_BATCH = (400, 413, 415)
_LOOK_EVERY_S = 1.0
_LONGEST_PAUSE_S = 30.0
_CATEGORIES_EVERY_S = 30.0


class Courier:
    """Sends every batch of a host that waits in the inbox, oldest first; a batch goes when the engine has landed it.

    An agent may replace a batch that waits by a longer one of the same name. So a batch is taken out of the agent's
    reach, under another name, before it is read. Killed and started again, it goes on with what it had taken; the
    engine knows a batch by its name, so that nothing is in the lake twice. A caller who is not let in waits: tokens
    are changed at one end first.

    It also brings the service's category table, which agents read from the lake.

    Args:
        lake: the agent's own folder.

    Attributes:
        problem: why batches wait; None: they do not.
    """

    def __init__(self, lake: Path, service: str, host: str, target: Target) -> None:
        self._lake, self._service, self._target = lake, service, target
        self._named = re.compile(rf"\.?{re.escape(host)}-\d{{16}}(-.*)?\.parquet({re.escape(TAKEN)})?")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="courier", daemon=True)
        self._categories_at_s = -_CATEGORIES_EVERY_S
        self.counts: Counter[str] = Counter()
        self.problem: str | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Tries once more to send what waits, and ends; the rest stays for the next start."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def deliver(self) -> None:
        """Sends what waits now.

        Raises:
            OSError, http.client.HTTPException, EngineError: the engine does not answer, or is to be asked again.
        """
        for kind, path in self._waiting():
            taken = take_batch(path)
            if taken is None:
                continue
            body, name = taken.read_bytes(), batch_name(taken).removesuffix(".parquet")
            answer = ask(self._target, batch_call(kind, self._service, name, body))
            try:
                checked(answer)
            except EngineError as error:
                if error.status not in _NO_BATCH:
                    raise
                self.counts["batches_refused"] += 1
                logger.error("the engine refused %s, kept as %s: %s", name, set_aside(taken).name, error)
                continue
            taken.unlink(missing_ok=True)
            self.counts["batches_delivered"] += 1

    def fetch_categories(self) -> None:
        """Brings the category table, if there is one; errors as of `deliver`."""
        answer = ask(self._target, Call("GET", f"/v1/services/{quote(self._service, safe='')}/categories"))
        if answer.status == http.client.NOT_FOUND:
            return
        text = json.dumps(json.loads(checked(answer).body), indent=1)
        path = published_categories(self._lake, self._service)
        if not path.exists() or path.read_text() != text:
            write_text_atomically(path, text)

    def _waiting(self) -> Iterator[tuple[str, Path]]:
        for kind in BATCH_KINDS:
            folder = service_folder(self._lake / INBOX, kind, self._service)
            found = [path for path in folder.glob("*/*") if self._named.fullmatch(path.name)]
            for path in sorted(found, key=lambda each: (not each.name.startswith("."), each.name)):
                yield kind, path

    def _work(self) -> None:
        pause_s = _LOOK_EVERY_S
        while True:
            stopping = self._stopping.is_set()
            try:
                self.deliver()
                if time.monotonic() - self._categories_at_s >= _CATEGORIES_EVERY_S:
                    self.fetch_categories()
                    self._categories_at_s = time.monotonic()
                self.problem = None
                pause_s = _LOOK_EVERY_S
            except (OSError, http.client.HTTPException, EngineError, ValueError) as error:
                if self.problem is None:
                    logger.warning("batches wait, the engine at %s does not take them: %s", self._target.url, error)
                self.problem = f"batches wait here, the engine does not take them: {described(error)}"
                self.counts["delivery_failures"] += 1
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
            if stopping:
                return
            self._stopping.wait(pause_s)
