"""What is asked outside: guardrails of Prometheus, a webhook that may veto, and a person's approval."""

import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

import pytest

from fingerpost.abtest.experiment.advance import advance_experiment
from fingerpost.abtest.experiment.store import start
from fingerpost.abtest.promotion.decide import FORMAT, decide
from fingerpost.abtest.promotion.outside import approval_of, approve, ask_guardrails, ask_veto
from fingerpost.abtest.promotion.policy import parse_policy
from fingerpost.abtest.promotion.promote import consider_challenger, promote_version
from fingerpost.abtest.promotion.record import load_record, replay
from fingerpost.abtest.promotion.watch import check_promotion
from fingerpost.clock import US
from fingerpost.errors import FingerpostError
from fingerpost.experiment import EXPERIMENT_TAG
from tests.support.experiment_records import keep_closing

pytestmark = pytest.mark.process

NOW = "2026-03-04T12:00:00+00:00"


@pytest.fixture
def outside():
    """A server that answers every path with what a test sets, and keeps what it was posted."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.do_POST()

        def do_POST(self):
            server.asked.append((self.path, self.rfile.read(int(self.headers.get("content-length") or 0))))
            body = server.answer.encode()
            self.send_response(server.status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.status, server.answer, server.asked = 200, "{}", []
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def vector(*values):
    result = [{"metric": {"job": str(place)}, "value": [1, str(value)]} for place, value in enumerate(values)]
    return json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}})


def guarded(url, bad="above"):
    return parse_policy(
        f'[[guardrails]]\nname = "b"\nurl = "{url}"\nquery = "x > y"\nbound = 5.0\nbad = "{bad}"'
    ).policy


@pytest.mark.parametrize(
    ("answer", "bad", "broken"),
    [
        (vector(4, 5), "above", []),
        (vector(4, 7, 9), "above", ["guardrail b is 9, above 5"]),
        (vector(4, 7), "below", ["guardrail b is 4, below 5"]),
        (vector("NaN"), "above", []),
        (vector("+Inf"), "above", ["guardrail b is inf, above 5"]),
        (vector(), "above", []),
        ('{"data": {"resultType": "scalar", "result": [1, "8"]}}', "above", ["guardrail b is 8, above 5"]),
    ],
)
def test_a_value_beyond_its_bound_breaks_a_guardrail(outside, answer, bad, broken):
    outside.answer = answer
    assert ask_guardrails(guarded(outside.url, bad)) == (broken, [])
    path, _, query = outside.asked[0][0].partition("?")
    assert (path, parse_qs(query)) == ("/api/v1/query", {"query": ["x > y"]})


@pytest.mark.parametrize(
    ("status", "answer"), [(500, vector(9)), (200, "nonsense"), (200, "[]"), (200, "{}"), (200, " " * 2_000_000)]
)
def test_a_guardrail_that_cannot_be_asked_is_told(outside, status, answer):
    outside.status, outside.answer = status, answer
    broken, problems = ask_guardrails(guarded(outside.url))
    assert broken == []
    assert "guardrail b cannot be asked" in problems[0]


@pytest.mark.parametrize(
    ("status", "answer", "found"),
    [
        (200, '{"veto": false}', {"vetoed": False, "reason": ""}),
        (200, '{"veto": true, "reason": "sale"}', {"vetoed": True, "reason": "sale"}),
        (200, '{"veto": "no"}', {"vetoed": True, "reason": "the webhook that may veto did not answer: ValueError"}),
        (503, "{}", {"vetoed": True, "reason": "the webhook that may veto did not answer: HTTPStatusError"}),
    ],
)
def test_who_does_not_agree_vetoes(outside, status, answer, found):
    outside.status, outside.answer = status, answer
    policy = parse_policy(f'[veto]\nurl = "{outside.url}/ask"').policy
    assert ask_veto(policy, {"challenger": "2"}) == found
    assert outside.asked == [("/ask", b'{"challenger":"2"}')]


APPROVED = {"who": "ann", "why": "reviewed", "at": NOW, "valid": True}


@pytest.mark.parametrize(
    ("approval", "status", "words"),
    [
        (None, "wait", "`fingerpost approve 2`"),
        (APPROVED, "pass", "approved by ann: reviewed"),
        ({**APPROVED, "valid": False}, "wait", "not signed"),
        ({**APPROVED, "at": "2026-02-04T12:00:00+00:00"}, "wait", "older than 168 h"),
        ({**APPROVED, "at": "?"}, "wait", "older"),
    ],
)
def test_an_approval_counts_that_is_signed_and_fresh(approval, status, words):
    policy = parse_policy('[approval]\nuse = "required"').policy
    evidence = {"format": FORMAT, "challenger": "2", "as_of": NOW, "approval": approval}
    gate = next(gate for gate in decide(policy, evidence).gates if gate.name == "approval")
    assert (gate.status, words in gate.reason) == (status, True)


def test_where_nobody_asks_for_them_there_are_no_such_gates():
    """So that records of before come out the same."""
    names = {gate.name for gate in decide(parse_policy("").policy, {"as_of": NOW}).gates}
    assert not names & {"approval", "veto"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[veto]\nurl = "ftp://x"', "veto.url"),
        ('[[guardrails]]\nname = "b"\nurl = "x"\nquery = "q"\nbound = 1.0', "guardrails.0.url"),
        ('[[guardrails]]\nname = "b"\nurl = "http://x"\nquery = "q"\nbound = nan', "guardrails.0.bound"),
        ('[[guardrails]]\nname = "b"\nurl = "http://x"\nquery = "q"\nbound = 1.0\nbad = "odd"', "guardrails.0.bad"),
        ('[approval]\nuse = "maybe"', "approval.use"),
        ("[[experiment.steps]]\npairs = 1\none_in = 1\nslot_s = 5.0", "experiment.steps.0.one_in"),
    ],
)
def test_bad_values_are_refused_by_name(text, words):
    with pytest.raises(FingerpostError) as caught:
        parse_policy(text)
    assert words in str(caught.value)


def test_a_promotion_waits_for_approval_and_for_the_webhook(made, outside, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(f'[approval]\nuse = "required"\n[veto]\nurl = "{outside.url}"')
    made.settings = made.settings.model_copy(update={"promotion_policy": path, "approval_token": "k1"})
    made.good_results()
    assert "nobody has approved it" in consider_challenger(made.settings, "flow").reason
    assert outside.asked == []
    for settings, version, why, words in (
        (made.settings.model_copy(update={"approval_token": ""}), "2", "good", "FINGERPOST_APPROVAL_TOKEN"),
        (made.settings, "2", " ", "needs a reason"),
        (made.settings, "9", "good", "no version '9'"),
    ):
        with pytest.raises(FingerpostError, match=words):
            approve(settings, version, "ann", why)
    approve(made.settings.model_copy(update={"approval_token": "k2"}), "2", "eve", "trust me")
    assert "not signed" in consider_challenger(made.settings, "flow").reason
    approve(made.settings, "2", "ann", "reviewed")
    assert approval_of(made.settings, made.registry, "2")["valid"]
    outside.answer = '{"veto": true, "reason": "sale today"}'
    assert "vetoed: sale today" in consider_challenger(made.settings, "flow").reason
    outside.answer = '{"veto": false}'
    done = consider_challenger(made.settings, "flow")
    assert done.action == "promote"
    record = load_record(made.registry, done.record)
    assert record["evidence"]["approval"]["who"] == "ann"
    assert replay(record)[1]


def test_a_named_guardrail_ends_an_experiment_and_one_that_is_away_gives_the_traffic_back(made, outside, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(f'[[guardrails]]\nname = "baskets"\nurl = "{outside.url}"\nquery = "q"\nbound = 5.0')
    made.settings = made.settings.model_copy(update={"promotion_policy": path})
    experiment = start(made.settings).experiment
    made.registry.set_note(EXPERIMENT_TAG, replace(experiment, until_us=experiment.begin_us).to_note())
    outside.status = 500
    done = advance_experiment(made.settings)
    assert (done.action, "baskets cannot be asked" in done.why) == ("goes on", True)
    assert made.registry.experiment().until_us == experiment.begin_us
    outside.status, outside.answer = 200, vector(1)
    assert advance_experiment(made.settings).action == "goes on"
    assert made.registry.experiment().until_us > experiment.begin_us
    outside.answer = vector(6)
    done = advance_experiment(made.settings)
    assert (done.action, done.evaluation.verdict.verdict) == ("stopped", "guardrail")
    assert made.registry.latest_result("experiment", "2")["result"]["verdict"] == "guardrail"
    assert consider_challenger(made.settings, "flow").action == "reject"


def test_an_arm_that_the_engine_closed_ends_its_experiment(made):
    experiment = start(made.settings).experiment
    keep_closing(made.settings, experiment, "60% of 200 requests failed", experiment.begin_us - 120 * US)
    done = advance_experiment(made.settings)
    assert (done.action, done.why) == ("stopped", "60% of 200 requests failed")
    assert done.evaluation.verdict.rule == "gross harm"
    assert consider_challenger(made.settings, "flow").action == "reject"


@pytest.mark.parametrize(
    ("guardrail", "asked", "answer", "state", "words"),
    [
        (True, False, vector(6), "rolled back", "guardrail baskets is 6, above 5"),
        (True, False, "nonsense", "watching", "guardrail baskets cannot be asked"),
        (False, True, '{"veto": true, "reason": "sale today"}', "rolled back", "vetoed: sale today"),
        (False, True, "nonsense", "watching", "did not answer"),
        (False, False, '{"veto": true}', "watching", "until"),
    ],
)
def test_what_a_user_names_binds_the_watch(made, outside, tmp_path, guardrail, asked, answer, state, words):
    path = tmp_path / "policy.toml"
    named = f'[[guardrails]]\nname = "baskets"\nurl = "{outside.url}"\nquery = "q"\nbound = 5.0'
    during = 'during = ["watch"]' if asked else ""
    promote_version(made.settings, "2", "ann", "test", skip_gates=True)
    path.write_text(named if guardrail else f'[veto]\nurl = "{outside.url}"\n{during}')
    made.settings = made.settings.model_copy(update={"promotion_policy": path})
    outside.answer = answer
    found = check_promotion(made.settings, "watch")
    assert (found.state, words in found.reason) == (state, True)
    assert made.champion == ("1" if state == "rolled back" else "2")
    assert [json.loads(body)["stage"] for _, body in outside.asked if body] == (["watch"] if asked else [])


def test_a_veto_ends_an_experiment_where_the_policy_asks_for_it(made, outside, tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(f'[veto]\nurl = "{outside.url}"\nduring = ["experiment"]')
    made.settings = made.settings.model_copy(update={"promotion_policy": path})
    start(made.settings)
    outside.answer = '{"veto": false}'
    assert advance_experiment(made.settings).action == "goes on"
    outside.answer = '{"veto": true, "reason": "sale today"}'
    assert advance_experiment(made.settings).why == "vetoed: sale today"
