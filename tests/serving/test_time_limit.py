"""Requests that take too long are given up; those that do not leave nothing behind."""

import asyncio

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from fingerpost.serving.bento_compat import TimeLimit

ended = []


async def slow(_request):
    try:
        await asyncio.sleep(30)
    except asyncio.CancelledError:
        ended.append("slow")
        raise
    return PlainTextResponse("late")


async def quick(_request):
    return PlainTextResponse("there")


async def streamed(_request):
    async def parts():
        yield b"begun "
        await asyncio.sleep(0.5)
        yield b"and ended"

    return StreamingResponse(parts())


async def impatient(_request):
    raise TimeoutError("of its own")


def limited(timeout):
    return TimeLimit(Starlette(routes=[Route(f"/{each.__name__}", each) for each in ENDPOINTS]), timeout)


ENDPOINTS = (slow, quick, streamed, impatient)


def ask(path, timeout, times=1):
    """The last answer, and how many timers are left that will go off."""

    async def run():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(limited(timeout)), base_url="http://x") as client:
            for _ in range(times):
                answer = await client.get(path)
            return answer, sum(not timer.cancelled() for timer in asyncio.get_running_loop()._scheduled)

    return asyncio.run(run())


def test_what_takes_too_long_is_given_up_with_a_reason():
    ended.clear()
    answer, _ = ask("/slow", 0.2)
    assert (answer.status_code, answer.json()) == (504, {"error": "no answer in 0.2 s"})
    assert ended == ["slow"]


def test_what_is_answered_leaves_no_timer():
    answer, timers = ask("/quick", 60.0, times=1000)
    assert answer.text == "there"
    assert timers == 0


def test_an_answer_that_has_begun_may_take_its_time():
    assert ask("/streamed", 0.2)[0].text == "begun and ended"


def test_a_timeout_of_the_application_is_its_own():
    with pytest.raises(TimeoutError, match="of its own"):
        ask("/impatient", 5.0)


def test_the_engine_is_limited_by_it_alone():
    from _bentoml_impl.server.app import ServiceAppFactory

    from fingerpost.serving.service import PredictionEngine

    PredictionEngine.inject_config()
    names = [each.cls.__name__ for each in ServiceAppFactory(PredictionEngine).middlewares]
    assert "TimeLimit" in names
    assert "TimeoutMiddleware" not in names
