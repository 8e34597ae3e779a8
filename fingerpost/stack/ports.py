"""Ports: are they free, and who has them if not."""

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
    """Ports that nobody uses now."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind((host, 0))
    found = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return found


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
