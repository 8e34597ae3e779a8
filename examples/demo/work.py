"""Real work of six kinds, each a function of how much of it there is to do."""

import hashlib
import os
import sqlite3
import tempfile
import threading
import zlib
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from jinja2 import Environment, Template

_LOCAL = threading.local()
_ROWS = 2000
_TEMPLATE = """<table>{% for row in rows %}<tr class="{{ loop.cycle('odd', 'even') }}"><td>{{ row.id }}</td>
<td>{{ row.name|title }}</td><td>{{ '%.2f'|format(row.price) }}</td></tr>{% endfor %}</table>"""


def hash_password(payload: bytes, amount: float) -> int:
    """CPU-bound: a key derivation, 24000 rounds at amount 1."""
    return len(hashlib.pbkdf2_hmac("sha256", payload[:64] or b"-", b"salt", max(1, round(24_000 * amount))))


def sort_records(payload: bytes, amount: float) -> int:
    """Memory-heavy: builds, copies and sorts a list of numbers, 45000 at amount 1."""
    seed = (len(payload) * 2654435761) % 2**32
    numbers = [(seed + index * 40503) % 1000003 for index in range(max(1, round(45_000 * amount)))]
    return len(sorted(numbers)) + len(bytes(len(numbers) * 64))


def compress(payload: bytes, amount: float) -> int:
    """Compression: zlib over half-random bytes, 768 KiB at amount 1."""
    size = max(256, round(768 * 1024 * amount))
    block = (payload[:4096] + os.urandom(2048)) * 4
    return len(zlib.compress((block * (size // len(block) + 1))[:size], 6))


def query_orders(payload: bytes, amount: float) -> int:
    """SQLite: grouped queries over 2000 orders, 12 at amount 1."""
    connection = _connection()
    total = 0
    for number in range(max(1, round(12 * amount))):
        rows = connection.execute(
            "SELECT customer, count(*), sum(price) FROM orders WHERE price > ? "
            "GROUP BY customer ORDER BY 3 DESC LIMIT 20",
            ((len(payload) + number) % 50,),
        )
        total += len(rows.fetchall())
    return total


def store_files(payload: bytes, amount: float) -> int:
    """File I/O: writes, reads back and removes files of 64 KiB, 36 at amount 1."""
    block = (payload + bytes(64 * 1024))[: 64 * 1024]
    path = _folder() / "upload"
    total = 0
    for _ in range(max(1, round(36 * amount))):
        path.write_bytes(block)
        total += len(path.read_bytes())
        path.unlink()
    return total


def render_page(payload: bytes, amount: float) -> int:
    """Rendering: an HTML table from a template, 650 rows at amount 1."""
    name = f"item {len(payload)}"
    rows = [{"id": number, "name": name, "price": number * 1.1} for number in range(max(1, round(650 * amount)))]
    return len(_page().render(rows=rows))


KINDS: dict[str, Callable[[bytes, float], int]] = {
    "hash": hash_password,
    "sort": sort_records,
    "compress": compress,
    "query": query_orders,
    "files": store_files,
    "render": render_page,
}


def amount_of_work(payload_bytes: int, multiplier: float) -> float:
    """How much work a request is: it grows with the square root of its payload, and by the host's class."""
    return multiplier * (0.5 + 0.25 * (payload_bytes / 1024) ** 0.5)


def _connection() -> sqlite3.Connection:
    if not hasattr(_LOCAL, "connection"):
        created = sqlite3.connect(":memory:")
        created.execute("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer INTEGER, price REAL)")
        created.executemany(
            "INSERT INTO orders VALUES (?, ?, ?)", ((n, n * 7919 % 97, n * 31 % 100) for n in range(_ROWS))
        )
        _LOCAL.connection = created
    connection: sqlite3.Connection = _LOCAL.connection
    return connection


def _folder() -> Path:
    """Of this thread alone: hosts of one machine that shared one would wait for each other, as real ones do not."""
    if not hasattr(_LOCAL, "folder"):
        _LOCAL.folder = tempfile.TemporaryDirectory(prefix="fingerpost-host-")
    return Path(_LOCAL.folder.name)


@lru_cache(maxsize=1)
def _page() -> Template:
    return Environment(autoescape=True).from_string(_TEMPLATE)
