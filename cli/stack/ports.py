"""Ports: are they free, and who has them if not."""

import itertools
import os
import socket
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import psutil

from fingerpost.errors import PortInUseError


@dataclass(frozen=True)
class PortUse:
    """A port the stack wants.

    Args:
        setting: the variable that moves it.
    """

    what: str
    host: str
    port: int
    setting: str


def check_ports(uses: list[PortUse]) -> None:
    """Checks that every port can be bound.

    Raises:
        PortInUseError: one or more are taken; the message names each, its owner, and the setting that moves it.
    """
    problems = [
        f"port {use.port} ({use.what}) is in use{_owner(use.port)}: stop it or set {use.setting}"
        for use in uses
        if not _free(use.host, use.port)
    ]
    if problems:
        raise PortInUseError("; ".join(problems))


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """Ports for servers that are started next: nobody uses them, and no other call of this function returns them.

    They lie below those that systems give to connections of their own accord, one of which might have a port before its
    server does. The same port of UDP marks one as given away, for as long as this process lives: all processes see it.
    """
    found: list[int] = []
    for _ in _SERVER_PORTS:
        port = next(_NEXT_PORT)
        mark = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            mark.bind((host, port))
        except OSError:
            mark.close()
            continue
        _GIVEN.append(mark)
        if _free(host, port):
            found.append(port)
        if len(found) == count:
            return found
    raise PortInUseError(f"{count} ports between {_SERVER_PORTS[0]} and {_SERVER_PORTS[-1]} are not free on {host}")


_SERVER_PORTS = range(20_000, 32_000)
_GIVEN: list[socket.socket] = []
# Processes begin at different places: they seldom ask for the same ones.
_NEXT_PORT = itertools.cycle(
    _SERVER_PORTS[(os.getpid() * 101 + place) % len(_SERVER_PORTS)] for place in range(len(_SERVER_PORTS))
)


def _free(host: str, port: int) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def foreign_listener(use: PortUse, family: AbstractSet[int]) -> str:
    """Who else listens on a port, if none of a family of processes does; empty if one does, or nobody can be seen."""
    found = _listeners(use.port)
    if not found or family & {*found}:
        return ""
    return f"port {use.port} ({use.what}): {_named(found[0])}"


def _owner(port: int) -> str:
    return next((f" by {_named(pid)}" for pid in _listeners(port)), "")


def _listeners(port: int) -> list[int]:
    """Process ids; whose a port is needs rights we may lack, so there may be none."""
    try:
        return [
            each.pid
            for each in psutil.net_connections("tcp")
            if each.laddr and each.laddr.port == port and each.status == psutil.CONN_LISTEN and each.pid
        ]
    except (psutil.Error, OSError):
        return []


def _named(pid: int) -> str:
    try:
        return f"{psutil.Process(pid).name()} (pid {pid})"
    except psutil.Error:
        return f"pid {pid}"
