"""The synchronous client of the prediction engine."""

from collections.abc import Sequence
from types import TracebackType
from typing import Any

import httpx

from fingerpost.client import calls
from fingerpost.client.calls import Call, EngineError, Table


class EngineClient:
    """Asks one engine; a context manager. All methods raise EngineError.

    Args:
        url: of the engine, such as `http://127.0.0.1:3000`.
        token: bearer token, if the engine wants one.
        timeout_s: most seconds for one answer.
    """

    def __init__(self, url: str, token: str = "", timeout_s: float = calls.DEFAULT_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._http = httpx.Client(base_url=url, headers=calls.headers_of(token), trust_env=False)

    def __enter__(self) -> "EngineClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def send_fingerprints(self, packed: Sequence[bytes]) -> dict[str, Any]:
        """Sends packed fingerprints (`fingerpost.fingerprint.pack`); returns how many were accepted, stale, refused."""
        return self._json(self._ask(calls.send_call(packed)))

    def predict(
        self,
        service: str,
        hosts: Sequence[str] | None = None,
        categories: Sequence[str] | None = None,
        request: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Predictions of hosts for categories, or for the category of a request (method, path, bytes_in, ...)."""
        return self._json(self._ask(calls.predict_call(service, hosts, categories, request)))

    def route(
        self,
        service: str,
        category: str | None = None,
        request: dict[str, Any] | None = None,
        inflight: dict[str, float] | None = None,
    ) -> dict[str, Any]:
        """The best host for a category or a request, and the cost of each."""
        return self._json(self._ask(calls.route_call(service, category, request, inflight)))

    def table(
        self, service: str, media_type: str = "application/json", etag: str | None = None, wait_s: float = 0.0
    ) -> Table:
        """The routing table; with the `etag` of the last one it waits up to `wait_s` for another."""
        return calls.table_of(self._ask(calls.table_call(service, media_type, etag, wait_s)))

    def hosts(self, service: str | None = None) -> list[dict[str, Any]]:
        """The hosts the engine knows."""
        params = {"service": service} if service else None
        found: list[dict[str, Any]] = self._json(self._ask(Call("GET", "/v1/hosts", params=params)))["hosts"]
        return found

    def models(self) -> dict[str, Any]:
        """The models in use, and why others are not."""
        return self._json(self._ask(Call("GET", "/v1/models")))

    def health(self) -> dict[str, Any]:
        """How the engine is."""
        return self._json(self._ask(Call("GET", "/v1/health")))

    def _ask(self, call: Call) -> httpx.Response:
        try:
            answer = self._http.request(
                call.method,
                call.path,
                json=call.json,
                content=call.content,
                params=call.params,
                headers=call.headers,
                timeout=self._timeout_s + call.timeout_s,
            )
        except httpx.HTTPError as error:
            raise EngineError(None, f"{type(error).__name__}: {error}") from error
        return calls.checked(answer)

    @staticmethod
    def _json(answer: httpx.Response) -> dict[str, Any]:
        content: dict[str, Any] = answer.json()
        return content
