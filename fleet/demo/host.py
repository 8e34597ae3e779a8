"""One demo host: an HTTP server that does real work, as fast or slow at each kind as its class is."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from fleet.demo.classes import HOST_CLASSES
from fleet.demo.work import KINDS, amount_of_work

MAX_PAYLOAD_BYTES = 4 * 2**20


class DemoHostApp:
    """Serves `/work/{kind}` with as many threads as the class has slots; more requests wait.

    Every answer carries what the proxy's log needs: requests in flight when it came, and its CPU-seconds.
    """

    def __init__(self, host_class: str) -> None:
        self._class = HOST_CLASSES[host_class]
        self._inflight = 0
        self._threads = ThreadPoolExecutor(self._class.slots, thread_name_prefix="slot")

    def warm_up(self) -> None:
        """Does every kind of work once in every slot, so that no request pays for what is only done the first time."""
        for kind in KINDS:
            list(self._threads.map(lambda _slot, kind=kind: self._do(kind, b""), range(4 * self._class.slots)))

    def application(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/work/{kind}", self.work, methods=["GET", "POST"]),
                Route("/fingerpost/stats", self.stats),
                Route("/healthz", self.healthz),
            ]
        )

    async def work(self, request: Request) -> Response:
        kind = request.path_params["kind"]
        if kind not in KINDS:
            return JSONResponse({"error": f"no work of kind {kind!r}", "kinds": sorted(KINDS)}, status_code=404)
        inflight, self._inflight = self._inflight, self._inflight + 1
        try:
            payload = await request.body()
            if len(payload) > MAX_PAYLOAD_BYTES:
                return JSONResponse({"error": f"payload over {MAX_PAYLOAD_BYTES} bytes"}, status_code=413)
            loop = asyncio.get_running_loop()
            result, cpu_s = await loop.run_in_executor(self._threads, self._do, kind, payload)
        finally:
            self._inflight -= 1
        headers = {"x-fingerpost-inflight": str(inflight), "x-fingerpost-cpu-s": f"{cpu_s:.6f}"}
        return PlainTextResponse("." * min(65536, result), headers=headers)

    async def stats(self, _request: Request) -> Response:
        return JSONResponse({"inflight": self._inflight, "slots": self._class.slots})

    async def healthz(self, _request: Request) -> Response:
        return PlainTextResponse("ok")

    def _do(self, kind: str, payload: bytes) -> tuple[int, float]:
        started = time.thread_time()
        result = KINDS[kind](payload, amount_of_work(len(payload), self._class.multiplier(kind)))
        return result, time.thread_time() - started


def serve(host_class: str, bind_host: str, port: int) -> None:
    """Serves one demo host until it is told to stop."""
    host = DemoHostApp(host_class)
    host.warm_up()
    uvicorn.run(host.application(), host=bind_host, port=port, log_level="warning", access_log=False)
