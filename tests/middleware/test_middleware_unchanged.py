"""Whatever an application answers, and however it fails: the server sees the same with the middleware and without."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.middleware import FingerpostWsgiMiddleware

pytestmark = pytest.mark.process
KINDS = ("list", "tuple", "generator", "closable")
answers = st.fixed_dictionaries(
    {
        "status": st.sampled_from(["200 OK", "204 No Content", "404 Not Found", "500 Broken", "999 Odd", "2x0", ""]),
        "headers": st.lists(
            st.tuples(
                st.sampled_from(["Content-Length", "X-A", "Set-Cookie", "endpoint-load-metrics"]),
                st.sampled_from(["", "5", "-1", "1e3", "9" * 30, "\u00b2", "a b"]),
            ),
            max_size=4,
        ),
        "pieces": st.lists(st.binary(max_size=9), max_size=4),
        "writes": st.lists(st.binary(max_size=9), max_size=2),
        "kind": st.sampled_from(KINDS),
        "starts": st.integers(0, 2),
        "fails": st.sampled_from([None, "call", "piece", "close"]),
        "left_after": st.integers(0, 5),
        "reads": st.sampled_from([None, -1, 0, 3]),
    }
)
environs = st.fixed_dictionaries(
    {},
    optional={
        "REQUEST_METHOD": st.sampled_from(["GET", "HEAD", "POST", "BREW", "", "\u00e9" * 99]),
        "PATH_INFO": st.text(st.characters(max_codepoint=255), max_size=30),
        "SCRIPT_NAME": st.sampled_from(["", "/shop"]),
        "CONTENT_LENGTH": st.sampled_from(["", "0", "-3", "12", "\u00b2", "9" * 40]),
        "HTTP_AUTHORIZATION": st.text(st.characters(max_codepoint=255), max_size=9),
        "HTTP_USER_AGENT": st.text(st.characters(max_codepoint=255), max_size=30),
        "REMOTE_ADDR": st.sampled_from(["", "203.0.113.9", "unix:"]),
    },
)


class BrokenError(Exception):
    pass


class Closable:
    def __init__(self, pieces, seen, fails):
        self.pieces, self.seen, self.fails = iter(pieces), seen, fails

    def __iter__(self):
        return self

    def __next__(self):
        return next(self.pieces)

    def close(self):
        self.seen.append("app closed")
        if self.fails:
            raise BrokenError("close")


class Body:
    def read(self, size=-1):
        return b"what a client sends"[: None if size < 0 else size]


def app_of(answer, seen):
    def pieces():
        for place, piece in enumerate(answer["pieces"]):
            if answer["fails"] == "piece" and place == 1:
                raise BrokenError("piece")
            yield piece

    def app(environ, start_response):
        if answer["reads"] is not None:
            seen.append(("read", environ["wsgi.input"].read(answer["reads"])))
        for _ in range(answer["starts"]):
            write = start_response(answer["status"], list(answer["headers"]))
            for data in answer["writes"]:
                write(data)
        if answer["fails"] == "call":
            raise BrokenError("call")
        if answer["kind"] == "closable":
            return Closable(pieces(), seen, answer["fails"] == "close")
        return {"list": list, "tuple": tuple}.get(answer["kind"], iter)(pieces())

    return app


def served(app, answer, environ, seen):
    """What a server sees of one request, in order; a client may leave before the end."""

    def start_response(status, headers, _exc_info=None):
        # The load report comes after what the application sends.
        seen.append(("start", status, headers[: len(answer["headers"])]))
        return lambda data: seen.append(("write", data))

    try:
        found = app({**environ, "wsgi.input": Body()}, start_response)
        seen.append(("length", len(found) if hasattr(found, "__len__") else None))
        try:
            for place, piece in enumerate(found):
                seen.append(("piece", piece))
                if place == answer["left_after"]:
                    break
        finally:
            if hasattr(found, "close"):
                found.close()
    except BrokenError as error:
        seen.append(("raised", str(error)))
    return seen


@pytest.fixture(scope="module")
def middleware(tmp_path_factory):
    """Of an agent that does not listen; its application is another one each time."""
    nobody = tmp_path_factory.mktemp("middleware") / "agent.sock"
    made = FingerpostWsgiMiddleware(app_of({}, []), service="shop", host="h1", socket=nobody)
    yield made
    made.instrument.reporter.close()


@given(answers, environs)
def test_a_server_sees_the_answer_of_the_application(middleware, answer, environ):
    plain, through = [], []
    middleware.app = app_of(answer, through)
    served(app_of(answer, plain), answer, environ, plain)
    served(middleware, answer, environ, through)
    assert through == plain
    assert middleware.inflight == 0
