"""Envoy before three hosts: a table for it, requests through it, what it logs and counts."""

import json
import socket
import struct
import time

import httpx
import numpy as np

from fingerpost.accesslog.envoy import decision_parts
from fingerpost.routing.table_file import PickerSettings
from tests.support.picker_harness import made_table

HOSTS = ["h00", "h01", "h02"]


def table_of(best, **changes):
    """A table in which the host `best` is by far the cheapest."""
    slope = np.full((1, 2, 4), 1.0, dtype=np.float32)
    slope[..., HOSTS.index(best)] = 1e-4
    settings = PickerSettings(exploration=0.0)
    return made_table(HOSTS, ["GET /c0", "other"], slope=slope, settings=settings, **changes)


def ask(port, count, path="/c0", **headers):
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        return [client.get(path, headers=headers) for _ in range(count)]


def log_rows(path, least):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        rows = [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []
        if len(rows) >= least:
            return [{**row, **decision_parts(row["decision"])} for row in rows]
        time.sleep(0.1)
    raise AssertionError("the log stays too short")


def vanish(port, rng):
    """One of the ways in which clients end badly."""
    way = rng.randrange(4)
    client = socket.create_connection(("127.0.0.1", port), 5)
    body = b"content-length: 1000\r\n" if way == 2 else b""
    target = b"/c1" if way != 3 else b"/c1?x=9"
    client.sendall(b"GET " + target + b" HTTP/1.1\r\nhost: a\r\n" + body + b"\r\n")
    if way == 1:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if way != 3:
        client.close()
    return client


def active(admin):
    """Requests that Envoy counts as under way at its hosts: the counts that the picker chooses by."""
    text = httpx.get(f"http://127.0.0.1:{admin}/clusters?format=json", trust_env=False).json()
    [hosts] = [each["host_statuses"] for each in text["cluster_statuses"] if each["name"] == "hosts"]
    return sum(int(stat.get("value", 0)) for host in hosts for stat in host["stats"] if stat["name"] == "rq_active")


def sent(admin):
    """Requests that Envoy has sent to its hosts so far."""
    url = f"http://127.0.0.1:{admin}/stats?filter=^cluster.hosts.upstream_rq_total$"
    return int(httpx.get(url, trust_env=False).text.rpartition(": ")[2])
