import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.category import (
    OTHER,
    CategoryTable,
    category_attributes,
    category_key,
    fit_categories,
    route_template,
    size_bucket,
)
from fingerpost.client_attributes import auth_method, coarse_region, user_agent_class
from tests.support.foreign import foreign_input

keys = st.tuples(*[st.sampled_from(["a", "b", "c"])] * 5)
counted = st.lists(st.tuples(keys, st.integers(1, 100)), max_size=60)


@given(counted, st.integers(1, 10), st.integers(1, 200))
def test_categories_are_bounded_and_every_request_has_one(counts, most, least):
    table = fit_categories(counts, most, least)
    assert len(table.names) <= most
    for key, _ in counts:
        assert table.assign(key) in table.names


@given(counted, st.integers(1, 10), st.randoms())
def test_categories_depend_on_counts_not_on_order(counts, most, rng):
    shuffled = list(counts)
    rng.shuffle(shuffled)
    assert fit_categories(counts, most, 10) == fit_categories(shuffled, most, 10)


def test_rare_combinations_fold_into_coarser_ones():
    common = ("POST /a", "1K", "none", "browser", "DE")
    rare = [("POST /a", "1K", "none", "browser", f"X{n}") for n in range(5)]
    table = fit_categories([(common, 100), *((key, 8) for key in rare)], 10, 30)
    assert table.assign(common) == "POST /a|1K|none|browser|DE"
    assert table.assign(rare[0]) == "POST /a|1K|none|browser"
    assert table.assign(("GET /never", "0", "none", "bot", "US")) == OTHER


def test_table_survives_json_with_its_version():
    table = fit_categories([(("POST /a", "1K", "none", "browser", "DE"), 100)], 10, 1)
    copy = CategoryTable.from_json(table.to_json())
    assert copy == table
    assert copy.version == table.version


def test_attributes_of_folded_categories_are_empty():
    assert category_attributes("POST /a|1K") == {
        "request_type": "POST /a",
        "size_bucket": "1K",
        "auth": "",
        "user_agent_class": "",
        "region": "",
    }
    assert set(category_attributes(OTHER).values()) == {""}


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/", "/"),
        ("/users/42/orders/9f8e7d6c5b4a?page=2", "/users/*/orders/*"),
        ("/a/123e4567-e89b-12d3-a456-426614174000", "/a/*"),
        ("/static/app.js", "/static/app.js"),
        ("/a/b/c/d/e/f/g/h", "/a/b/c/d/e/f/*"),
        ("//a//b", "/a/b"),
        ("/users/42.json", "/users/*"),
        ("/users/42:cancel", "/users/*"),
        ("/sums/1,2,3/near", "/sums/*/near"),
        ("/v1.2.3/on-call", "/v1.2.3/on-call"),
        ("/days/2026-11-26", "/days/*"),
        # Parameters and fragments, like the query, may hold a session's id.
        ("/app/home;jsessionid=0A1B2C3D4E5F.n1?x=1", "/app/home"),
        ("/app;v=1/cart;jsessionid=0A1B2C3D4E5F.n1#top", "/app/cart"),
        # Tokens of any kind, and what a person is known by.
        ("/verify/eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.bm90LWEtc2lnbmF0dXJl", "/verify/*"),
        ("/bot100000001:AAnotARealTokenJustAnExample0000000/sendMessage", "/*/sendMessage"),
        ("/reset/bm90LWEtcmVhbC10b2tlbi0xMjM0NTY3ODk=", "/reset/*"),
        ("/reset/bm90LWEtcmVhbC10b2tlbi0xMjM0%3D", "/reset/*"),
        ("/hooks/T0AAA1BBB/xoxb-123456-7890/x", "/hooks/T0AAA1BBB/*/x"),
        ("/objects/01ARZ3NDEKTSV4RRFFQ69G5FAV", "/objects/*"),
        ("/keys/sk_live_4eC39HqLyjWDarjtT1zdp7dc", "/keys/*"),
        ("/invite/AbCdEfGhIjKlMnOpQrStUvWx", "/invite/*"),
        ("/watch/dQw4w9WgXcQ", "/watch/*"),
        ("/people/ann@shop.example", "/people/*"),
        ("/people/ann%40shop.example", "/people/*"),
        ("/assets/main.8f3a2b1c.chunk.js", "/assets/*"),
        # Words, however long.
        ("/recalculate-customer-invoices", "/recalculate-customer-invoices"),
        ("/regenerate_monthly_statements", "/regenerate_monthly_statements"),
        ("/api/getCustomerAccountDetails", "/api/getCustomerAccountDetails"),
        ("/RECALCULATE_ALL_THE_INVOICES", "/RECALCULATE_ALL_THE_INVOICES"),
        ("/export-2024-annual-report-list", "/export-2024-annual-report-list"),
        ("/.well-known/oauth-authorization-server", "/.well-known/oauth-authorization-server"),
    ],
)
def test_route_template(path, route):
    assert route_template(path) == route


@given(st.text())
def test_route_template_takes_anything_and_is_bounded(path):
    route = route_template(path)
    assert len(route) <= 7 * 65
    assert route_template(route) == route


@given(
    st.text("abXY12", min_size=24, max_size=60).filter(lambda text: sum(map(str.isdigit, text)) > 5), st.text("./ab-")
)
def test_no_route_holds_a_token(token, around):
    assert token not in route_template(f"/{around}/{token};id={token}/x?{token}#{token}")


def test_separator_in_a_part_cannot_forge_another_category():
    assert category_key("POST", "/a|1K", "0", "none", "bot", "DE")[0] == "POST /a_1K"


@pytest.mark.parametrize(("size", "bucket"), [(0, "0"), (1, "1K"), (1023, "1K"), (1024, "16K"), (2**30, "big")])
def test_size_bucket(size, bucket):
    assert size_bucket(size) == bucket


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0",
            "browser",
        ),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148", "mobile"),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "bot"),
        # A phone's model is called as its maker likes.
        ("Mozilla/5.0 (Linux; Android 9; CUBOT X30) AppleWebKit/537.36 Chrome/90.0 Mobile Safari/537.36", "mobile"),
        ("Mozilla/5.0 (Linux; Android 12; ScanPal EDA52) AppleWebKit/537.36 Mobile Safari/537.36", "mobile"),
        ("Mozilla/5.0 (Linux; U; Android 8.1; Spider-P2 Monitor) AppleWebKit/537.36 Safari/537.36", "mobile"),
        ("Dalvik/2.1.0 (Linux; U; Android 9; CUBOT NOTE 20 Build/PPR1)", "mobile"),
        (
            "Mozilla/5.0 (Linux; Android 6; Nexus 5X) AppleWebKit/537.36 Safari/537.36 (compatible; Googlebot/2.1)",
            "bot",
        ),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 8_3; compatible; xbot; +http://x.example) AppleWebKit/600", "bot"),
        ("xbot/1.0 (Linux; Android 9)", "bot"),
        ("python-requests/2.32", "library"),
        ("curl/8.5.0", "library"),
        ("checkout-service/1.2", "service"),
        ("", "other"),
        ("???", "other"),
    ],
)
def test_user_agent_class(agent, expected):
    assert user_agent_class(agent) == expected


def test_auth_method_knows_the_scheme_from_six_characters():
    assert auth_method("Bearer", False, False) == "bearer"
    assert auth_method("Basic ", True, True) == "basic"
    assert auth_method("Digest", False, False) == "other"
    assert auth_method(None, True, True) == "api-key"
    assert auth_method(None, False, True) == "cookie"
    assert auth_method(None, False, False) == "none"


@pytest.mark.parametrize(
    ("header", "region"), [("de", "DE"), ("", "none"), (None, "none"), ("D1", "none"), ("DEU", "none")]
)
def test_coarse_region(header, region):
    assert coarse_region(header) == region


MOBILE_SYSTEMS = {"iOS", "Android", "Windows Phone", "KaiOS", "HarmonyOS"}


def library_class(agent):
    """Mobile, browser or other, as ua-parser has it."""
    import ua_parser

    system = ua_parser.parse_os(agent)
    if system and system.family in MOBILE_SYSTEMS:
        return "mobile"
    return "browser" if ua_parser.parse_user_agent(agent) else "other"


def test_fixed_strings_agree_with_the_parser_library_on_real_user_agents():
    log = foreign_input("access-logs/apache-combined.log")
    agents = [line.rsplit('"', 2)[-2] for line in log.read_text(errors="replace").splitlines() if line.count('"') >= 6]
    told = [(agent, user_agent_class(agent)) for agent in agents]
    people = [(agent, found) for agent, found in told if found in ("browser", "mobile")]
    assert len(people) > 5000
    assert all(library_class(agent) == found for agent, found in people)
    # The library counts feed readers and some robots as browsers; beyond these nothing is missed.
    missed = sum(found == "other" and library_class(agent) != "other" for agent, found in told)
    assert missed < 0.05 * len(told)


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/shop.v1.Catalogue/ListRecommendationsForUser", None),
        ("/Catalogue.Catalogue/Deadbeef", None),
        ("/grpc.health.v1.Health/Check?x=1", "/grpc.health.v1.Health/Check"),
        # No method of gRPC: the service's name begins with a capital, the method's with a letter, and nothing follows.
        ("/files.v2/deadbeefdeadbeef", "/files.v2/*"),
        ("/shop.v1.Catalogue/12345678", "/shop.v1.Catalogue/*"),
        ("/shop.v1.Catalogue/ListOfUser20260131/x", "/shop.v1.Catalogue/*/x"),
        ("/Catalogue/ListOfUser20260131", "/Catalogue/*"),
    ],
)
def test_a_method_of_grpc_is_a_name_however_long(path, route):
    assert route_template(path) == (route or path)


def test_a_size_that_is_not_declared_is_found_among_those_that_there_are():
    call = "POST /shop.v1.Catalogue/List"
    table = CategoryTable(((call, "16K", "none"), (call, "1K"), ("POST /up", "0"), ("POST /up",)))
    assert table.assign_unsized((call, "", "none", "service", "none")) == f"{call}|16K|none"
    assert table.assign_unsized((call, "", "basic", "service", "none")) == f"{call}|1K"
    assert table.assign_unsized(("POST /up", "", "none", "other", "none")) == "POST /up|0"
    assert table.assign_unsized(("POST /else", "", "none", "other", "none")) == OTHER


NEAR = CategoryTable(
    (
        ("GET /a",),
        ("POST /a", "1K", "none", "library", "DE"),
        ("POST /a", "1K", "none", "service", "none"),
        ("POST /a", "4M", "bearer", "service", "none"),
        ("POST /b", "0"),
        ("POST /b", "0", "none", "mobile", "DE"),
    )
)


@pytest.mark.parametrize(
    ("key", "name"),
    [
        # Held by a category, be it a coarse one.
        (("POST /a", "1K", "none", "service", "none"), "POST /a|1K|none|service|none"),
        (("GET /a", "big", "basic", "bot", "US"), "GET /a"),
        (("POST /b", "0", "none", "mobile", "US"), "POST /b|0"),
        # Of the same route and size: any region, any client, any auth method.
        (("POST /a", "1K", "none", "library", "US"), "POST /a|1K|none|library|DE"),
        (("POST /a", "1K", "none", "other", "none"), "POST /a|1K|none|library|DE"),
        (("POST /a", "1K", "cookie", "browser", "none"), "POST /a|1K|none|library|DE"),
        # Then of any size, the nearest first, of two the larger.
        (("POST /a", "16K", "none", "service", "none"), "POST /a|1K|none|service|none"),
        (("POST /a", "big", "none", "service", "none"), "POST /a|4M|bearer|service|none"),
        (("POST /b", "4M", "none", "mobile", "DE"), "POST /b|0|none|mobile|DE"),
        # Another route is another thing.
        (("POST /c", "1K", "none", "service", "none"), OTHER),
        (("PUT /a", "1K", "none", "service", "none"), OTHER),
    ],
)
def test_a_request_that_no_category_holds_goes_by_one_of_its_route(key, name):
    assert NEAR.assign(key) == name
    assert NEAR.is_own(key, name) == ("|".join(key) == name)


def test_a_body_of_undeclared_size_goes_by_the_category_most_like_it():
    assert NEAR.assign_unsized(("POST /a", "", "bearer", "service", "none")) == "POST /a|4M|bearer|service|none"
    assert NEAR.assign_unsized(("POST /a", "", "bearer", "bot", "none")) == "POST /a|4M|bearer|service|none"
    assert NEAR.assign_unsized(("POST /a", "", "cookie", "bot", "none")) == "POST /a|1K|none|library|DE"
    assert NEAR.assign_unsized(("POST /c", "", "none", "bot", "none")) == OTHER


def test_a_coarse_category_is_like_no_single_one():
    assert NEAR.fold("POST /a|1K|none|other|none") == "POST /a|1K|none|library|DE"
    assert NEAR.fold("POST /a|1K") == OTHER
    assert NEAR.fold("GET /a|1K|none") == "GET /a"
