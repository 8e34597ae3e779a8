"""The coarse region of a client: by rules over its address, by a country header, or by a GeoIP database."""

import ipaddress
import re
from bisect import bisect_right
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from fingerpost.continents import continent_of
from fingerpost.errors import FingerpostError

NO_REGION = "none"
_COUNTRY = re.compile(r"[A-Za-z]{2}")
_RULE_REGION = re.compile(r"[A-Za-z0-9_.-]{1,16}")
# What Cloudflare says when it does not know (XX) or the client comes through Tor (T1).
_UNKNOWN = {"XX", "T1"}
_CACHED = 16_384

Detail = Literal["country", "continent"]
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def country_of_header(header: str | None) -> str | None:
    """The country in a header such as `cf-ipcountry`: two letters, upper case; None if it is anything else."""
    if not header or not _COUNTRY.fullmatch(header):
        return None
    country = header.upper()
    return None if country in _UNKNOWN else country


class AddressRules:
    """Regions of address ranges: the most specific rule that holds an address wins.

    Args:
        rules: CIDR range to region, IPv4 and IPv6 alike.

    Raises:
        FingerpostError: a range or a region does not fit; the message names it.
    """

    def __init__(self, rules: Mapping[str, str]) -> None:
        networks = []
        for text, region in rules.items():
            try:
                network = ipaddress.ip_network(text.strip(), strict=False)
            except ValueError as error:
                raise FingerpostError(f"region rule {text!r}: {error}") from error
            if not _RULE_REGION.fullmatch(region):
                raise FingerpostError(
                    f"region {region!r} of rule {text!r}: use 1 to 16 letters, digits, '.', '-' or '_'"
                )
            networks.append((network, region))
        self._tables = {version: _intervals([n for n in networks if n[0].version == version]) for version in (4, 6)}

    def region(self, address: Address) -> str | None:
        """The region of the narrowest range that holds the address, or None."""
        starts, regions = self._tables[address.version]
        place = bisect_right(starts, int(address)) - 1
        return regions[place] if place >= 0 else None


class Regions:
    """Finds regions; the first of these that knows one: address rules, the country header, the GeoIP database.

    Args:
        rules: CIDR range to region.
        database: a MaxMind database (`.mmdb`) of countries or cities; None: no look-up by address.
        detail: `country`, or `continent` to coarsen countries.

    Raises:
        FingerpostError: the database cannot be read, or a rule does not fit.
    """

    def __init__(
        self, rules: Mapping[str, str] | None = None, database: Path | None = None, detail: Detail = "country"
    ) -> None:
        self._rules = AddressRules(rules or {})
        self._has_rules = bool(rules)
        self._database = _open_database(database) if database else None
        self._detail = detail
        self._by_address = lru_cache(maxsize=_CACHED)(self._look_up)

    def region(self, country_header: str | None = None, client: str | None = None) -> str:
        """The region, or `none`.

        Args:
            country_header: of a header that the edge sets.
            client: the client's address as text, with or without a port; anything else is no address.
        """
        from_rules, from_database = self._by_address(client) if client and self._looks_at_addresses else (None, None)
        if from_rules:
            return from_rules
        country = country_of_header(country_header)
        return (self._coarsen(country) if country else from_database) or NO_REGION

    @property
    def _looks_at_addresses(self) -> bool:
        return self._has_rules or self._database is not None

    def _look_up(self, client: str) -> tuple[str | None, str | None]:
        address = parse_address(client)
        if address is None:
            return None, None
        return self._rules.region(address), self._country(address)

    def _country(self, address: Address) -> str | None:
        if self._database is None or not address.is_global:
            return None
        found: Any = self._database.get(address)
        country = found.get("country") or found.get("registered_country") if isinstance(found, dict) else None
        code = country_of_header(country.get("iso_code")) if isinstance(country, dict) else None
        return self._coarsen(code) if code else None

    def _coarsen(self, country: str) -> str | None:
        return continent_of(country) if self._detail == "continent" else country


def parse_address(text: str) -> Address | None:
    """An address out of `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`; None if it is none."""
    text = text.strip()[:64]
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _intervals(networks: list[tuple[Any, str]]) -> tuple[list[int], list[str | None]]:
    """Nested ranges as a flat list: from each start on its region holds, up to the next start."""
    ordered = sorted(networks, key=lambda each: (int(each[0].network_address), each[0].prefixlen))
    starts: list[int] = []
    regions: list[str | None] = []
    open_ranges: list[tuple[int, str]] = []  # (last address, region), outermost first

    def begin(at: int, region: str | None) -> None:
        if starts and starts[-1] == at:
            regions[-1] = region
        else:
            starts.append(at)
            regions.append(region)

    def close_before(at: float) -> None:
        while open_ranges and open_ranges[-1][0] < at:
            last, _ = open_ranges.pop()
            begin(last + 1, open_ranges[-1][1] if open_ranges else None)

    for network, region in ordered:
        close_before(int(network.network_address))
        open_ranges.append((int(network.broadcast_address), region))
        begin(int(network.network_address), region)
    close_before(float("inf"))
    return starts, regions


def _open_database(path: Path) -> Any:
    import maxminddb

    try:
        return maxminddb.open_database(str(path), maxminddb.MODE_AUTO)
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
        raise FingerpostError(f"GeoIP database {path}: {error}") from error
