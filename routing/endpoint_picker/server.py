"""The endpoint picker's gRPC server: external processing, health, and the table kept fresh beside them."""

import asyncio
import contextlib
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from fingerpost.errors import FingerpostError, RefusedError
from fingerpost.routing.endpoint_picker.choice import Chooser, Decision
from fingerpost.routing.endpoint_picker.messages import SERVICE, messages
from fingerpost.routing.endpoint_picker.queues import Queues
from fingerpost.routing.endpoint_picker.service import Exchange
from fingerpost.routing.envoy.upstream import Upstream
from fingerpost.routing.hosts import HostSource
from fingerpost.routing.table_watch import TableWatch

_LOG = logging.getLogger("fingerpost.endpoint_picker")
_LOOK_EVERY_S = 0.25
_GRACE_S = 5.0
_HEALTH_NAMES = ("", "liveness", "readiness", SERVICE)


class EndpointPickerServer:
    """Serves until told to stop.

    Args:
        table: the file that the router keeps; need not be there yet.
        hosts: of `fingerpost.routing.hosts.host_source`, looked at every quarter of a second; those that drain are no
            endpoints. None: the chooser's endpoints stay.
        streamed: see `fingerpost.routing.endpoint_picker.service.Exchange`.
        queues: followed while it serves; None: endpoints are not asked.

    Attributes:
        watch: of the table.
        picks: number of decisions by policy and reason of the fallback; `("", "no_endpoint")`: none could be chosen.
    """

    def __init__(
        self,
        chooser: Chooser,
        table: Path,
        hosts: HostSource | None = None,
        streamed: bool = False,
        queues: Queues | None = None,
    ) -> None:
        self.chooser, self.watch, self._hosts, self._streamed = chooser, TableWatch(table), hosts, streamed
        self.queues = queues
        self.picks: Counter[tuple[str, str]] = Counter()
        self._hosts_seen: list[Upstream] = []
        self._problem = ""

    async def serve(self, address: str, stop: asyncio.Event, ready: Any = None) -> None:
        """Listens on `address:port` until `stop` is set.

        Args:
            ready: called with the port once it listens; port 0 asks for a free one.

        Raises:
            FingerpostError: grpcio is not installed, or the address cannot be used.
        """
        server, health = _grpc_server(self.process)
        try:
            port = server.add_insecure_port(address)
        except RuntimeError as error:
            raise FingerpostError(f"the endpoint picker cannot listen on {address}: {error}") from error
        await self.refresh()
        beside = [asyncio.create_task(self._keep_fresh(health))]
        if self.queues:
            beside.append(asyncio.create_task(self.queues.follow()))
        await server.start()
        if ready:
            ready(port)
        try:
            await stop.wait()
        finally:
            for task in beside:
                task.cancel()
            for task in beside:
                with contextlib.suppress(asyncio.CancelledError):
                    await task
            await server.stop(_GRACE_S)

    async def process(self, _messages: Any, context: Any) -> None:
        """One request, as a stream of messages."""
        import grpc.aio

        exchange = Exchange(self.chooser, self._count, self._streamed)
        try:
            while (message := await context.read()) is not grpc.aio.EOF:
                answer = exchange.answer(message)
                if answer is None:
                    return
                await context.write(answer)
        finally:
            exchange.end()

    async def refresh(self) -> None:
        """Takes a new table and new endpoints, if there are any."""
        try:
            table = await asyncio.to_thread(self.watch.newer)
            if table:
                self.chooser.use(table)
                _LOG.info("table %s", table.version)
        except RefusedError as error:
            _LOG.warning("%s; the table before it stays in force", error)
        if self._hosts:
            try:
                found = await asyncio.to_thread(self._hosts)
                if found != self._hosts_seen:
                    self.chooser.endpoints.replace([each for each in found if not each.draining])
                    self._hosts_seen = found
                    _LOG.info("%d endpoints", self.chooser.endpoints.known)
                self._problem = ""
            except FingerpostError as error:
                if str(error) != self._problem:
                    _LOG.warning("%s; the endpoints stay as they are", error)
                self._problem = str(error)

    async def _keep_fresh(self, health: Any) -> None:
        from grpc_health.v1 import health_pb2

        status = health_pb2.HealthCheckResponse.ServingStatus
        told: bool | None = None
        while True:
            await self.refresh()
            ready = self.chooser.endpoints.known > 0
            for name in _HEALTH_NAMES if ready != told else ():
                serving = ready or name == "liveness"
                await health.set(name, status.SERVING if serving else status.NOT_SERVING)
            told = ready
            await asyncio.sleep(_LOOK_EVERY_S)

    def _count(self, decision: Decision | None) -> None:
        key = (decision.policy, decision.fallback) if decision else ("", "no_endpoint")
        self.picks[key] += 1


def _grpc_server(process: Any) -> tuple[Any, Any]:
    try:
        import grpc
        import grpc.aio
        from grpc_health.v1 import health, health_pb2_grpc
    except ImportError as error:
        raise FingerpostError("the endpoint picker needs gRPC: pip install 'fingerpost[gateway]'") from error
    kinds = messages()
    handler = grpc.stream_stream_rpc_method_handler(
        process,
        request_deserializer=kinds.ProcessingRequest.FromString,
        response_serializer=kinds.ProcessingResponse.SerializeToString,
    )
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Process": handler}),))
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return server, servicer
