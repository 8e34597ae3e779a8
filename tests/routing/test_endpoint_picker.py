"""The endpoint picker without Envoy: categories, choices, messages, counts; and its gRPC server with a client."""

import asyncio
import random
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner

from fingerpost.category import OTHER, CategoryTable
from fingerpost.cli import app
from fingerpost.errors import FingerpostError
from fingerpost.routing.arms import arm_of
from fingerpost.routing.cost import routing_cost
from fingerpost.routing.endpoint_picker.choice import MAX_ENDPOINTS, Chooser
from fingerpost.routing.endpoint_picker.endpoints import Endpoints, endpoint_of
from fingerpost.routing.endpoint_picker.messages import SERVICE, messages
from fingerpost.routing.endpoint_picker.requests import Request, RequestCategories, request_of
from fingerpost.routing.endpoint_picker.server import EndpointPickerServer
from fingerpost.routing.endpoint_picker.service import DESTINATION, LB_SPACE, SERVED, SUBSET, SUBSET_SPACE, Exchange
from fingerpost.routing.envoy.upstream import Upstream, parse_upstream
from fingerpost.routing.hosts import host_source
from fingerpost.routing.inflight import ORCA_HEADER
from fingerpost.routing.router import write_table
from fingerpost.routing.table_file import Arm, PickerSettings
from tests.support.picker_harness import made_table
from tests.support.picker_requests import key_of, requests

HOSTS = [Upstream(f"h{number}", f"10.0.0.{number}", 80) for number in range(6)]
ADDRESSES = [endpoint_of(upstream) for upstream in HOSTS]
NAMES = [upstream.name for upstream in HOSTS]


def headers_of(sent):
    named = {
        **{":method": sent.method, ":path": sent.path, "authorization": sent.authorization},
        **{"user-agent": sent.user_agent, "cf-ipcountry": sent.country, "content-length": sent.length},
        **{"x-api-key": sent.api_key, "cookie": sent.cookie},
    }
    return [SimpleNamespace(key=key, raw_value=value, value="") for key, value in named.items() if value is not None]


@given(st.lists(requests, min_size=1, max_size=20), st.randoms(use_true_random=False))
def test_categories_are_the_same_as_everywhere(sent, rng):
    plain = CategoryTable((), ("/users/*", "/*/orders"))
    keys = {key_of(each)[: rng.randrange(1, 6)] for each in sent}
    routed = {(f"{key[0].partition(' ')[0]} {plain._routes.match(key[0].partition(' ')[2])}", *key[1:]) for key in keys}
    table = CategoryTable(tuple(sorted(routed)), plain.routes)
    # In an order of its own: places count, not names.
    names = [*table.names]
    rng.shuffle(names)
    categories = RequestCategories(tuple(names), table.routes)
    for each in sent:
        assert names[categories.place_of(request_of(headers_of(each)))] == table.assign(key_of(each))
        if each.length is None:
            followed = categories.place_of(request_of(headers_of(each), ends=False))
            assert names[followed] == table.assign_unsized(key_of(each))


def test_no_header_does_harm():
    odd = [
        *((":path", b"\xff" * 900), (":method", b"\x00"), ("content-length", b"9" * 400), ("content-length", b"1")),
        *(("authorization", b""), ("user-agent", "\udcff".encode("utf-8", "surrogatepass")), ("", b"x")),
    ]
    found = request_of([SimpleNamespace(key=key, raw_value=value, value="") for key, value in odd])
    assert found.bytes_in == 10**18 - 1
    assert RequestCategories((OTHER,), ()).place_of(found) == 0


def chooser(table=None, panic=0.5, hosts=HOSTS):
    made = Chooser(Endpoints(hosts), panic, random.Random(1))
    if table:
        made.use(table)
    return made


def costs(seed=1, **changes):
    slope = np.random.default_rng(seed).uniform(0.01, 0.1, (1, 2, len(HOSTS) + 1)).astype(np.float32)
    changes = {"settings": PickerSettings(exploration=0.0), "slope": slope, **changes}
    return made_table(NAMES, ["GET /x", OTHER], **changes)


def test_the_least_cost_is_chosen_and_the_next_ones_follow():
    table = costs(settings=PickerSettings(exploration=0.0))
    made = chooser(table)
    rng = np.random.default_rng(2)
    for _ in range(50):
        made.endpoints.inflight[:] = rng.integers(0, 9, len(HOSTS))
        found = made.choose(Request("GET", "/x"))
        expected = routing_cost(made.endpoints.inflight, 1 / table.slope[0, 0, :-1].astype(np.float64))
        assert found.endpoints == tuple(ADDRESSES[place] for place in np.argsort(expected)[:MAX_ENDPOINTS])
        assert found.predicted_cost == pytest.approx(expected.min())
        assert (found.policy, found.propensity, found.category) == ("fingerpost", 1.0, "GET /x")
    some = made.choose(Request("GET", "/x"), [ADDRESSES[5], ADDRESSES[2], "10.9.9.9:80"])
    assert set(some.endpoints) == {ADDRESSES[5], ADDRESSES[2]}
    for none in ([], ["10.9.9.9:80"]):
        assert made.choose(Request(), none) is None


def test_exploration_and_ties_have_their_propensity():
    slope = np.full((1, 2, 7), 0.1, dtype=np.float32)
    slope[..., :2] = 0.01
    made = chooser(costs(slope=slope, settings=PickerSettings(exploration=0.3)))
    found = [made.choose(Request("GET", "/x")) for _ in range(6000)]
    count = Counter(each.endpoints[0] for each in found)
    for place, address in enumerate(ADDRESSES):
        expected = 0.3 / 6 + (0.35 if place < 2 else 0.0)
        assert count[address] / 6000 == pytest.approx(expected, abs=0.025)
        (said,) = {each.propensity for each in found if each.endpoints[0] == address}
        assert said == pytest.approx(expected)
    assert sum(each.explored for each in found) / 6000 == pytest.approx(0.3, abs=0.03)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (None, "no_table"),
        (costs(expires_us=1), "expired"),
        (made_table(NAMES, ["POST /y"]), "no_category"),
        (costs(slope=np.full((1, 2, 7), np.inf, dtype=np.float32)), "no_row"),
        (made_table(NAMES[:2], ["GET /x", OTHER]), "panic"),
    ],
)
def test_without_predictions_it_is_least_requests(table, reason):
    made = chooser(table)
    made.endpoints.inflight[:] = [3, 1, 0, 4, 0, 9]
    found = [made.choose(Request("GET", "/x")) for _ in range(40)]
    assert {(each.policy, each.fallback) for each in found} == {("least_request", reason)}
    assert {each.endpoints[0] for each in found} == {ADDRESSES[2], ADDRESSES[4]}
    assert {len(each.endpoints) for each in found} == {MAX_ENDPOINTS}


def test_hosts_that_refuse_are_left_out_unless_most_do():
    made = chooser(costs(slope=np.full((1, 2, 7), 0.01, dtype=np.float32)))
    for address in ADDRESSES[:3]:
        made.endpoints.refused(address, time.monotonic())
    assert {made.choose(Request("GET", "/x")).endpoints[0] for _ in range(60)} == set(ADDRESSES[3:])
    made.endpoints.refused(ADDRESSES[3], time.monotonic())
    found = [made.choose(Request("GET", "/x")) for _ in range(100)]
    assert {each.fallback for each in found} == {"panic"}
    assert {each.endpoints[0] for each in found} == set(ADDRESSES)
    made.endpoints.refused_until[:] = 0
    assert made.choose(Request("GET", "/x")).fallback == ""


@pytest.mark.parametrize(("status", "times"), [("500", 10), ("502", 5)])
def test_endpoints_that_answer_errors_are_left_out(status, times):
    made = chooser(costs(slope=np.full((1, 2, 7), 0.01, dtype=np.float32)))

    def answer(status):
        exchange = Exchange(made)
        exchange.answer(message("request_headers", subset=[ADDRESSES[0]]))
        said = message("response_headers", served=ADDRESSES[0])
        said.response_headers.headers.headers.add(key=":status", raw_value=status.encode())
        exchange.answer(said)
        exchange.end()

    for each in [status] * (times - 1) + ["200"] + [status] * (times - 1):
        answer(each)
    assert not made.endpoints.refused_until.any()
    answer(status)
    assert made.endpoints.refused_until[0] > time.monotonic()
    assert not made.endpoints.refused_until[1:].any()


def test_arms_are_those_of_the_definition():
    arms = (Arm("a", "fingerpost", 0, 0.4, "1"), Arm("b", "random", 0, 0.7, "2"), Arm("c", "least_request", 0, 1.0))
    settings = PickerSettings(exploration=0.0, arm_mode="header", arm_header="X-User", salt="s")
    table = costs(arms=arms, settings=settings)
    made = chooser(table)
    assert made.arm_header == "x-user"
    for number in range(60):
        key = str(number).encode()
        found = made.choose(Request("GET", "/x", arm_key=key))
        arm = arm_of(table, key)
        assert (found.arm, found.policy, found.model_version) == (arm.name, arm.policy, arm.model_version)


def test_arms_by_request_are_drawn_whatever_id_a_client_sends():
    arms = (Arm("a", "fingerpost", 0, 0.25, "1"), Arm("b", "random", 0, 1.0, "2"))
    made = chooser(costs(arms=arms, settings=PickerSettings(exploration=0.0, arm_mode="request")))
    same = request_of([SimpleNamespace(key="x-request-id", raw_value=b"mine", value="")], made.arm_header)
    found = Counter(made.choose(same).arm for _ in range(2000))
    assert found["a"] == pytest.approx(500, abs=100)


def message(kind, subset=None, served=None, duplex=False, **headers):
    made = messages().ProcessingRequest()
    getattr(made, kind).SetInParent()
    for key, value in headers.items():
        made.request_headers.headers.headers.add(key=key, raw_value=value.encode())
    if subset is not None:
        made.metadata_context.filter_metadata[SUBSET_SPACE].update({SUBSET: subset})
    if served is not None:
        made.metadata_context.filter_metadata[LB_SPACE].update({SERVED: served})
    if duplex:
        made.protocol_config.request_body_mode = made.protocol_config.response_body_mode = 4
    return made


def test_the_answer_has_the_endpoints_in_a_header_and_in_metadata():
    exchange = Exchange(chooser(costs()))
    answer = exchange.answer(message("request_headers", subset=ADDRESSES[:2]))
    (header,) = answer.request_headers.response.header_mutation.set_headers
    listed = answer.dynamic_metadata[LB_SPACE][DESTINATION]
    assert (header.header.key, header.header.raw_value.decode()) == (DESTINATION, listed)
    assert set(listed.split(",")) == set(ADDRESSES[:2])
    refused = Exchange(chooser(costs())).answer(message("request_headers", subset=[]))
    assert refused.immediate_response.status.code == 503


def test_bodies_are_sent_back_where_they_go_through_us_alone():
    for duplex in (False, True):
        exchange = Exchange(chooser(costs()))
        exchange.answer(message("request_headers", duplex=duplex))
        for kind in ("request_body", "response_body"):
            sent = message(kind)
            getattr(sent, kind).body, getattr(sent, kind).end_of_stream = b"text", True
            answer = exchange.answer(sent)
            back = getattr(answer, kind).response.body_mutation.streamed_response
            assert answer.WhichOneof("response") == kind
            assert (back.body, back.end_of_stream) == ((b"text", True) if duplex else (b"", False))
        for kind in ("request_trailers", "response_trailers"):
            assert exchange.answer(message(kind)).WhichOneof("response") == kind
    assert exchange.answer(messages().ProcessingRequest()) is None


actions = st.lists(
    st.tuples(st.integers(0, 5), st.sampled_from(["headers", "response", "end", "hosts"]), st.integers(0, 7)),
    max_size=60,
)


@given(actions, st.booleans())
@example([(0, "headers", 0), (0, "end", 0), (0, "response", 1)], False)
@example([(0, "headers", 0), (0, "response", 1), (0, "response", 2)], True)
def test_counts_are_those_of_what_is_under_way(steps, streamed):
    """Whatever comes, in whatever order, and whatever hosts come and go: a count for each open exchange, none left."""
    made = chooser(costs())
    exchanges = [Exchange(made, streamed=streamed) for _ in range(6)]
    begun = set()
    for which, what, number in steps:
        exchange = exchanges[which]
        if what == "headers":
            exchange.answer(message("request_headers"))
            begun.add(which)
        elif what == "response":
            exchange.answer(message("response_headers", served=([*ADDRESSES, "10.9.9.9:1"] * 2)[number]))
            if streamed:
                begun.discard(which)
        elif what == "end":
            exchange.end()
            begun.discard(which)
        else:
            made.endpoints.replace(HOSTS[: max(1, number % 7)])
        assert (made.endpoints.inflight >= 0).all()
        assert made.endpoints.inflight.sum() <= len(begun)
        assert begun or not made.endpoints.inflight.any()
    for exchange in exchanges:
        exchange.end()
        exchange.end()
    assert made.endpoints.inflight.sum() == 0
    made.endpoints.replace(HOSTS[:1])
    assert made.endpoints.addresses == ADDRESSES[:1]


def test_streamed_answers_count_until_they_begin():
    made = chooser(costs())
    exchange, first = Exchange(made, streamed=True), ADDRESSES[2]
    exchange.answer(message("request_headers", subset=[first]))
    assert made.endpoints.inflight[2] == 1
    begins = message("response_headers", served=first)
    begins.response_headers.headers.headers.add(key=ORCA_HEADER, raw_value=b"TEXT named_metrics.inflight=9")
    answer = exchange.answer(begins)
    assert answer.WhichOneof("response") == "response_headers"
    # The endpoint counts requests whose answers have begun too: its number is on another scale.
    assert made.endpoints.inflight.sum() == made.endpoints.others.sum() == 0
    exchange.answer(message("response_body"))
    exchange.end()
    assert made.endpoints.inflight.sum() == 0
    whole = Exchange(made)
    whole.answer(message("request_headers", subset=[first]))
    whole.answer(begins)
    assert (made.endpoints.inflight[2], made.endpoints.others[2]) == (1, 8)


def test_the_server_counts_streams_that_break_off_and_tells_its_health(tmp_path):
    grpc = pytest.importorskip("grpc")
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    hosts = tmp_path / "hosts"
    hosts.write_text("# the fleet\nh0=10.0.0.0:80\n")
    table = tmp_path / "table"
    write_table(table, costs())
    kinds = messages()

    async def run():
        server = EndpointPickerServer(chooser(hosts=HOSTS[:1]), table, host_source(str(hosts)))
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(server.serve("127.0.0.1:0", stop, ready.set_result))
        inflight = server.chooser.endpoints
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await ready}") as channel:
            process = channel.stream_stream(
                f"/{SERVICE}/Process",
                request_serializer=kinds.ProcessingRequest.SerializeToString,
                response_deserializer=kinds.ProcessingResponse.FromString,
            )
            calls = [process() for _ in range(5)]
            for call in calls:
                await call.write(message("request_headers"))
                assert (await call.read()).WhichOneof("response") == "request_headers"
            assert inflight.inflight.sum() == 5
            for call in calls[:3]:
                call.cancel()
            for call in calls[3:]:
                await call.done_writing()
            await _until(lambda: inflight.inflight.sum() == 0)
            hosts.write_text("h0=10.0.0.0:80\nh1=10.0.0.1:80\nh2=10.0.0.2:80 draining\n")
            await _until(lambda: inflight.known == 2)
            hosts.write_text("no host\n")
            await asyncio.sleep(0.4)
            assert inflight.known == 2
            health = health_pb2_grpc.HealthStub(channel)
            for name in ("", "liveness", "readiness", SERVICE):
                answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
                assert answer.status == health_pb2.HealthCheckResponse.ServingStatus.SERVING
        stop.set()
        await serving
        return server.picks

    assert asyncio.run(run()) == {("fingerpost", ""): 5}


def test_a_server_of_streamed_answers_counts_until_they_begin(tmp_path):
    grpc = pytest.importorskip("grpc")
    kinds = messages()

    async def run():
        server = EndpointPickerServer(chooser(), tmp_path / "table", streamed=True)
        stop, ready = asyncio.Event(), asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(server.serve("127.0.0.1:0", stop, ready.set_result))
        counts = []
        async with grpc.aio.insecure_channel(f"127.0.0.1:{await ready}") as channel:
            call = channel.stream_stream(
                f"/{SERVICE}/Process",
                request_serializer=kinds.ProcessingRequest.SerializeToString,
                response_deserializer=kinds.ProcessingResponse.FromString,
            )()
            for kind in ("request_headers", "response_headers", "response_body"):
                await call.write(message(kind))
                assert (await call.read()).WhichOneof("response") == kind
                counts.append(int(server.chooser.endpoints.inflight.sum()))
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
        stop.set()
        await serving
        return counts

    assert asyncio.run(run()) == [1, 0, 0]


async def _until(true):
    for _ in range(100):
        if true():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("not in time")


def test_an_endpoint_is_listed_once():
    with pytest.raises(FingerpostError, match="twice"):
        Endpoints([HOSTS[0], HOSTS[0]])
    with pytest.raises(FingerpostError, match="twice"):
        Endpoints([Upstream("a", "::1", 80), Upstream("b", "0:0:0:0:0:0:0:1", 80)])


def test_an_address_is_the_same_however_it_is_spelled():
    """A file, a gateway's subset and the endpoint that answered, each in a spelling of its own."""
    hosts = [parse_upstream("six=[2001:DB8:0:0::1]:80"), parse_upstream("four=10.0.0.1:80")]
    made = chooser(hosts=hosts)
    assert made.endpoints.addresses == ["[2001:db8::1]:80", "10.0.0.1:80"]
    exchange = Exchange(made)
    exchange.answer(message("request_headers", subset=["[2001:0db8:0:0:0:0:0:1]:80"]))
    assert made.endpoints.inflight.tolist() == [1, 0]
    exchange.answer(message("response_headers", served="[2001:db8:0::1]:80"))
    assert (made.endpoints.inflight.tolist(), made.endpoints.refused_until.tolist()) == ([1, 0], [0, 0])
    exchange.end()
    assert made.endpoints.inflight.sum() == 0


def test_the_command_needs_endpoints_by_one_way(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("# none yet\n")
    for options in ([], ["--hosts", str(hosts)], ["--host", "a=1.2.3.4:80", "--hosts", str(hosts)]):
        with pytest.raises(FingerpostError, match="endpoint"):
            CliRunner().invoke(app, ["endpoint-picker", *options], catch_exceptions=False)
