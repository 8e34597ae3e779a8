"""What is announced of a host: where it is, of what class, whether it takes new requests. JSON, every field checked."""

import ipaddress
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fingerpost.errors import RefusedError
from fingerpost.names import is_name

SERVING, DRAINING, REMOVED = "serving", "draining", "removed"
STATES = (SERVING, DRAINING, REMOVED)
MAX_BYTES = 4096
# How often an agent announces its host again, seconds: an engine that lost its store knows all hosts by then.
ANNOUNCE_EVERY_S = 30.0
# A draining host leaves the list so long after it was last heard of, seconds.
DRAINED_S = 60.0
_PORT = re.compile(r"[0-9]{1,5}")
_FIELDS = {"address", "zone", "class", "slots", "cores"}
_MOST_SLOTS, _MOST_CORES = 10**6, 10**5


@dataclass(frozen=True)
class Announcement:
    """A host as its agent announces it; what is not known is empty, or None.

    Args:
        address: where it serves, `10.0.0.7:8000` or `[fd00::7]:8000`.
        zone: where it is, for proxies that route by locality.
        host_class: hosts of one class are expected to be alike, such as those of one machine type.
        slots: requests it serves at once.
        cores: that it may use.
    """

    address: str = ""
    zone: str = ""
    host_class: str = ""
    slots: int | None = None
    cores: float | None = None

    def to_wire(self) -> dict[str, Any]:
        """The fields that are known, by their names on the wire."""
        given = {"address": self.address, "zone": self.zone, "class": self.host_class}
        numbers = {"slots": self.slots, "cores": self.cores}
        return {name: text for name, text in given.items() if text} | {
            name: value for name, value in numbers.items() if value is not None
        }


@dataclass(frozen=True)
class Notice:
    """A message about a host.

    Args:
        boot_id: life of the agent that sends it; empty: an operator sends it.
        state: one of STATES.
        about: of the host; None: as it was announced before, which an agent never says.
    """

    service: str
    host: str
    state: str = SERVING
    boot_id: str = ""
    about: Announcement | None = None

    def to_json(self) -> bytes:
        """The body of `POST /v1/members`."""
        given = {"service": self.service, "host": self.host, "state": self.state, "boot_id": self.boot_id}
        about = {} if self.about is None else self.about.to_wire()
        return json.dumps({name: text for name, text in given.items() if text} | about).encode()


def notice_from_json(body: bytes) -> Notice:
    """A checked notice; fields that this program does not know are left out.

    Raises:
        RefusedError: `notice:malformed`, `notice:too_large`, or `FIELD:WHAT`.
    """
    if len(body) > MAX_BYTES:
        raise RefusedError("notice:too_large")
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RefusedError("notice:malformed") from error
    if not isinstance(given, dict):
        raise RefusedError("notice:malformed")
    for field in ("service", "host"):
        if not is_name(given.get(field)):
            raise RefusedError(f"{field}:bad_name")
    boot_id, state = given.get("boot_id", ""), given.get("state", SERVING)
    if boot_id != "" and not is_name(boot_id):
        raise RefusedError("boot_id:bad_name")
    if state not in STATES:
        raise RefusedError("state:unknown")
    says = bool(boot_id) or not _FIELDS.isdisjoint(given)
    return Notice(given["service"], given["host"], state, boot_id, announcement_from_wire(given) if says else None)


def announcement_from_wire(given: Mapping[str, Any]) -> Announcement:
    """A checked announcement, out of what `Announcement.to_wire` gave; other fields are left out.

    Raises:
        RefusedError: `FIELD:WHAT`.
    """
    address = given.get("address", "")
    if address != "":
        address = "{}:{}".format(*split_address(address))
    for field in ("zone", "class"):
        if given.get(field, "") != "" and not is_name(given[field]):
            raise RefusedError(f"{field}:bad_name")
    slots = _number(given, "slots", _MOST_SLOTS)
    if slots is not None and (slots != int(slots) or slots < 1):
        raise RefusedError("slots:type")
    cores = _number(given, "cores", _MOST_CORES)
    return Announcement(
        address, given.get("zone", ""), given.get("class", ""), None if slots is None else int(slots), cores
    )


def split_address(text: object) -> tuple[str, int]:
    """The IP address, in brackets where it has colons, and the port of `ADDRESS:PORT`.

    Raises:
        RefusedError: `address:malformed`, or `address:unspecified` of one that means any address.
    """
    host, colon, port = text.rpartition(":") if isinstance(text, str) else ("", "", "")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError as error:
        raise RefusedError("address:malformed") from error
    if not colon or (address.version == 6) != host.startswith("[") or "%" in host:
        raise RefusedError("address:malformed")
    if not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        raise RefusedError("address:malformed")
    if address.is_unspecified or address.is_multicast:
        raise RefusedError("address:unspecified")
    return (f"[{address.compressed}]" if address.version == 6 else address.compressed), int(port)


def _number(given: Mapping[str, Any], field: str, most: float) -> float | None:
    value = given.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RefusedError(f"{field}:type")
    if not 0 < value <= most:
        raise RefusedError(f"{field}:{'too_small' if value <= 0 else 'too_large'}")
    return float(value)
