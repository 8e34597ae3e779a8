"""What the client's headers say of it: auth method, user-agent class, region. Never the secrets in them."""

import re
from functools import lru_cache

_LIBRARY = re.compile(
    r"^(python|curl|wget|go-http|java|okhttp|axios|node|ruby|php|perl|libwww|httpx|aiohttp|apache-httpclient|guzzle|dart)",
    re.IGNORECASE,
)
_BOT = re.compile(r"bot\b|crawl|spider|slurp|monitor|uptime|scan", re.IGNORECASE)
_SERVICE = re.compile(r"^(envoy|grpc|istio|kube|prometheus|fingerpost|[a-z0-9-]+-service)\b", re.IGNORECASE)
_MOBILE_SYSTEMS = {"iOS", "Android", "Windows Phone", "KaiOS", "HarmonyOS"}
_REGION = re.compile(r"[A-Za-z]{2}")


def auth_method(authorization: str | None, api_key: bool, cookie: bool) -> str:
    """The auth method: none, basic, bearer, api-key, cookie or other.

    Args:
        authorization: the beginning (six characters are enough) of the Authorization header, or None.
        api_key: whether an API-key header was sent.
        cookie: whether a cookie was sent.
    """
    if authorization:
        scheme = authorization.strip().lower()
        return "basic" if scheme.startswith("basic") else "bearer" if scheme.startswith("bearer") else "other"
    return "api-key" if api_key else "cookie" if cookie else "none"


@lru_cache(maxsize=4096)
def user_agent_class(user_agent: str) -> str:
    """The class of a user agent: browser, mobile, bot, library, service or other."""
    if not user_agent:
        return "other"
    if _BOT.search(user_agent):
        return "bot"
    if _SERVICE.match(user_agent):
        return "service"
    if _LIBRARY.match(user_agent):
        return "library"
    import ua_parser

    system = ua_parser.parse_os(user_agent)
    if system and system.family in _MOBILE_SYSTEMS:
        return "mobile"
    return "browser" if ua_parser.parse_user_agent(user_agent) else "other"


def coarse_region(header: str | None) -> str:
    """The client's region from a two-letter country header such as `cf-ipcountry`, or `none`."""
    return header.upper() if header and _REGION.fullmatch(header) else "none"
