"""Regions of clients: by rules, headers, and a real GeoIP database."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.continents import continent_of
from fingerpost.errors import FingerpostError
from fingerpost.regions import AddressRules, Regions, country_of_header, parse_address


@pytest.mark.parametrize(
    ("header", "country"),
    [("de", "DE"), ("", None), (None, None), ("D1", None), ("DEU", None), ("XX", None), ("T1", None), ("ДЕ", None)],
)
def test_country_headers(header, country):
    assert country_of_header(header) == country


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.1", "192.0.2.1"),
        (" 192.0.2.1:8080 ", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("[2001:db8::1]:443", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("unknown", None),
        ("999.1.1.1", None),
        ("1" * 10_000, None),
        ("", None),
    ],
)
def test_addresses_are_parsed_or_are_none(text, address):
    assert parse_address(text) == (ipaddress.ip_address(address) if address else None)


@given(st.text())
def test_any_text_has_a_region(text):
    assert Regions({"0.0.0.0/0": "all"}).region(text, text) in {"none", "all", text.upper()}


def test_the_narrowest_rule_wins():
    rules = AddressRules({"10.0.0.0/8": "corp", "10.1.0.0/16": "plant", "10.1.2.3": "gate", "2001:db8::/32": "lab"})
    expected = {
        "10.0.0.0": "corp",
        "10.1.0.0": "plant",
        "10.1.2.3": "gate",
        "10.1.2.4": "plant",
        "10.2.0.0": "corp",
        "10.255.255.255": "corp",
        "11.0.0.0": None,
        "9.255.255.255": None,
        "2001:db8::5": "lab",
        "2001:db9::": None,
    }
    assert {text: rules.region(ipaddress.ip_address(text)) for text in expected} == expected


networks = st.builds(
    lambda value, length: ipaddress.ip_network((value, length), strict=False),
    st.integers(0, 2**32 - 1),
    st.integers(0, 32),
)


@given(st.lists(networks, max_size=8, unique=True), st.integers(0, 2**32 - 1))
def test_rules_agree_with_a_search_through_all(ranges, value):
    rules = AddressRules({str(each): f"r{number}" for number, each in enumerate(ranges)})
    address = ipaddress.IPv4Address(value)
    holding = [(each.prefixlen, f"r{number}") for number, each in enumerate(ranges) if address in each]
    assert rules.region(address) == (max(holding)[1] if holding else None)


@pytest.mark.parametrize(("rules", "named"), [({"10.0.0.0/99": "a"}, "10.0.0.0/99"), ({"10.0.0.0/8": "a|b"}, "a\\|b")])
def test_bad_rules_are_named(rules, named):
    with pytest.raises(FingerpostError, match=named):
        AddressRules(rules)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    from mmdb_writer import MMDBWriter
    from netaddr import IPSet

    writer = MMDBWriter(ip_version=6, ipv4_compatible=True, database_type="Test-Country")
    writer.insert_network(IPSet(["81.2.69.0/24"]), {"country": {"iso_code": "GB"}})
    writer.insert_network(IPSet(["2a02:2e0::/32"]), {"registered_country": {"iso_code": "DE"}})
    writer.insert_network(IPSet(["8.8.8.0/24"]), {"country": "nonsense"})
    path = tmp_path_factory.mktemp("geoip") / "countries.mmdb"
    writer.to_db_file(str(path))
    return path


def test_the_database_tells_the_country_of_public_addresses(database):
    regions = Regions(database=database)
    assert regions.region(client="81.2.69.142:5050") == "GB"
    assert regions.region(client="[2a02:2e0::7]:1") == "DE"
    assert regions.region(client="8.8.8.8") == "none"
    assert regions.region(client="10.0.0.1") == "none"
    assert regions.region(client="1.1.1.1") == "none"


def test_rules_come_before_the_header_and_that_before_the_database(database):
    regions = Regions({"81.2.69.7": "desk"}, database)
    assert regions.region("US", "81.2.69.7") == "desk"
    assert regions.region("US", "81.2.69.8") == "US"
    assert regions.region(None, "81.2.69.8") == "GB"


def test_continents(database):
    regions = Regions(database=database, detail="continent")
    assert regions.region("US", None) == "NA"
    assert regions.region(None, "81.2.69.8") == "EU"
    assert regions.region("ZZ", None) == "none"
    assert continent_of("jp") == "AS"


def test_a_database_that_is_none_is_named(tmp_path):
    (tmp_path / "x.mmdb").write_bytes(b"no database")
    for path in (tmp_path / "x.mmdb", tmp_path / "absent.mmdb"):
        with pytest.raises(FingerpostError, match=path.name):
            Regions(database=path)
