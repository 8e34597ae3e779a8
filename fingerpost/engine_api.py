"""The prediction engine's HTTP API, as everybody calls it: requests, checked answers, errors; and a client over httpx.

All but `EngineClient` is pure, and httpx is imported by that alone: the agent sends the same requests by `http.client`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from fingerpost.announcement import Announcement, Notice, announcement_from_wire
from fingerpost.errors import FingerpostError, RefusedError
from fingerpost.events import Event, event_from_listing
from fingerpost.names import is_name
from fingerpost.packed_message import message
from fingerpost.tls import SYSTEM, ClientTLS
from fingerpost.tokens import Token, token_text
from fingerpost.window_report import MEDIA_TYPE

if TYPE_CHECKING:
    import httpx

JSON = "application/json"
PARQUET = "application/vnd.apache.parquet"
# Kinds of batches, in the order in which they are sent: samples make a host known to the ingest of the rest.
BATCH_KINDS = ("samples", "requests")
# What the engine itself lands of the reports that it takes.
LANDED_KINDS = ("reported_windows", "reported_loads", "reported_keys", "events")
DEFAULT_TIMEOUT_S = 10.0
# With it a picker that asks for a table says who it is, `KIND/NAME`.
PICKER_HEADER = "x-fingerpost-picker"
# Five matrices of 5,000 hosts and 256 categories, 15 bytes a number: no answer is larger.
MAX_ANSWER_BYTES = 96 * 2**20
_MAX_REASON = 300
_NOT_MODIFIED = 304
# Read by the engine, which says what became of each report, although it stored none.
_NONE_STORED = (409, 422)
# Who is not let in waits until the tokens of both ends are the same again.
_TRY_AGAIN = (401, 403, 408, 429)


class EngineError(FingerpostError):
    """The engine refused a request, or did not answer.

    Args:
        status: of its answer; None if there was none.
        reason: for a person.
    """

    def __init__(self, status: int | None, reason: str) -> None:
        super().__init__(f"{status or 'no answer'}: {reason}")
        self.status, self.reason = status, reason

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status is None or self.status >= 500 or self.status in _TRY_AGAIN


@dataclass(frozen=True)
class Call:
    """One request to the engine.

    Args:
        path: with its query, below the engine's URL.
        wait_s: how long the engine may hold it back, seconds, besides the caller's timeout.
    """

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_s: float = 0.0


@dataclass(frozen=True)
class Answer:
    """An answer of the engine.

    Args:
        headers: names in lower case.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Table:
    """A routing table as it came.

    Args:
        etag: to be given when asking for the next one.
        expires_at: seconds since 1970, after which it is not to be used; 0: the engine did not say.
        body: JSON; None: it is the one the caller has.
        stale: why the engine could not bring it up to date, or None.
    """

    etag: str
    expires_at: float
    body: bytes | None
    stale: str | None


@dataclass(frozen=True)
class ListedHost:
    """A host as the engine lists it.

    Args:
        state: `serving` or `draining`.
        reports: whether its agent has reported what it measures.
        heard_s: when it was last heard of, seconds since 1970.
    """

    host: str
    about: Announcement
    state: str
    reports: bool
    heard_s: float


def headers_of(token: Token) -> dict[str, str]:
    """The headers of every request of a caller with this token, as its file has it now; empty: it has none.

    Raises:
        EngineError: the file cannot be read.
    """
    try:
        text = token_text(token)
    except FingerpostError as error:
        raise EngineError(None, str(error)) from error
    return {"Authorization": f"Bearer {text}"} if text else {}


def get_call(path: str, **query: Any) -> Call:
    """A question without a body; parts of the query that are None or empty are left out."""
    asked = urlencode({name: value for name, value in query.items() if value})
    return Call("GET", f"{path}?{asked}" if asked else path)


def post_call(path: str, **content: Any) -> Call:
    """A question with a JSON body; fields that are None are left out."""
    body = json.dumps({name: value for name, value in content.items() if value is not None}).encode()
    return Call("POST", path, body, {"Content-Type": JSON})


def send_call(packed: Sequence[bytes]) -> Call:
    """A message of packed reports (`fingerpost.window_report.pack`)."""
    return Call("POST", "/v1/reports", message(packed), {"Content-Type": MEDIA_TYPE})


def batch_call(kind: str, service: str, name: str, body: bytes) -> Call:
    """A batch of telemetry as a Parquet file, to be landed in the lake's inbox.

    Args:
        kind: one of `BATCH_KINDS`.
        name: the same for what is sent twice.
    """
    asked = urlencode({"kind": kind, "service": service, "name": name})
    return Call("POST", f"/v1/batches?{asked}", body, {"Content-Type": PARQUET})


def notice_call(notice: Notice) -> Call:
    """Announces, drains, resumes or removes a host."""
    return Call("POST", "/v1/members", notice.to_json(), {"Content-Type": JSON})


def event_call(event: Event) -> Call:
    """Tells of an event."""
    return Call("POST", "/v1/events", json.dumps(event.to_json()).encode(), {"Content-Type": JSON})


def withdrawal_call(service: str, event_id: str) -> Call:
    """Withdraws an event, by its id."""
    return post_call("/v1/events/withdrawn", service=service, id=event_id)


def events_call(service: str) -> Call:
    """Asks which events of a service are known."""
    return Call("GET", f"/v1/services/{quote(service, safe='')}/events")


def events_of(answer: Answer) -> list[Event]:
    """Reads the answer to `events_call`.

    Raises:
        EngineError: it is an error, or no list of events.
    """
    try:
        return [event_from_listing(each) for each in json.loads(checked(answer).body)["events"]]
    except (ValueError, KeyError, TypeError, RefusedError) as error:
        raise EngineError(answer.status, f"the answer is no list of events: {error!r}"[:_MAX_REASON]) from error


def hosts_call(service: str, etag: str = "") -> Call:
    """Asks which hosts a service has; with the ETag of the last answer, whether they are others."""
    path = f"/v1/services/{quote(service, safe='')}/hosts"
    return Call("GET", path, None, {"If-None-Match": etag} if etag else {})


def hosts_of(answer: Answer) -> list[ListedHost] | None:
    """Reads the answer to `hosts_call`; None: they are as before.

    Raises:
        EngineError: it is an error, or no list of hosts.
    """
    if checked(answer).status == _NOT_MODIFIED:
        return None
    try:
        return [_listed_host(each) for each in json.loads(answer.body)["hosts"]]
    except (ValueError, KeyError, TypeError, AttributeError, RefusedError) as error:
        raise EngineError(answer.status, f"the answer is no list of hosts: {error!r}"[:_MAX_REASON]) from error


def _listed_host(given: Mapping[str, Any]) -> ListedHost:
    told = {name: value for name, value in given.items() if value is not None}
    host, state, heard_s = str(given["host"]), str(given["state"]), float(given["heard"])
    if not is_name(host):
        raise ValueError(f"{host[:100]!r} is no name of a host")
    return ListedHost(host, announcement_from_wire(told), state, bool(given["reports"]), heard_s)


def table_call(service: str, etag: str | None = None, wait_s: float = 0.0, picker: str = "") -> Call:
    """Asks for a routing table, as `EngineClient.table`."""
    path = get_call(f"/v1/services/{quote(service, safe='')}/table", wait=wait_s).path
    told = {"If-None-Match": etag or "", PICKER_HEADER: picker}
    return Call("GET", path, None, {"Accept": JSON, **{name: value for name, value in told.items() if value}}, wait_s)


def checked(answer: Answer) -> Answer:
    """Returns the answer if it is a good one.

    Raises:
        EngineError: it is an error, with the engine's reason.
    """
    if answer.status < 400:
        return answer
    text = answer.body[: 4 * _MAX_REASON].decode("utf-8", "replace")
    if answer.headers.get("content-type", "").startswith("text/html"):
        text = "this is a web page, no answer of an engine: is the URL that of one?"
    try:
        reason = str(json.loads(answer.body)["error"])
    except (ValueError, KeyError, TypeError):
        reason = text
    raise EngineError(answer.status, reason[:_MAX_REASON])


def receipt_of(answer: Answer, sent: int) -> dict[str, Any]:
    """Reads what became of the reports of `send_call`: at least `accepted`, `stale` and `refused`, in numbers.

    That none was stored is no error. Where the engine does not say what became of each, all were accepted or refused.

    Args:
        sent: number of reports.

    Raises:
        EngineError: the message was not read.
    """
    if answer.status not in _NONE_STORED:
        checked(answer)
    try:
        given = json.loads(answer.body)
        return {**given, **{name: int(given[name]) for name in ("accepted", "stale", "refused")}}
    except (ValueError, TypeError, KeyError):
        good = answer.status < 400
        return {"accepted": sent if good else 0, "stale": 0, "refused": 0 if good else sent}


def table_of(answer: Answer) -> Table:
    """Reads the answer to `table_call`.

    Raises:
        EngineError: it is an error, or says no time when the table expires that is a number.
    """
    checked(answer)
    try:
        expires_at = float(answer.headers.get("x-fingerpost-expires-at", "0"))
    except ValueError as error:
        raise EngineError(answer.status, f"x-fingerpost-expires-at: {error}") from error
    body = None if answer.status == _NOT_MODIFIED else answer.body
    return Table(answer.headers.get("etag", ""), expires_at, body, answer.headers.get("x-fingerpost-stale"))


def checked_url(url: str) -> str:
    """The URL of an engine, as it is.

    Raises:
        FingerpostError: it is of another scheme, or of none.
    """
    if not url.startswith(("http://", "https://")):
        raise FingerpostError(f"the engine's URL {url!r} must begin with http:// or https://")
    if not url.partition("//")[2].partition("/")[0]:
        raise FingerpostError(f"the engine's URL {url!r} names no host: write it as http://HOST:3000")
    return url


class EngineClient:
    """Asks one engine; a context manager. All methods raise EngineError.

    Args:
        url: of the engine, such as `http://127.0.0.1:3000`; a path is put before the engine's own. Of `https` the
            certificate must be of an authority that `tls` names.
        token: bearer token, or the file of it, if the engine wants one.
        timeout_s: most seconds for one answer.
        tls: for `https`; its files are read once.

    Raises:
        FingerpostError: the URL is none of HTTP, or a file for TLS cannot be read.
    """

    def __init__(
        self, url: str, token: Token = "", timeout_s: float = DEFAULT_TIMEOUT_S, tls: ClientTLS = SYSTEM
    ) -> None:
        import httpx

        self.url, self._token, self._timeout_s = checked_url(url).rstrip("/"), token, timeout_s
        # The system's authorities, as agents use them; the library would take those that it brings, and no others.
        verify = tls.context() if self.url.startswith("https:") else True
        self._http = httpx.Client(trust_env=False, verify=verify)

    def __enter__(self) -> "EngineClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def send_reports(self, packed: Sequence[bytes]) -> dict[str, Any]:
        """Sends packed reports; returns the engine's receipt, as `receipt_of`."""
        return receipt_of(self._ask(send_call(packed)), len(packed))

    def predict(
        self,
        service: str,
        hosts: Sequence[str] | None = None,
        categories: Sequence[str] | None = None,
        request: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Predicts hosts for categories, or for the category of a request (method, path, bytes_in, ...)."""
        asked = {"service": service, "hosts": hosts, "categories": categories, "request": request}
        return self._json(post_call("/v1/predict", **asked))

    def route(
        self,
        service: str,
        category: str | None = None,
        request: dict[str, Any] | None = None,
        inflight: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        """Names the best host for a category or a request, and the cost of each."""
        asked = {"service": service, "category": category, "request": request, "inflight": inflight}
        return self._json(post_call("/v1/route", **asked))

    def table(self, service: str, etag: str | None = None, wait_s: float = 0.0, picker: str = "") -> Table:
        """Fetches the routing table; with the `etag` of the last one it waits up to `wait_s` for another.

        Args:
            picker: who will choose by it, `KIND/NAME`, for the engine's page; empty: nobody.
        """
        return table_of(self._ask(table_call(service, etag, wait_s, picker)))

    def hosts(self, service: str | None = None) -> list[dict[str, Any]]:
        """Lists the hosts the engine knows."""
        found: list[dict[str, Any]] = self._json(get_call("/v1/hosts", service=service))["hosts"]
        return found

    def notice(self, notice: Notice) -> str:
        """Announces, drains, resumes or removes a host; returns the state that is in force."""
        return str(json.loads(checked(self._ask(notice_call(notice))).body).get("state"))

    def listed(self, service: str, etag: str = "") -> tuple[str, list[ListedHost] | None]:
        """Lists a service's hosts with the ETag of the list; None: it is still that of `etag`."""
        answer = self._ask(hosts_call(service, etag))
        return answer.headers.get("etag", ""), hosts_of(answer)

    def models(self) -> dict[str, Any]:
        """Lists the models in use, and why others are not."""
        return self._json(get_call("/v1/models"))

    def health(self) -> dict[str, Any]:
        """Asks what is wrong with the engine, and how old its tables are."""
        return self._json(get_call("/v1/health"))

    def _json(self, call: Call) -> dict[str, Any]:
        answer = checked(self._ask(call))
        try:
            content: dict[str, Any] = json.loads(answer.body)
        except ValueError as error:
            raise EngineError(answer.status, f"{self.url} does not answer in JSON: {error}") from error
        return content

    def _ask(self, call: Call) -> Answer:
        import httpx

        url, timeout_s = f"{self.url}{call.path}", self._timeout_s + call.wait_s
        headers = {**call.headers, **headers_of(self._token)}
        asked: dict[str, Any] = {"content": call.body, "headers": headers, "timeout": timeout_s}
        try:
            with self._http.stream(call.method, url, **asked) as answer:
                return Answer(answer.status_code, answer.headers, _bounded(answer))
        except httpx.HTTPError as error:
            raise EngineError(None, f"{url}: {type(error).__name__}: {error}") from error


def _bounded(answer: "httpx.Response") -> bytes:
    body = bytearray()
    for part in answer.iter_bytes():
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise EngineError(answer.status_code, f"the answer has more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)
