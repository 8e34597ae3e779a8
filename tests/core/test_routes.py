"""Route templates: ids, given and learned ones, and the categories and book that use them."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.agent.active_categories import ActiveCategories
from fingerpost.categoriser import Categoriser
from fingerpost.category import CategoryTable, category_key, fit_categories, size_bucket
from fingerpost.route_templates import framework_route, normal_template
from fingerpost.routes import RouteTable, learn_templates
from tests.support.records import record

segments = st.sampled_from(["a", "b", "c", "*"])
routes = st.lists(segments, max_size=4).map(lambda parts: "/" + "/".join(parts))


@pytest.mark.parametrize(
    "text", ["/users/{id}/orders", "/users/:id/orders", "/users/<int:id>/orders/", "/users/*/orders"]
)
def test_templates_are_taken_as_people_write_them(text):
    assert normal_template(text) == "/users/*/orders"


@pytest.mark.parametrize(
    "text",
    [
        *("/users/:id(.:format)", "/users/:id(\\d+)", "/users/:id<int>", "/users/:id?", "/users/*rest", "/users/*"),
        *(
            "^users/(?P<pk>[0-9]+)/$",
            "^users/([^/]+)/?$",
            "\\Ausers/\\d+\\z",
            "/^\\/users\\/(\\d+)$/",
            "^/^users/(\\w+)$",
        ),
        *("/users/[id]", "/users/[[...slug]]", "/(shop)/users/[id=integer]", "/users/$id", "/users/+"),
        *("/users/{id:[0-9]{4}}", "/users/{id<\\d+>?1}", "/users/{id?}", "/users/{*rest}", "/users/{id: [^/]+/x}"),
        *(
            "users/<int:pk>/",
            "/users/<path..>",
            '/users/<regex("[a-z]/{2}"):x>',
            "/users/@{name}",
            "/users/{id}:cancel",
        ),
        *(
            "GET /users/{id}",
            "GET shop.example/users/{id}",
            "POST /users/{id...}",
            "/users/{id",
            "/{group=users/*}:get",
        ),
    ],
)
def test_templates_of_frameworks_are_as_logs_and_pickers_have_them(text):
    assert framework_route(text) == "/users/*"


@pytest.mark.parametrize(
    ("template", "prefix", "route"),
    [
        ("/", "", "/"),
        ("^$", "", "/"),
        ("/users/{id}/orders", "/api/v1", "/api/v1/users/*/orders"),
        ("/users/{id}", "/tenants/4711", "/tenants/*/users/*"),
        ("/recalculate-customer-invoices-2024", "", "/recalculate-customer-invoices-2024"),
        ("/v1/users:batchGet", "", "/v1/users:batchGet"),
        ("/shop.v1.OrderService/RecalculateAllInvoices", "", "/shop.v1.OrderService/RecalculateAllInvoices"),
        ("/a/b/c/d/{e}/f/g/h", "", "/a/b/c/d/*/f/*"),
        ("^api/v1\\.0/users/$", "", "/api/v1.0/users"),
    ],
)
def test_words_of_a_framework_s_template_stay(template, prefix, route):
    assert framework_route(template, prefix) == route


@given(st.text("/{}[]()<>:*$^?\\ab1.|- ") | st.text())
def test_any_template_gives_a_route(template):
    route = framework_route(template)
    assert route.startswith("/")
    assert "|" not in route
    assert len(route) <= 7 * 65


@pytest.mark.parametrize("text", ["users", "", "/1/2/3/4/5/6/7/8"])
def test_bad_templates_are_named(text):
    with pytest.raises(ValueError, match="route template"):
        normal_template(text)


def test_a_word_wins_over_a_wildcard_and_a_dead_end_is_left():
    table = RouteTable(["/users/*/orders", "/users/me/orders", "/users/me/*/x"])
    assert table.match("/users/me/orders") == "/users/me/orders"
    assert table.match("/users/alice/orders") == "/users/*/orders"
    assert table.match("/users/me/y/x") == "/users/me/*/x"
    assert table.match("/users/alice") == "/users/alice"


@given(st.lists(routes, max_size=8), routes)
def test_matching_twice_changes_nothing(templates, route):
    table = RouteTable(templates)
    once = table.match(route)
    assert table.match(once) == once
    assert once == route or once in table.templates


def test_names_of_things_are_learned_and_names_of_operations_are_kept():
    counts = [(f"/blog/post-{number}", 2) for number in range(100)]
    counts += [("/blog/about", 500), ("/cart/add", 5), ("/cart/remove", 5)]
    learned = learn_templates(counts)
    table = RouteTable(learned)
    assert table.match("/blog/post-77") == "/blog/*"
    assert table.match("/blog/never-seen") == "/blog/*"
    assert table.match("/blog/about") == "/blog/about"
    assert table.match("/cart/add") == "/cart/add"


@given(st.lists(st.tuples(routes, st.integers(1, 50)), max_size=40), st.randoms())
def test_learning_depends_on_counts_not_on_order(counts, rng):
    shuffled = list(counts)
    rng.shuffle(shuffled)
    assert learn_templates(counts, 2) == learn_templates(shuffled, 2)


def test_categories_use_given_and_learned_templates():
    keys = [((f"GET /shop/item-{number}", "0", "none", "bot", "DE"), 5) for number in range(100)]
    keys.append((("GET /users/alice/orders", "0", "none", "bot", "DE"), 50))
    table = fit_categories(keys, 16, 30, [normal_template("/users/{name}/orders")])
    assert table.assign(("GET /shop/item-7", "0", "none", "bot", "DE")) == "GET /shop/*|0|none|bot|DE"
    assert table.assign(("GET /users/bob/orders", "0", "none", "bot", "DE")) == "GET /users/*/orders|0|none|bot|DE"
    assert CategoryTable.from_json(json.loads(json.dumps(table.to_json()))) == table
    assert CategoryTable.from_names(table.names, table.routes) == table


def test_a_foreign_category_is_folded_into_the_one_that_holds_it():
    table = CategoryTable((("GET /a",), ("GET /a", "0", "none")))
    assert table.fold("GET /a|0|none|bot|DE") == "GET /a|0|none"
    assert table.fold("GET /a|1K") == "GET /a"
    assert table.fold("GET /b|0") == "other"
    assert table.fold("other") == "other"


rows = st.lists(
    st.tuples(
        st.sampled_from(["GET", "POST"]), routes, st.integers(0, 2**23), st.sampled_from("ab"), st.sampled_from("cd")
    ),
    max_size=30,
)


@given(rows)
def test_columns_are_categorised_as_single_requests_are(requests):
    keys = [category_key(m, r, size_bucket(b), a, u, "DE") for m, r, b, a, u in requests]
    table = fit_categories([(key, 1) for key in keys], 6, 1)
    columns = list(zip(*requests, strict=True)) or [(), (), (), (), ()]
    found = Categoriser(table).assign(*columns, ["DE"] * len(requests))
    assert [table.names[place] for place in found] == [table.assign(key) for key in keys]


def book(tmp_path, **changes):
    return ActiveCategories(tmp_path / "published.json", **{"max_categories": 8, "min_requests": 5, **changes})


def test_an_agent_on_its_own_fits_categories_to_its_traffic(tmp_path):
    each = book(tmp_path)
    assert each.table.names == ("other",)
    rows = [record() for _ in range(10)]
    assert each.assign(rows).tolist() == [0] * 10
    assert each.counts == {"requests": 10, "folded": 10}
    assert each.refresh() is None
    each.note(rows)
    assert each.refresh() == [each.table.names.index("other")]
    assert len(each.table.names) == 2
    each.assign(rows)
    assert each.counts["folded"] == 10
    assert each.refresh() is None


def test_an_agent_tells_requests_apart_as_soon_as_there_are_ten_of_each(tmp_path):
    """Whenever half as many again have come it looks again, and not only after a minute."""
    each = book(tmp_path, min_requests=30)
    kinds = [f"/work/{kind}" for kind in ("hash", "sort", "render")]
    apart = []
    for number in range(48):
        rows = [record(route=kinds[number % 3])]
        each.note(rows)
        each.refresh()
        each.assign(rows)
        apart.append(sum(any(kind in name for name in each.table.names) for kind in kinds))
    assert (apart[8], apart[-1]) == (0, len(kinds))


def test_the_published_table_is_used_as_soon_as_it_is_there(tmp_path):
    each = book(tmp_path)
    each.note([record() for _ in range(10)])
    each.refresh()
    fine = each.table.names[0]
    table = CategoryTable((("POST /work/hash", "1K"),))
    (tmp_path / "published.json").write_text(json.dumps(table.to_json()))
    mapping = each.refresh()
    assert each.table == table
    assert [table.names[place] for place in mapping] == ["POST /work/hash|1K", "other"]
    assert fine.startswith("POST /work/hash|1K")
    (tmp_path / "published.json").write_text("broken")
    assert each.refresh() is None
    assert each.table == table


def test_a_thousand_new_categories_a_second_stay_bounded(tmp_path):
    each = book(tmp_path)
    for batch in range(20):
        rows = [record(route=f"/x{batch}-{number}/y") for number in range(1000)]
        each.note(rows)
        each.refresh()
        each.assign(rows)
    assert len(each.table.names) <= 8
    assert each.counts["keys_dropped"] > 0
    assert len(each._keys) <= 8192
    assert np.isfinite(each.counts["folded"])
