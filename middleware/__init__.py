"""Middleware that measures each request in the served process and reports it to the agent beside it.

Loads the standard library, msgpack and two small modules of the kernel: the served application pays for nothing else.
"""

from fingerpost.middleware.asgi import FingerpostMiddleware
from fingerpost.middleware.meter import charge_thread, metered
from fingerpost.middleware.receiver import MiddlewareReceiver
from fingerpost.middleware.reporter import Reporter
from fingerpost.middleware.threads import MeteredExecutor, charge_threads, uncharge_threads
from fingerpost.middleware.wsgi import FingerpostWsgiMiddleware

__all__ = [
    "FingerpostMiddleware",
    "FingerpostWsgiMiddleware",
    "MeteredExecutor",
    "MiddlewareReceiver",
    "Reporter",
    "charge_thread",
    "charge_threads",
    "metered",
    "uncharge_threads",
]
