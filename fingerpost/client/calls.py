"""What both clients ask and how they read the answers; no input or output here."""

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx

# As in fingerpost.fingerprint, which needs numpy.
MEDIA_TYPE = "application/vnd.fingerpost.fingerprints+msgpack"
DEFAULT_TIMEOUT_S = 10.0


class EngineError(Exception):
    """The engine refused a request, or did not answer.

    Args:
        status: of its answer; None if there was none.
        reason: in words.
    """

    def __init__(self, status: int | None, reason: str) -> None:
        super().__init__(f"{status or 'no answer'}: {reason}")
        self.status, self.reason = status, reason

    @property
    def temporary(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status is None or self.status >= 500


@dataclass(frozen=True)
class Table:
    """A routing table as it came.

    Args:
        etag: to be given when asking for the next one.
        expires_at: seconds since 1970, after which it is not to be used.
        body: in the format asked for; None: it is the one the caller has.
        stale: why the engine could not bring it up to date, or None.
    """

    etag: str
    expires_at: float
    body: bytes | None
    stale: str | None


@dataclass(frozen=True)
class Call:
    """One request to the engine.

    Args:
        timeout_s: seconds beside those of the client.
    """

    method: str
    path: str
    json: Any = None
    content: bytes | None = None
    params: dict[str, Any] | None = None
    headers: dict[str, str] | None = None
    timeout_s: float = 0.0


def send_call(packed: Sequence[bytes]) -> Call:
    import msgpack

    body = gzip.compress(msgpack.packb(list(packed)), compresslevel=1)
    return Call("POST", "/v1/fingerprints", content=body, headers={"content-type": MEDIA_TYPE})


def predict_call(
    service: str,
    hosts: Sequence[str] | None,
    categories: Sequence[str] | None,
    request: dict[str, Any] | None,
) -> Call:
    asked = {"service": service, "hosts": hosts, "categories": categories, "request": request}
    return Call("POST", "/v1/predict", json={name: value for name, value in asked.items() if value is not None})


def route_call(
    service: str, category: str | None, request: dict[str, Any] | None, inflight: dict[str, float] | None
) -> Call:
    asked = {"service": service, "category": category, "request": request, "inflight": inflight}
    return Call("POST", "/v1/route", json={name: value for name, value in asked.items() if value is not None})


def table_call(service: str, media_type: str, etag: str | None, wait_s: float) -> Call:
    headers = {"accept": media_type, **({"if-none-match": etag} if etag else {})}
    params = {"wait": wait_s} if wait_s else None
    return Call("GET", f"/v1/services/{service}/table", params=params, headers=headers, timeout_s=wait_s)


def headers_of(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


def checked(answer: httpx.Response) -> httpx.Response:
    """The answer, if it is a good one; what became of fingerprints is one, also if none was taken.

    Raises:
        EngineError: it is not.
    """
    if answer.status_code < 400:
        return answer
    try:
        told = answer.json()
        if "accepted" in told:
            return answer
        reason = str(told["error"])
    except (ValueError, KeyError, TypeError):
        reason = answer.text[:200]
    raise EngineError(answer.status_code, reason)


def table_of(answer: httpx.Response) -> Table:
    return Table(
        answer.headers.get("etag", ""),
        float(answer.headers.get("x-fingerpost-expires-at", "0")),
        None if answer.status_code == httpx.codes.NOT_MODIFIED else answer.content,
        answer.headers.get("x-fingerpost-stale"),
    )
