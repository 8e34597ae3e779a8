"""Ports: are they free, and who has them if not."""

import socket
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


def _owner(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.status == "LISTEN" and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass  # whose it is needs rights we may lack; that it is taken we know
    return ""
