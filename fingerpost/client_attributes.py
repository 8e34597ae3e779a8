"""Derives auth method and user-agent class from the client's headers, and never keeps the secrets in them."""

import re
from functools import lru_cache

from fingerpost.regions import NO_REGION, country_of_header

# Rules of fixed strings, so that the native picker has the very same (routing/native/category.c); ASCII throughout.
_FLAGS = re.IGNORECASE | re.ASCII
_BOT = re.compile(r"bot\b|crawl|spider|slurp|monitor|uptime|scan", _FLAGS)
_SERVICE = re.compile(r"(envoy|grpc|istio|kube|prometheus|fingerpost|[a-z0-9-]+-service)\b", _FLAGS)
_LIBRARY = re.compile(
    r"python|curl|wget|go-http|java|okhttp|axios|node|ruby|php|perl|libwww|httpx|aiohttp|apache-httpclient|guzzle|dart",
    _FLAGS,
)
_MOBILE = re.compile(r"android|iphone|ipad|ipod|windows phone|kaios|harmonyos|mobilesafari|silk/", _FLAGS)
_BROWSER = re.compile(r"applewebkit|gecko|msie|trident|presto|webkit|opera|netfront|up\.browser", _FLAGS)
# The first brackets hold a phone's model, which may be called anything, such as CUBOT or ScanPal.
_BRACKETS = re.compile(r"\([^)]*\)", re.ASCII)
_NOT_MODEL = re.compile(r"compatible|http|bot/", _FLAGS)
_TEXT_BROWSER = re.compile(r"lynx/|links|elinks|w3m/", _FLAGS)
AUTH_METHODS = ("none", "basic", "bearer", "api-key", "mtls", "cookie", "other")
# Longer user agents are cut: what tells their class stands at the front, and a megabyte of it is an attack.
MAX_USER_AGENT = 256


def auth_method(authorization: str | None, api_key: bool, cookie: bool, mtls: bool = False) -> str:
    """The auth method: none, basic, bearer, api-key, mtls, cookie or other; the most explicit one that was sent.

    Args:
        authorization: the beginning (six characters are enough) of the Authorization header, or None.
        api_key: whether an API-key header was sent.
        cookie: whether a (session) cookie was sent.
        mtls: whether the client showed a certificate.
    """
    if authorization:
        scheme = authorization.strip().lower()
        return "basic" if scheme.startswith("basic") else "bearer" if scheme.startswith("bearer") else "other"
    return "api-key" if api_key else "mtls" if mtls else "cookie" if cookie else "none"


def user_agent_class(user_agent: str) -> str:
    """The class of a user agent by its first 256 characters: browser, mobile, bot, library, service or other."""
    # Lone surrogates, which some formats can carry, cannot match any pattern; replace them.
    return _user_agent_class(user_agent[:MAX_USER_AGENT].encode("utf-8", "replace").decode())


@lru_cache(maxsize=4096)
def _user_agent_class(user_agent: str) -> str:
    if not user_agent:
        return "other"
    if any(map(_BOT.search, _without_model(user_agent))):
        return "bot"
    if _SERVICE.match(user_agent):
        return "service"
    if _LIBRARY.match(user_agent):
        return "library"
    if _MOBILE.search(user_agent):
        return "mobile"
    return "browser" if _BROWSER.search(user_agent) or _TEXT_BROWSER.match(user_agent) else "other"


def _without_model(user_agent: str) -> tuple[str, ...]:
    """What stands around a phone's model in a user agent; all of it, if there is none."""
    found = _BRACKETS.search(user_agent)
    if found is None or not _MOBILE.search(found[0]) or _NOT_MODEL.search(found[0]):
        return (user_agent,)
    return user_agent[: found.start()], user_agent[found.end() - 1 :]


def coarse_region(header: str | None) -> str:
    """The client's region from a two-letter country header such as `cf-ipcountry`, or `none`."""
    return country_of_header(header) or NO_REGION
