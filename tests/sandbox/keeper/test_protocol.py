"""The keeper's protocol: every message survives the round trip, and anything else is refused without being repeated."""

import json
from typing import get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sandbox.errors import Fault, ProtocolError
from sandbox.health import HostState
from sandbox.inspection.judge import ReasonKind, VerdictKind
from sandbox.keeper import ping, protocol
from sandbox.state import State

TOKEN = "sesame-open-sesame-open"

REQUESTS: list[protocol.Message] = [
    protocol.Lend(attempt="job-1.2", token=TOKEN, profile="default", trust_key="team/één", wait=12.5, patience=3600),
    protocol.Resume(token=TOKEN),
    protocol.Renew(token=TOKEN),
    protocol.Kill(token=TOKEN),
    protocol.Return(token=TOKEN, used=True),
    protocol.Condemn(token=TOKEN, reason="sshd hung up: \u2018no\u2019"),
    protocol.List(),
    protocol.Inspect(sandbox="sandbox-1"),
    protocol.Hold(sandbox="sandbox-1", seconds=3600),
    protocol.Release(sandbox="sandbox-1"),
    protocol.Enter(sandbox="sandbox-1"),
    protocol.Ping(),
    protocol.Offer(),
    protocol.Measure(),
]

GRANT = protocol.LeaseGrant(
    sandbox="sandbox-0123abcd-1",
    generation=1,
    runtime="sysbox-runc",
    user="sandbox",
    host_key="ssh-ed25519 AAAA sandbox",
    client_key="-----BEGIN secret\nkey-----",
    token=TOKEN,
    term=30.0,
)
REPORT = protocol.SandboxReport(
    name="sandbox-0123abcd-1",
    generation=1,
    profile="default",
    state=State.CONDEMNED,
    seconds_in_state=1.5,
    runtime="sysbox-runc",
    trust_key="team",
    attempt=None,
    jobs=3,
    fault=Fault.SSH_DEAD,
    reason='it said "no"\n',
    processes_at_ready=[1, 2],
)
REPLIES: list[protocol.Reply] = [
    GRANT,
    protocol.Entrance(user="sandbox", host_key="ssh-ed25519 AAAA sandbox-1", client_key="PEM"),
    protocol.Done(),
    protocol.Listing(
        installation="0123abcd",
        host=HostState.WELL,
        trouble="",
        sandboxes=[REPORT],
        condemned=[],
        counts={Fault.USED: 2},
    ),
    protocol.Findings(
        sandbox=REPORT,
        verdict=VerdictKind.DAMAGED,
        findings=[protocol.Finding(kind=ReasonKind.LOGIN, verdict=VerdictKind.DAMAGED, sentence="It changed.")],
    ),
    protocol.Pong(fit=False, message="no sandbox"),
    protocol.Offered(profiles={"default": [], "large": ["gpu"]}),
    protocol.Measured(text="# TYPE sandbox_warm gauge\nsandbox_warm 2.0\n"),
]


def request(version: object = 2, **body: object) -> bytes:
    return json.dumps({"version": version, "request": body}).encode() + b"\n"


def lend(**changes: object) -> bytes:
    body = {"attempt": "a", "token": TOKEN, "profile": "default", "trust_key": "k", "wait": 1, "patience": 0}
    return request(verb="lend", **{**body, **changes})


@pytest.mark.parametrize("message", REQUESTS, ids=lambda message: type(message).__name__)
def test_a_request_comes_through_as_one_line(message: protocol.Message) -> None:
    line = protocol.encode_request(message)
    assert line.count(b"\n") == 1
    assert protocol.decode_request(line) == message


def test_every_verb_has_its_round_trip_above() -> None:
    assert {type(message) for message in REQUESTS} == set(get_args(protocol.Message))
    assert {type(reply) for reply in REPLIES} == set(get_args(protocol.Reply))


@pytest.mark.parametrize("reply", REPLIES, ids=lambda reply: type(reply).__name__)
def test_a_reply_comes_through_as_one_line(reply: protocol.Reply) -> None:
    line = protocol.encode_reply(reply)
    assert line.count(b"\n") == 1
    assert protocol.decode_reply(line, type(reply)) == reply


@pytest.mark.parametrize("expected", [type(reply) for reply in REPLIES])
def test_a_refusal_comes_through_whatever_was_expected(expected: type[protocol.Reply]) -> None:
    refusal = protocol.Refusal(refused='No: "none" is\nfree.')
    assert protocol.decode_reply(protocol.encode_reply(refusal), expected) == refusal


@pytest.mark.parametrize(
    ("line", "field"),
    [
        (request(version=1, verb="ping"), "version"),
        (request(version="2", verb="ping"), "version"),
        (request(verb="shutdown"), "request.verb"),
        (request(token=TOKEN), "verb"),
        (request(verb="ping", privileged=True), "request.ping.privileged"),
        (lend(image="evil"), "lend.image"),
        (request(verb="lend", attempt="a", token=TOKEN, profile="default", trust_key="k"), "request.lend.wait"),
        (lend(wait=1e9), "request.lend.wait"),
        (lend(wait=-1), "request.lend.wait"),
        (lend(attempt="../a"), "request.lend.attempt"),
        (lend(attempt="a\n"), "request.lend.attempt"),
        (lend(profile="a b"), "request.lend.profile"),
        (lend(trust_key=""), "request.lend.trust_key"),
        (lend(trust_key="k" * 1001), "request.lend.trust_key"),
        (lend(patience=8 * 24 * 3600), "request.lend.patience"),
        (lend(token="a token with spaces in it"), "request.lend.token"),
        (request(verb="return", token=TOKEN), "request.return.used"),
        (request(verb="renew", token="short"), "request.renew.token"),
        (b'{"version": 2}\n', "request"),
        (b'{"version": 2, "request": {"verb": "ping"}, "more": 1}\n', "more"),
        (b'{"version": 2, "version": 1, "request": {"verb": "ping"}}\n', "version"),
        (request(verb="ping") + request(verb="ping"), "the message"),
        (b"\n", "the message"),
        (b"[" * 500_000 + b"\n", "the message"),
    ],
)
def test_a_wrong_request_is_refused_with_the_fields_name(line: bytes, field: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.decode_request(line)
    assert field in str(caught.value)


@given(st.binary(max_size=300))
def test_garbage_is_a_protocol_error_to_the_keeper(line: bytes) -> None:
    assume(line.strip() != ping.REQUEST.strip())  # hypothesis tries what it finds in our code, such as a whole request
    with pytest.raises(ProtocolError):
        protocol.decode_request(line)


@given(st.binary(max_size=300), st.sampled_from([type(reply) for reply in REPLIES if reply != protocol.Done()]))
def test_garbage_is_a_protocol_error_to_the_client(line: bytes, expected: type[protocol.Reply]) -> None:
    with pytest.raises(ProtocolError, match="same release"):
        protocol.decode_reply(line, expected)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {"verb": st.sampled_from(["lend", "renew", "kill", "return", "condemn", "list", "ping"]) | json_values},
        optional=dict.fromkeys(("attempt", "profile", "trust_key", "wait", "token", "used", "reason"), json_values),
    )
)
def test_almost_right_requests_are_read_or_refused(body: dict[str, object]) -> None:
    try:
        message = protocol.decode_request(request(**body))
    except ProtocolError:
        return
    assert protocol.decode_request(protocol.encode_request(message)) == message


SECRET = "s3cr3t" * 20


@pytest.mark.parametrize(
    "line",
    [
        request(verb="renew", token=SECRET),  # too long
        request(verb="return", token=SECRET[:32], used="perhaps"),
        request(verb=SECRET),
        request(version=SECRET, verb="ping"),
        request(verb="renew", token={"token": SECRET}),
        f'{{"version": 2, "request": {{"verb": "renew", "token": "{SECRET}'.encode(),
    ],
)
def test_no_value_of_a_request_is_repeated(line: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.decode_request(line)
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_no_value_of_a_reply_is_repeated() -> None:
    line = protocol.encode_reply(GRANT).replace(b'"term":30.0', b'"term":"long"')
    with pytest.raises(ProtocolError) as caught:
        protocol.decode_reply(line, protocol.LeaseGrant)
    assert "term" in str(caught.value)
    assert TOKEN not in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_huge_field_name_does_not_make_a_huge_refusal() -> None:
    with pytest.raises(ProtocolError) as caught:
        protocol.decode_request(request(verb="ping", **{"x" * 500_000: 1}))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "message", [*[m for m in REQUESTS if hasattr(m, "token")], GRANT], ids=lambda message: type(message).__name__
)
def test_secrets_are_not_in_a_repr(message: protocol.Message | protocol.LeaseGrant) -> None:
    assert TOKEN not in repr(message)
    assert TOKEN not in str(message)
    assert "secret" not in repr(message)


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[31mred", "null\0"])
def test_control_characters_never_reach_a_log_or_a_terminal(text: str) -> None:
    line = json.dumps({"version": 2, "request": {"verb": "condemn", "token": TOKEN, "reason": text}}).encode()
    with pytest.raises(ProtocolError, match=r"reason: .* printable"):
        protocol.decode_request(line)
