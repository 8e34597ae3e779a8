"""One demo host: an HTTP server that does real work, as fast or slow at each kind as its class is."""

import asyncio
import time
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from examples.demo.classes import HOST_CLASSES, MAX_TIMES, Job
from examples.demo.work import KINDS, amount_of_work
from fingerpost.category import route_template
from fingerpost.middleware import FingerpostMiddleware, MeteredExecutor

MAX_PAYLOAD_BYTES = 4 * 2**20
_CORES = 1.0


class DemoHostApp:
    """Serves `/work/{kind}` with as many threads as the class has slots; more requests wait.

    Every answer carries what the proxy's log needs, requests in flight when it came and its CPU-seconds, and the ORCA
    load report; all of it is the middleware's doing.

    Args:
        service, host: names, as the proxy calls them.
        middleware_socket: of the agent that takes request records, if there is one.
        job: slows requests down at regular times.
    """

    def __init__(
        self, host_class: str, service: str, host: str, middleware_socket: Path | None = None, job: Job | None = None
    ) -> None:
        self._class, self._job = HOST_CLASSES[host_class], job
        self._times: dict[str, float] = {}
        self._threads = MeteredExecutor(self._class.slots, thread_name_prefix="slot")
        routes = [
            Route("/work/{kind}", self.work, methods=["GET", "POST"]),
            Route("/fingerpost/stats", self.stats),
            Route("/fingerpost/times", self.set_times, methods=["PUT"]),
            Route("/healthz", self.healthz),
        ]
        self.application = FingerpostMiddleware(
            Starlette(routes=routes),
            service=service,
            host=host,
            socket=middleware_socket,
            slots=self._class.slots,
            cores=_CORES,
            host_headers=True,
            # Every kind is a route of its own, as it is in the proxy's log.
            route_of=lambda scope: route_template(scope["path"]),
            skip=("/fingerpost/stats", "/fingerpost/times", "/healthz"),
        )

    def warm_up(self) -> None:
        """Does every kind of work once in every slot, so that no request pays for what is only done the first time."""
        for kind in KINDS:
            list(self._threads.map(lambda _slot, kind=kind: self._do(kind, b""), range(4 * self._class.slots)))

    async def work(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in KINDS:
            return JSONResponse({"error": f"no work of kind {kind!r}", "kinds": sorted(KINDS)}, status_code=404)
        payload = await request.body()
        if len(payload) > MAX_PAYLOAD_BYTES:
            return JSONResponse({"error": f"payload over {MAX_PAYLOAD_BYTES} bytes"}, status_code=413)
        result = await asyncio.get_running_loop().run_in_executor(self._threads, self._do, kind, payload)
        return PlainTextResponse("." * min(65536, result))

    async def stats(self, _request: Request) -> Response:
        return JSONResponse({"inflight": self.application.inflight, "slots": self._class.slots})

    async def set_times(self, request: Request) -> Response:
        """Changes how many times the work of some kinds is done, beside what the class does: `{"render": 4.0}`."""
        try:
            wanted = {str(kind): float(times) for kind, times in (await request.json()).items()}
        except (ValueError, TypeError, AttributeError) as error:
            return JSONResponse({"error": f"not an object of numbers: {error}"}, status_code=400)
        bad = {kind: times for kind, times in wanted.items() if kind not in KINDS or not 0 < times <= MAX_TIMES}
        if bad:
            why = f"{bad}: kinds are {', '.join(sorted(KINDS))}, numbers above 0 up to {MAX_TIMES:g}"
            return JSONResponse({"error": why}, status_code=400)
        self._times |= wanted
        return JSONResponse(self._times)

    async def healthz(self, _request: Request) -> Response:
        return PlainTextResponse("ok")

    def _do(self, kind: str, payload: bytes) -> int:
        times = self._class.multiplier(kind) * self._times.get(kind, 1.0)
        began = time.perf_counter()
        done = KINDS[kind](payload, amount_of_work(len(payload), times))
        if self._job and self._job.runs(time.time()):
            # Sleeping holds the slot, and takes no core from the other hosts of this machine.
            time.sleep((self._job.times - 1) * (time.perf_counter() - began))
        return done


def serve(
    host_class: str,
    bind_host: str,
    port: int,
    service: str,
    host: str,
    middleware_socket: Path | None = None,
    job: Job | None = None,
) -> None:
    """Serves one demo host until it is stopped."""
    demo = DemoHostApp(host_class, service, host, middleware_socket, job)
    demo.warm_up()
    uvicorn.run(demo.application, host=bind_host, port=port, log_level="warning", access_log=False)
