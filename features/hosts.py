"""The hosts of a service: those that have ever sent a good host sample."""

import json
from pathlib import Path

from fingerpost.lake import write_text_atomically

MAX_HOSTS = 10_000


def known_hosts(lake: Path, service: str) -> frozenset[str]:
    """The hosts that have sent a good sample."""
    path = _path(lake, service)
    return frozenset(json.loads(path.read_text())) if path.exists() else frozenset()


def remember_hosts(lake: Path, service: str, hosts: list[str]) -> None:
    """Adds hosts to the known ones; past 10,000 no more are added."""
    known = known_hosts(lake, service)
    merged = sorted(known | set(hosts))
    if len(known) < len(merged) <= MAX_HOSTS:
        write_text_atomically(_path(lake, service), json.dumps(merged))


def _path(lake: Path, service: str) -> Path:
    return lake / "hosts" / f"service={service}.json"
