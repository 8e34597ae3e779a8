"""How late the event loop is: what holds it up holds up every request of this worker."""

import asyncio
import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)
_EVERY_S = 0.05
_SPAN_S = 10.0
_LONG_S = 1.0


class LoopLag:
    """Follows the loop it is started in.

    Args:
        note: is told the worst lateness of the last 10 to 20 s, seconds.
    """

    def __init__(self, note: Callable[[float], None]) -> None:
        self._note = note
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins, if it has not; to be called from within the loop."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._follow())

    async def _follow(self) -> None:
        loop = asyncio.get_running_loop()
        before, worst, since = 0.0, 0.0, loop.time()
        while True:
            due = loop.time() + _EVERY_S
            await asyncio.sleep(_EVERY_S)
            late = max(0.0, loop.time() - due)
            if late > _LONG_S:
                logger.warning("the event loop was held up for %.1f s", late)
            if loop.time() - since > _SPAN_S:
                before, worst, since = worst, 0.0, loop.time()
            worst = max(worst, late)
            self._note(max(before, worst))
