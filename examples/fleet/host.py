"""A host of the fleet: like the demo's, but its requests wait instead of working, so that two cores carry ten hosts."""

import time
from pathlib import Path

import uvicorn

from examples.demo.host import DemoHostApp
from examples.demo.work import amount_of_work

# Time of a request whose amount of work is 1.
_WORK_S = 0.1


class WaitingHostApp(DemoHostApp):
    """Holds one of its slots for as long as the demo's work of this kind and size would take on this class of hosts."""

    def _do(self, kind: str, payload: bytes) -> int:
        times = self._class.multiplier(kind) * self._times.get(kind, 1.0)
        time.sleep(_WORK_S * amount_of_work(len(payload), times))
        return len(kind)


def serve(host_class: str, address: str, port: int, service: str, host: str, middleware_socket: Path | None) -> None:
    """Serves until it is stopped; what is under way then is finished."""
    app = WaitingHostApp(host_class, service, host, middleware_socket)
    uvicorn.run(app.application, host=address, port=port, log_level="warning", access_log=False)
