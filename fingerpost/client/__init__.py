"""The Python client of the prediction engine: `EngineClient`, and `AsyncEngineClient` with the same methods.

Light: httpx and the wire format; may import `fingerpost` only.
"""

from fingerpost.client.asynchronous import AsyncEngineClient
from fingerpost.client.calls import EngineError, Table
from fingerpost.client.synchronous import EngineClient

__all__ = ["AsyncEngineClient", "EngineClient", "EngineError", "Table"]
