"""From what is shown to what may be seen; what strangers can make it cost; and files that change while it runs."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.authentication import AccessOptions, Authentication, is_loopback, prove
from pgcachewatch_daemon.core.access import ANYBODY, USES, Grant
from pgcachewatch_daemon.core.credentials import Denied, digest, entry
from pgcachewatch_daemon.io.jwt import Rules, read_keys
from tests.daemon.io.jwt.signing import CLAIM, SECRET, jwk, jwks, public_pem, token
from tests.waiting import eventually

PEER = "10.0.0.7"
JWT = AccessOptions(jwt_secret=SECRET)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.wall_s = time.time()
        self.changes = 0

    def changed(self) -> None:
        self.changes += 1


def authentication(options: AccessOptions, clock: Clock | None = None) -> Authentication:
    clock = clock or Clock()
    return Authentication(options, now_s=lambda: clock.now_s, wall_s=lambda: clock.wall_s, changed=clock.changed)


def static(path: Path, *names: str, **lines: str) -> AccessOptions:
    path.write_text("".join(entry(name, digest(name), lines) for name in names))
    return AccessOptions(tokens_file=str(path))


def reason(answer: Grant | Denied) -> str:
    return answer.reason if isinstance(answer, Denied) else "granted"


def test_without_authentication_everybody_may_see_everything_and_tokens_are_not_looked_at() -> None:
    one = authentication(AccessOptions())

    assert one.check(None, peer=PEER) is one.check("any", peer=PEER) is ANYBODY
    assert not one.is_needed


def test_a_certificate_is_a_subject_who_may_see_everything() -> None:
    one = authentication(AccessOptions(needs_certificate=True))

    assert one.check(None, peer=PEER, certificate="app.internal") == Grant("app.internal", modes=USES)


def test_where_a_token_is_needed_a_certificate_is_none(tmp_path: Path) -> None:
    one = authentication(static(tmp_path / "t", "shop"))

    assert reason(one.check(None, peer=PEER, certificate="app.internal")) == "missing"
    assert one.is_needed


def test_a_static_token_is_granted_until_it_ends(tmp_path: Path) -> None:
    clock = Clock()
    one = authentication(static(tmp_path / "t", "shop", expires="2100-01-01T00:00:00Z", tables='["orders"]'), clock)

    granted = one.check("shop", peer=PEER)
    assert isinstance(granted, Grant)
    assert (granted.subject, granted.tables) == ("shop", ("orders",))
    assert [reason(one.check(text, peer=PEER)) for text in (None, "", "else", "a.b.c", "sh\x00op")] == [
        "missing", "unknown", "unknown", "unknown", "unknown",
    ]  # fmt: skip
    clock.wall_s = granted.expires_at or 0.0
    assert reason(one.check("shop", peer=PEER)) == reason(one.again(granted)) == "expired"
    assert one.results == {"accepted": 1, "missing": 1, "unknown": 4, "expired": 1}


def test_a_signed_token_is_granted_until_it_ends_and_the_clocks_may_differ() -> None:
    clock = Clock()
    one = authentication(replace(JWT, rules=Rules(leeway_s=5.0)), clock)
    end = int(clock.wall_s) + 60
    granted = one.check(token(exp=end, sub="7", **CLAIM), peer=PEER)

    assert granted == Grant("7", tables=("orders",), expires_at=end + 5.0)
    clock.wall_s = end + 4.9
    assert isinstance(granted, Grant)
    assert reason(one.again(granted)) == "granted"
    clock.wall_s = end + 5.0
    assert reason(one.check(token(exp=end, sub="7", **CLAIM), peer=PEER)) == reason(one.again(granted)) == "expired"


def test_a_signed_token_without_our_claim_grants_nothing() -> None:
    assert reason(authentication(JWT).check(token(sub="7"), peer=PEER)) == "forbidden"


def test_a_token_that_was_verified_costs_no_second_check() -> None:
    one = authentication(JWT)
    first = one.check(token(sub="7", exp=2_000_000_000, **CLAIM), peer=PEER)

    assert one.check(token(sub="7", exp=2_000_000_000, **CLAIM), peer=PEER) is first


def test_an_address_that_fails_often_is_told_to_wait_and_no_other() -> None:
    clock = Clock()
    one = authentication(JWT, clock)
    known = token(sub="known", **CLAIM)
    one.check(known, peer=PEER)
    bad = token(sub="x", exp=1)
    answers = [reason(one.check(bad, peer=PEER)) for _ in range(30)]

    assert answers == ["expired"] * 20 + ["busy"] * 10
    assert reason(one.check(token(sub="new", **CLAIM), peer=PEER)) == "busy"
    assert reason(one.check(known, peer=PEER)) == "granted", "it was verified before"
    assert reason(one.check(token(sub="new", **CLAIM), peer="10.0.0.8")) == "granted"
    clock.now_s += 2.0
    assert reason(one.check(token(sub="new", **CLAIM), peer=PEER)) == "granted"


def test_all_checks_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgcachewatch_daemon.authentication.CHECKS_AT_ONCE", 10)
    one = authentication(JWT)
    answers = [reason(one.check(token(sub="x", exp=1), peer=str(number))) for number in range(15)]

    assert answers == ["expired"] * 10 + ["busy"] * 5


def test_what_is_remembered_of_tokens_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgcachewatch_daemon.authentication.VERIFIED_LIMIT", 3)
    one = authentication(JWT)
    first = token(sub="0", **CLAIM)
    granted = one.check(first, peer=PEER)
    for number in range(1, 4):
        one.check(token(sub=str(number), **CLAIM), peer=PEER)

    assert one.check(first, peer=PEER) == granted
    assert one.check(first, peer=PEER) is not granted


async def test_a_key_that_is_not_known_may_be_new_while_keys_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [jwks(jwk("ES256", 0, kid="0")), jwks(jwk("ES256", 1, kid="1"))]
    monkeypatch.setattr("pgcachewatch_daemon.io.jwt.remote._get", lambda url: read_keys(answers.pop(0)))
    clock = Clock()
    one = authentication(AccessOptions(jwks_url="https://id.example/jwks"), clock)
    old, new = token("ES256", 0, kid="0", **CLAIM), token("ES256", 1, kid="1", **CLAIM)

    assert reason(one.check(old, peer=PEER)) == "busy", "there are no keys yet, and a fetch was begun"
    await eventually(lambda: reason(one.check(old, peer=PEER)) == "granted")
    assert reason(one.check(new, peer=PEER)) == "unknown", "they were fetched a moment ago"
    clock.now_s += 10.0
    assert reason(one.check(new, peer=PEER)) == "busy"
    await eventually(lambda: reason(one.check(new, peer=PEER)) == "granted")
    assert reason(one.check(old, peer=PEER)) == "unknown", "its key is gone, and what was verified with it"
    await one.close()


async def test_a_token_that_is_taken_out_of_the_file_is_revoked(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock, path = Clock(), tmp_path / "t"
    one = authentication(static(path, "a", "b"), clock)
    granted = one.check("b", peer=PEER)
    assert isinstance(granted, Grant)
    one.tick()
    assert clock.changes == 0
    static(path, "a")
    one.tick()
    await eventually(lambda: clock.changes == 1)

    assert one.again(granted) == Denied("revoked", "this token was revoked")
    assert reason(one.check("b", peer=PEER)) == "unknown"
    assert reason(one.check("a", peer=PEER)) == "granted"


async def test_a_signed_token_is_revoked_by_the_file_also_when_it_was_verified_before(tmp_path: Path) -> None:
    clock, path = Clock(), tmp_path / "t"
    one = authentication(replace(static(path, "a"), jwt_secret=SECRET), clock)
    tokens = [token(sub=sub, jti=jti, **CLAIM) for sub, jti in (("7", "1"), ("7", "2"), ("8", "3"))]
    grants = [one.check(each, peer=PEER) for each in tokens]
    for content, left in (('[revoked]\njti = ["1"]\n', 2), ('[revoked]\nsubjects = ["7"]\n', 1), ("", 3)):
        changes = clock.changes
        path.write_text(content)
        one.tick()
        await eventually(lambda changes=changes: clock.changes > changes)  # type: ignore[misc]  # a lambda's default

        expected = ["revoked"] * (3 - left) + ["granted"] * left
        assert [reason(one.check(each, peer=PEER)) for each in tokens] == expected
        assert [reason(one.again(each)) for each in grants if isinstance(each, Grant)] == expected
    newcomer = authentication(replace(static(path, "a"), jwt_secret=SECRET))
    path.write_text('[revoked]\njti = ["1"]\n')
    newcomer.prepare(newcomer.options)()
    assert newcomer.check(tokens[0], peer=PEER) == Denied("revoked", "this token was revoked")
    await one.close()


def test_who_came_by_a_key_goes_with_it() -> None:
    one = authentication(JWT)
    granted = one.check(token(**CLAIM), peer=PEER)
    assert isinstance(granted, Grant)
    one.prepare(replace(JWT, rules=Rules(leeway_s=1.0)))()
    assert one.again(granted) is granted
    one.prepare(AccessOptions(jwt_secret=SECRET[::-1]))()
    answer = one.again(granted)

    assert isinstance(answer, Denied)
    assert (answer.reason, "get a new token" in answer.text) == ("revoked", True)
    assert SECRET not in repr(granted)


async def test_keys_that_are_not_fetched_yet_send_nobody_away(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [jwks(jwk("ES256", 0)), jwks(jwk("ES256", 0)), jwks(jwk("ES256", 1))]
    monkeypatch.setattr("pgcachewatch_daemon.io.jwt.remote._get", lambda url: read_keys(answers.pop(0)))
    clock = Clock()
    one = authentication(AccessOptions(jwks_url="https://id.example/jwks"), clock)
    one.tick()
    await eventually(lambda: clock.changes == 1)
    granted = one.check(token("ES256", 0, **CLAIM), peer=PEER)
    assert isinstance(granted, Grant)
    one.prepare(AccessOptions(jwks_url="https://other.example/jwks"))()

    assert one.again(granted) is granted, "nobody knows yet"
    one.tick()
    await eventually(lambda: clock.changes == 3)
    assert one.again(granted) is granted, "the same key"
    clock.now_s += 1_000.0
    one.tick()
    await eventually(lambda: clock.changes == 4)
    assert reason(one.again(granted)) == "revoked"
    await one.close()


@pytest.mark.parametrize("content", ["[a", "[a]\ntable = 1", None])
async def test_what_was_read_once_stays_when_the_file_becomes_unreadable(
    tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    clock, path = Clock(), tmp_path / "t"
    one = authentication(static(path, "a"), clock)
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    one.tick()
    await eventually(lambda: any(record.levelname == "ERROR" for record in caplog.records))
    for _ in range(3):
        one.tick()
        await asyncio.sleep(0)

    assert reason(one.check("a", peer=PEER)) == "granted"
    assert clock.changes == 0
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
    static(path, "c")
    one.tick()
    await eventually(lambda: reason(one.check("c", peer=PEER)) == "granted")
    await one.close()


def test_other_options_count_from_the_moment_they_are_taken_over(tmp_path: Path) -> None:
    clock = Clock()
    one = authentication(static(tmp_path / "t", "a"), clock)
    granted = one.check("a", peer=PEER)
    assert isinstance(granted, Grant)
    take_over = one.prepare(static(tmp_path / "u", "b"))

    assert reason(one.check("a", peer=PEER)) == "granted"
    take_over()
    assert (reason(one.check("a", peer=PEER)), reason(one.check("b", peer=PEER))) == ("unknown", "granted")
    assert reason(one.again(granted)) == "revoked"
    assert clock.changes == 1
    with pytest.raises(ConfigurationError, match="tokens_file"):
        one.prepare(AccessOptions(tokens_file=str(tmp_path / "nowhere")))


def test_whoever_came_without_a_token_has_to_go_when_one_is_needed(tmp_path: Path) -> None:
    one = authentication(AccessOptions())
    one.prepare(static(tmp_path / "t", "a"))()

    assert one.again(ANYBODY) == Denied("revoked", "this relay needs a token now")


@pytest.mark.parametrize(
    ("options", "host", "part"),
    [
        (AccessOptions(), "0.0.0.0", "allow_anonymous=true"),
        (AccessOptions(), "::", "tokens_file or a jwt_ option"),
        (AccessOptions(), "", "host=127.0.0.1"),
        (AccessOptions(), "192.0.2.7", "192.0.2.7"),
        (AccessOptions(allow_anonymous=True, jwt_secret=SECRET), "127.0.0.1", "useless"),
        (AccessOptions(jwt_secret="short"), "127.0.0.1", "32"),
        (AccessOptions(jwt_secret=SECRET, rules=Rules(algorithms=("none",))), "127.0.0.1", "jwt_algorithms has none"),
        (AccessOptions(jwt_secret=SECRET, rules=Rules(algorithms=())), "127.0.0.1", "jwt_algorithms has nothing"),
        (AccessOptions(jwks_url="http://id.example/"), "127.0.0.1", "https"),
        (AccessOptions(tokens_file="/nowhere/tokens"), "127.0.0.1", "tokens_file '/nowhere/tokens'"),
        (AccessOptions(jwt_keys_file="/nowhere/keys"), "127.0.0.1", "jwt_keys_file '/nowhere/keys'"),
    ],
)
def test_options_that_can_not_work_are_refused_in_one_sentence(options: AccessOptions, host: str, part: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        prove(options, host)

    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert options.jwt_secret == "" or options.jwt_secret not in str(caught.value)


def test_an_address_that_others_reach_is_fine_with_authentication_or_by_the_operators_word(tmp_path: Path) -> None:
    keys = tmp_path / "keys.pem"
    keys.write_text(public_pem("ES256"))
    for options in (
        AccessOptions(allow_anonymous=True),
        AccessOptions(needs_certificate=True),
        AccessOptions(jwt_keys_file=str(keys)),
        AccessOptions(jwks_url="https://id.example/jwks"),
        static(tmp_path / "t", "a"),
        JWT,
    ):
        prove(options, "0.0.0.0")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1"])
def test_an_address_of_this_machine_alone_needs_no_authentication(host: str) -> None:
    assert is_loopback(host)
    prove(AccessOptions(), host)


def test_options_do_not_show_their_secrets() -> None:
    options = AccessOptions(jwt_secret=SECRET, jwks_url="https://user:word@id.example/")

    assert SECRET not in repr(options)
    assert "word" not in repr(options)
