"""Which tokens are taken, for what, and which one is sent; while their files change."""

import logging
import os

import pytest

from fingerpost.engine_api import EngineError, headers_of
from fingerpost.errors import FingerpostError
from fingerpost.origins import bearer, password
from fingerpost.tokens import (
    AGENT,
    MAX_TOKENS,
    PERSON,
    PROXY,
    ROLES,
    AcceptedTokens,
    TokenFile,
    roles_by_token,
    token_of,
    tokens_of,
)

ONE, TWO, THREE = "one-of-our-own-tokens", "two-of-our-own-tokens", "three-of-our-own-tokens"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no token"),
        ("# a note alone\n\n", "no token"),
        (f"agent {ONE}\noperator {TWO}\n", "line 2 is not `ROLE TOKEN`"),
        (f"agent {ONE} {TWO}\n", "line 1 is not"),
        ("agent\n", "line 1 is not"),
        (f"{ONE}\n", "line 1 is not"),
        ("agent short\n", "line 1 is shorter than 16"),
        ("agent töken-of-some-length\n", "line 1 is not"),
        ("".join(f"agent {ONE}{number}\n" for number in range(MAX_TOKENS + 1)), "more than"),
    ],
)
def test_a_file_of_roles_that_says_nothing_of_use_is_refused_and_not_quoted(text, why):
    with pytest.raises(FingerpostError, match=why) as refused:
        roles_by_token(text)
    assert not any(each in str(refused.value) for each in (ONE, TWO, "short ", "töken"))


def test_a_role_has_several_tokens_and_a_token_several_roles():
    text = f"# since Monday\nagent {ONE}\n\n agent   {TWO}\nproxy {ONE}\nperson {THREE}\n"
    assert roles_by_token(text) == {ONE: {AGENT, PROXY}, TWO: {AGENT}, THREE: {PERSON}}


def test_a_file_of_tokens_has_one_a_line():
    assert tokens_of(f"{ONE}\n# the next one\n{TWO}\n") == [ONE, TWO]
    for text in (f"agent {ONE}\n", "", "x" * 513):
        with pytest.raises(FingerpostError):
            tokens_of(text)


def test_who_sends_a_token_has_its_roles(tmp_path):
    (shared := tmp_path / "shared").write_text(f"{TWO}\n")
    (roles := tmp_path / "roles").write_text(f"agent {THREE}\nproxy {TWO}\n")
    taken = AcceptedTokens(ONE, shared, roles)
    assert taken.asked
    assert [taken.roles_of(each) for each in (ONE, TWO, THREE)] == [ROLES, ROLES, {AGENT}]
    for unknown in ("", f"{ONE}x", ONE[:-1], "agent", "\x00", "ü"):
        assert not taken.roles_of(unknown)
    assert not AcceptedTokens().asked
    assert not AcceptedTokens().roles_of("")


def test_tokens_are_replaced_one_after_the_other_while_all_runs(tmp_path):
    """The new one beside the old at the engine, then at the caller, then the old one is gone."""
    (roles := tmp_path / "roles").write_text(f"agent {ONE}\n")
    (sent := tmp_path / "token").write_text(f"{ONE}\n")
    engine, caller = AcceptedTokens(roles_file=roles), token_of("not this one", sent)

    def let_in():
        return engine.roles_of(bearer(headers_of(caller)["Authorization"]))

    assert let_in() == {AGENT}
    roles.write_text(f"agent {ONE}\nagent {TWO}\n")
    assert let_in() == {AGENT}
    # As an orchestrator does: another file takes the name.
    (made := tmp_path / "made").write_text(f"{TWO}\n")
    made.replace(sent)
    assert let_in() == {AGENT}
    assert engine.roles_of(ONE) == {AGENT}
    roles.write_text(f"agent {TWO}\n")
    assert not engine.roles_of(ONE)
    assert let_in() == {AGENT}


def test_a_file_that_breaks_leaves_in_force_what_it_said(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    (roles := tmp_path / "roles").write_text(f"agent {ONE}\n")
    taken = AcceptedTokens(roles_file=roles)
    taken.check()
    roles.write_text("agent\n")
    assert [taken.roles_of(ONE) for _ in range(3)] == [{AGENT}] * 3
    assert "line 1 is not" in taken.problem()
    roles.unlink()
    assert taken.roles_of(ONE) == {AGENT}
    assert "No such file" in taken.problem()
    os.mkfifo(roles)
    assert taken.roles_of(ONE) == {AGENT}
    assert "it is no file" in taken.problem()
    # Once each, and no token in it.
    assert len(caplog.records) == 3
    assert ONE not in caplog.text
    roles.unlink()
    roles.write_text(f"agent {TWO}\n")
    assert (taken.roles_of(TWO), taken.roles_of(ONE), taken.problem()) == ({AGENT}, frozenset(), "")


def test_a_file_that_never_said_anything_lets_nobody_in_and_is_told_of(tmp_path):
    taken = AcceptedTokens(ONE, roles_file=tmp_path / "absent")
    assert taken.roles_of(ONE) == ROLES
    assert not taken.roles_of(TWO)
    with pytest.raises(FingerpostError, match=r"absent: No such file"):
        taken.check()
    caller = TokenFile(tmp_path / "absent")
    with pytest.raises(EngineError, match="No such file") as failed:
        headers_of(caller)
    assert failed.value.temporary
    (tmp_path / "absent").write_text(TWO)
    assert headers_of(caller) == {"Authorization": f"Bearer {TWO}"}
    assert (headers_of(""), headers_of(ONE)) == ({}, {"Authorization": f"Bearer {ONE}"})


def test_a_browser_sends_the_token_as_a_password():
    assert password("Basic YW55Om5hbWU6c2VjcmV0") == "name:secret"
    assert password("basic OnNlY3JldA==") == "secret"
    for given in ("", "Basic", "Basic !", "Basic YW55", "Basic //79", "Bearer OnNlY3JldA=="):
        assert password(given) == ""
