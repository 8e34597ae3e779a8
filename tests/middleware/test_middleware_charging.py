"""Whom CPU is charged to: concurrent requests, child tasks, worker threads."""

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

import anyio.to_thread
import pytest

from fingerpost.middleware import MeteredExecutor, charge_thread, charge_threads, metered, uncharge_threads
from tests.support.middleware_requests import (
    BURN_S,
    burn,
    call,
    in_request,
    measured,
    run_in_task,
    scope_of,
    starlette,
    taken,
)

pytestmark = pytest.mark.process


def test_concurrent_requests_are_not_charged_to_each_other(receiver, agent_socket):
    async def burner():
        for _ in range(20):
            burn(BURN_S / 10)
            await asyncio.sleep(0.001)

    async def sleeper():
        for _ in range(20):
            await asyncio.sleep(0.005)

    async def both():
        await asyncio.gather(call(app, scope_of("/burn")), call(app, scope_of("/sleep")))

    app = measured(starlette({"/burn": in_request(burner), "/sleep": in_request(sleeper)}), agent_socket)
    asyncio.run(both())
    records = taken(receiver, 2)
    assert 2 * BURN_S <= records["/burn"]["cpu_s"] < 3 * BURN_S
    assert records["/sleep"]["cpu_s"] < BURN_S / 5
    assert records["/sleep"]["duration_s"] > 0.09
    assert sorted(record["inflight"] for record in records.values()) == [0, 1]
    assert app.inflight == 0


async def child_tasks():
    async def child():
        burn(BURN_S / 2)
        await asyncio.sleep(0.001)
        burn(BURN_S / 2)

    await asyncio.gather(child(), asyncio.create_task(child(), name="named"))


async def grouped_tasks():
    async with anyio.create_task_group() as group:
        group.start_soon(asyncio.sleep, 0.001)
        group.start_soon(run_in_task)
        group.start_soon(run_in_task)


async def to_thread():
    await asyncio.gather(asyncio.to_thread(burn), asyncio.to_thread(burn))


async def default_executor():
    await asyncio.get_running_loop().run_in_executor(None, burn, 2 * BURN_S)


async def own_executor():
    with MeteredExecutor(2) as pool:
        await asyncio.get_running_loop().run_in_executor(pool, burn, 2 * BURN_S)


async def anyio_thread():
    await anyio.to_thread.run_sync(burn, 2 * BURN_S)


async def bare_thread():
    thread = threading.Thread(target=metered(burn), args=(2 * BURN_S,))
    thread.start()
    await asyncio.to_thread(thread.join)


async def marked_thread():
    def work():
        with charge_thread():
            burn(2 * BURN_S)

    thread = threading.Thread(target=copy_context().run, args=(work,))
    thread.start()
    await asyncio.to_thread(thread.join)


async def nested_threads():
    def outer():
        with ThreadPoolExecutor(1) as pool:
            pool.submit(burn).result()
        burn()

    await asyncio.to_thread(outer)


WORK = [
    child_tasks,
    grouped_tasks,
    to_thread,
    default_executor,
    own_executor,
    anyio_thread,
    bare_thread,
    marked_thread,
    nested_threads,
]


@pytest.mark.parametrize("work", WORK, ids=[work.__name__ for work in WORK])
def test_work_elsewhere_is_charged_to_its_request_once(receiver, agent_socket, work):
    async def idle():
        await asyncio.sleep(BURN_S)

    async def both():
        await asyncio.gather(call(app, scope_of("/work")), call(app, scope_of("/idle")))

    app = measured(starlette({"/work": in_request(work), "/idle": in_request(idle)}), agent_socket)
    asyncio.run(both())
    records = taken(receiver, 2)
    assert 2 * BURN_S <= records["/work"]["cpu_s"] < 3.5 * BURN_S
    assert records["/idle"]["cpu_s"] < BURN_S / 5


def test_another_task_factory_keeps_working(receiver, agent_socket):
    made = []

    def factory(loop, coroutine, **options):
        made.append(coroutine.__qualname__)
        return asyncio.Task(coroutine, loop=loop, **options)

    async def run():
        asyncio.get_running_loop().set_task_factory(factory)
        await call(app, scope_of("/work"))

    app = measured(starlette({"/work": in_request(child_tasks)}), agent_socket)
    asyncio.run(run())
    assert taken(receiver, 1)["/work"]["cpu_s"] >= 2 * BURN_S
    assert made.count("child_tasks.<locals>.child") == 2


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
def test_eager_tasks_are_charged_once(receiver, agent_socket):
    async def run():
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
        await call(app, scope_of("/work"))

    app = measured(starlette({"/work": in_request(child_tasks)}), agent_socket)
    asyncio.run(run())
    assert 2 * BURN_S <= taken(receiver, 1)["/work"]["cpu_s"] < 3 * BURN_S


@pytest.mark.filterwarnings("error")
def test_a_task_cancelled_before_it_began_is_quiet(receiver, agent_socket):
    async def cancels():
        task = asyncio.create_task(asyncio.sleep(1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(call(measured(starlette({"/": in_request(cancels)}), agent_socket), scope_of("/")))
    assert taken(receiver, 1)["/"]["status"] == 200


def test_what_is_wrapped_can_be_put_back():
    uncharge_threads()
    before = ThreadPoolExecutor.submit, anyio.to_thread.run_sync
    charge_threads()
    charge_threads()
    assert (ThreadPoolExecutor.submit, anyio.to_thread.run_sync) != before
    uncharge_threads()
    assert (ThreadPoolExecutor.submit, anyio.to_thread.run_sync) == before
    assert ThreadPoolExecutor(1).submit(sum, [1, 2]).result() == 3
