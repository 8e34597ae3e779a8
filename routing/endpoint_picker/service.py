"""One request's exchange with the proxy, from its headers to its end. Speaks messages, not gRPC."""

import re
import time
from typing import Any

from fingerpost.routing.endpoint_picker.choice import Chooser, Decision
from fingerpost.routing.endpoint_picker.endpoints import plain_endpoint
from fingerpost.routing.endpoint_picker.messages import FULL_DUPLEX_STREAMED, OVERWRITE, messages
from fingerpost.routing.endpoint_picker.requests import request_of
from fingerpost.routing.inflight import ORCA_HEADER, told_requests

DESTINATION = "x-gateway-destination-endpoint"
SERVED = "x-gateway-destination-endpoint-served"
SUBSET = "x-gateway-destination-endpoint-subset"
LB_SPACE, SUBSET_SPACE = "envoy.lb", "envoy.lb.subset_hint"
# The decision for the access log: metadata of this name and key, see `fingerpost.accesslog.envoy_format`.
LOG_SPACE, LOG_KEY = "fingerpost", "decision"
_NO_ENDPOINT = 503
_STATUS = re.compile("[0-9]{3}")


class Exchange:
    """Answers the messages about one request, and counts it at its endpoint until `end`.

    Args:
        picked: called with every decision.
        streamed: answers come in pieces, so a request counts until its answer begins. What endpoints tell is left out
            then: they count requests until they end.
    """

    def __init__(self, chooser: Chooser, picked: Any = None, streamed: bool = False) -> None:
        self._streamed = streamed
        self._chooser, self._endpoints, self._picked = chooser, chooser.endpoints, picked
        self._decision: Decision | None = None
        self._at: str | None = None
        self._work_s = 0.0
        self._echo = (False, False)

    def answer(self, message: Any) -> Any:
        """The response to a message; `None` to one that this program does not know, which ends the exchange."""
        kind = message.WhichOneof("request")
        response = messages().ProcessingResponse()
        if message.HasField("protocol_config"):
            modes = message.protocol_config
            self._echo = (
                modes.request_body_mode == FULL_DUPLEX_STREAMED,
                modes.response_body_mode == FULL_DUPLEX_STREAMED,
            )
        if kind == "request_headers":
            self._request(message, response)
        elif kind == "response_headers":
            self._response(message, response)
        elif kind in ("request_body", "response_body"):
            self._body(kind, message, response)
        elif kind is None:
            return None
        else:
            getattr(response, kind).SetInParent()
        return response

    def end(self) -> None:
        """The request is over, however it ended; what is said of it afterwards counts nothing."""
        self._decision = None
        self._leave()

    def _leave(self) -> None:
        if self._at is not None:
            self._endpoints.end(self._at, self._work_s)
            self._at = None

    def _request(self, message: Any, response: Any) -> None:
        self.end()
        headers = message.request_headers
        asked = request_of(headers.headers.headers, self._chooser.arm_header, headers.end_of_stream)
        found = self._chooser.choose(asked, _subset_of(message))
        if self._picked:
            self._picked(found)
        self._decision = found
        if found is None:
            response.immediate_response.status.code = _NO_ENDPOINT
            response.immediate_response.body = b"no endpoint\n"
            response.immediate_response.details = "fingerpost_no_endpoint"
            return
        self._count_at(found.endpoints[0], found.work_s)
        listed = ",".join(found.endpoints)
        option = response.request_headers.response.header_mutation.set_headers.add(append_action=OVERWRITE)
        option.header.key, option.header.raw_value = DESTINATION, listed.encode()
        response.dynamic_metadata.update({LB_SPACE: {DESTINATION: listed}, LOG_SPACE: {LOG_KEY: found.as_text()}})

    def _response(self, message: Any, response: Any) -> None:
        """Notes who answered, and how: the endpoints before it in the list did not take the request."""
        response.response_headers.SetInParent()
        self._note_answer(message, response)
        if self._streamed:
            self._leave()

    def _note_answer(self, message: Any, response: Any) -> None:
        served, found = plain_endpoint(_text(message, LB_SPACE, SERVED)), self._decision
        if not served or not found:
            return
        status, orca = _texts(message.response_headers.headers.headers, ":status", ORCA_HEADER)
        self._endpoints.answered(served, int(status) if _STATUS.fullmatch(status) else 0, time.monotonic())
        if served != found.endpoints[0]:
            self._served_elsewhere(served, found, response)
        requests = told_requests(orca)
        if requests is not None and self._at == served and not self._streamed:
            self._endpoints.told(served, requests, time.monotonic())

    def _served_elsewhere(self, served: str, found: Decision, response: Any) -> None:
        tried = found.endpoints.index(served) if served in found.endpoints else len(found.endpoints)
        for address in found.endpoints[:tried]:
            self._endpoints.refused(address, time.monotonic())
        self._leave()
        self._count_at(served, found.work_s)
        self._decision = found.served_elsewhere()
        response.dynamic_metadata.update({LOG_SPACE: {LOG_KEY: self._decision.as_text()}})

    def _body(self, kind: str, message: Any, response: Any) -> None:
        answered = getattr(response, kind)
        answered.SetInParent()
        if self._echo[kind == "response_body"]:
            # Where bodies go through the processor, they get no further unless it sends them back.
            body, streamed = getattr(message, kind), answered.response.body_mutation.streamed_response
            streamed.body, streamed.end_of_stream = body.body, body.end_of_stream

    def _count_at(self, address: str, work_s: float) -> None:
        self._at, self._work_s = address if self._endpoints.begin(address, work_s) else None, work_s


def _subset_of(message: Any) -> list[str] | None:
    """The endpoints that the proxy allows, None if it does not say; a list, or one text with commas."""
    space = message.metadata_context.filter_metadata
    if SUBSET_SPACE not in space or SUBSET not in space[SUBSET_SPACE].fields:
        return None
    value = space[SUBSET_SPACE].fields[SUBSET]
    texts = (
        [value.string_value]
        if value.WhichOneof("kind") == "string_value"
        else [each.string_value for each in value.list_value.values]
    )
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _texts(headers: Any, *names: str) -> list[str]:
    """The values of these headers; empty where one was not sent, the first where it was sent twice."""
    found = dict.fromkeys(names, "")
    for header in headers:
        if header.key in found and not found[header.key]:
            found[header.key] = (header.raw_value or header.value.encode()).decode("latin-1")
    return list(found.values())


def _text(message: Any, space: str, key: str) -> str:
    found = message.metadata_context.filter_metadata
    return found[space].fields[key].string_value if space in found and key in found[space].fields else ""
