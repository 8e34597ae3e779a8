"""Requests of all kinds that pickers are tested with, and the category keys they have everywhere else."""

from hypothesis import strategies as st

from fingerpost.accesslog.fields import route_of
from fingerpost.category import category_key, size_bucket
from fingerpost.client_attributes import auth_method, coarse_region, user_agent_class
from tests.support.picker_harness import Sent

_WORDS = (
    "users",
    "orders",
    "7",
    "12345678",
    "deadbeef",
    "a-b",
    "x" * 70,
    "|",
    "v2",
    "1f0e3dad-9990-4a3b-8c1d",
    "q" * 20,
    "q7" * 9 + "Q-3",
    "42.json",
    "42:cancel",
    "a@b.de",
    "home;jsessionid=0A.n1",
    "export-2024-annual-report",
    "dQw4w9WgXcQ",
    "main.8f3a2b1c.js",
    "a%40b",
    "shop.v1.Catalogue",
    "ListRecommendationsForUser",
)


_AGENTS = (
    *("curl/8", "kube-probe/1.27", "cart-service/2", "a_b-service", "x-services", "Googlebot/2.1", "robots", "bot_x"),
    *(
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36",
        "",
        "-service",
    ),
    *(
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0) AppleWebKit/605",
        "Mozilla/4.0 (compatible;)",
        "Lynx/2.8",
        "Python-urllib",
    ),
    *(
        "grpc-go/1.5",
        "grpcurl",
        "envoy",
        "ENVOY-x",
        "Opera 9.6",
        "monitor",
        "Mozilla/5.0 (compatible; theoldreader.com)",
        "Mozilla/5.0 (Linux; Android 9; CUBOT X30) AppleWebKit/537.36",
        "Mozilla/5.0 (Linux; Android 5; compatible; xbot/1) Scan",
    ),
)


_path = st.one_of(
    st.lists(st.sampled_from(_WORDS), max_size=9).map(lambda words: "/" + "/".join(words)),
    st.text("aB1_./", max_size=30).map(lambda text: "/a.B" + text),
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=600).map(lambda text: "/" + text),
)


_agent = st.one_of(
    st.sampled_from(_AGENTS),
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300),
    st.lists(st.sampled_from((*_AGENTS, "bot", "-service", "_", " ", "scan")), max_size=4).map("".join),
)


_ascii_text = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=9)


requests = st.builds(
    lambda method, path, auth, agent, country, length, key, cookie: Sent(
        method.encode(),
        path.encode(),
        *(None if t is None else t.encode() for t in (auth, agent, country, length, key, cookie)),
    ),
    st.sampled_from(("GET", "POST", "DELETE")),
    _path,
    st.none() | st.sampled_from(("Bearer x", "basic", "BASI", "Digest y", "bearerx")) | _ascii_text,
    st.none() | _agent,
    st.none() | st.sampled_from(("DE", "us", "XX", "T1", "DEU", "D")) | _ascii_text,
    st.none() | st.sampled_from(("0", "1", "1023", "1024", "99999999")),
    st.none() | st.just("k"),
    st.none() | st.just("c"),
)


def key_of(sent: Sent) -> tuple[str, ...]:
    """The category key as agents find it from the access log's line of the same request."""
    texts = {name: (value or b"").decode() for name, value in vars(sent).items()}
    auth = auth_method(texts["authorization"][:6] or None, sent.api_key is not None, sent.cookie is not None)
    return category_key(
        texts["method"],
        route_of(texts["path"].partition("?")[0][:512]),
        size_bucket(int(texts["length"] or 0)),
        auth,
        user_agent_class(texts["user_agent"]),
        coarse_region(texts["country"][:2]),
    )
