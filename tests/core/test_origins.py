"""Who may call: by Host, Origin, Sec-Fetch-Site and content type."""

import socket

import pytest

from fingerpost.origins import FORM, HOST, ORIGIN, has_token, is_known, own_names, refusal

NAMES = own_names("10.1.2.3", ["Engine.example", "*.svc.cluster.local"])


@pytest.mark.process
@pytest.mark.parametrize(
    "host",
    [
        *("", "localhost", "LOCALHOST:3000", "page.localhost:3000", "127.0.0.1:3000", "[::1]:3000", "10.1.2.3"),
        *("192.168.7.7:80", "engine.example:3000", "fingerpost.prod.svc.cluster.local", socket.gethostname()),
    ],
)
def test_addresses_local_and_own_names_are_known(host):
    assert is_known(host.lower(), NAMES)
    assert refusal("POST", lambda name: host if name == "host" else "", NAMES) is None


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "10.evil.example:3000", "127.0.0.1.evil.example", "localhost.evil.example", "192.168.evil"),
        *("engine.example.evil.example", "evil-localhost", "svc.cluster.local", "engine.example@evil.example"),
    ],
)
def test_other_names_are_refused_to_read_too(host):
    for method in ("GET", "POST"):
        assert refusal(method, lambda name: host if name == "host" else "", NAMES) == HOST


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, None),
        ({"content-type": "application/json"}, None),
        ({"origin": "http://127.0.0.1:3000", "sec-fetch-site": "same-origin"}, None),
        ({"origin": "https://engine.example", "sec-fetch-site": "same-origin"}, None),
        ({"origin": "https://engine.example"}, ORIGIN),
        ({"sec-fetch-site": "none"}, None),
        ({"origin": "http://evil.example"}, ORIGIN),
        ({"origin": "null"}, ORIGIN),
        ({"origin": "http://127.0.0.1:8000"}, ORIGIN),
        ({"origin": "http://evil.example/127.0.0.1:3000"}, ORIGIN),
        ({"sec-fetch-site": "cross-site"}, ORIGIN),
        ({"sec-fetch-site": "same-site"}, ORIGIN),
        ({"content-type": "text/plain"}, FORM),
        ({"content-type": "Multipart/Form-Data; boundary=x"}, FORM),
        ({"content-type": "application/x-www-form-urlencoded"}, FORM),
    ],
)
def test_what_changes_anything_comes_from_own_pages_and_from_no_form(headers, reason):
    sent = {"host": "127.0.0.1:3000", **headers}
    assert refusal("POST", lambda name: sent.get(name, ""), NAMES) == reason
    assert refusal("DELETE", lambda name: sent.get(name, ""), NAMES) == reason
    # No page can read the answer to it.
    assert refusal("GET", lambda name: sent.get(name, ""), NAMES) is None


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic right", "right"])
def test_only_the_token_is_the_token(given):
    assert not has_token(given, "right")
    assert not has_token(given, "")
    assert has_token("bearer right ", "right")
