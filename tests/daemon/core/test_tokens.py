"""A token passes behind its whole transaction; one that may have been forgotten is lost rather than waited for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch_daemon.core.loopback import BarrierWait, Full, LoopbackLimits
from pgcachewatch_daemon.core.tokens import DOUBT_MS, Awaited, Lost, Passed, Tokens

LONG_UP_MS = DOUBT_MS + 1.0


def token(number: int) -> str:
    return f"{number:032x}"


def listening(*, kept: int = 10, limits: LoopbackLimits | None = None) -> Tokens:
    tokens = Tokens(limits or LoopbackLimits(), kept=kept)
    tokens.source_up()
    return tokens


def who(waits: Sequence[BarrierWait]) -> list[tuple[object, int]]:
    return [(wait.subscriber, wait.id) for wait in waits]


@pytest.mark.rule("W-BARRIER-2")
def test_a_token_passes_once_nothing_of_its_transaction_can_follow() -> None:
    tokens = listening()
    tokens.arrived(token(1), now_ms=1.0)
    assert tokens.request("a", 7, token(1), now_ms=2.0) == Awaited(needs_proof=True)
    assert who(tokens.settled()) == [("a", 7)]
    assert tokens.request("b", 8, token(1), now_ms=3.0) == Passed()


@pytest.mark.rule("W-BARRIER-2")
def test_whoever_asks_before_the_commit_waits_for_it_however_long_it_takes() -> None:
    tokens = listening()
    assert tokens.request("a", 7, token(1), now_ms=0.0) == Awaited(needs_proof=False)
    assert tokens.request("b", 7, token(1), now_ms=0.0) == Awaited(needs_proof=False)
    assert tokens.proven(LONG_UP_MS + 1e6) == []
    assert tokens.arrived(token(1), now_ms=LONG_UP_MS + 2e6)
    assert who(tokens.settled()) == [("a", 7), ("b", 7)]
    assert not tokens.arrived(token(2), now_ms=LONG_UP_MS + 2e6)


@pytest.mark.rule("W-BARRIER-2")
def test_a_token_that_may_be_older_than_the_memory_is_lost_at_the_next_proof() -> None:
    tokens = listening(kept=1)
    for number in (8, 9):
        tokens.arrived(token(number), now_ms=9.0)
        tokens.settled()
    assert tokens.request("a", 1, token(1), now_ms=10.0) == Awaited(needs_proof=True)
    assert tokens.request("a", 2, token(2), now_ms=20.0) == Awaited(needs_proof=True)
    assert who(tokens.proven(15.0)) == [("a", 1)]
    tokens.arrived(token(2), now_ms=21.0)
    assert who(tokens.settled()) == [("a", 2)]
    assert tokens.proven(30.0) == []
    assert (tokens.stats.passed, tokens.stats.lost) == (1, 1)


@pytest.mark.rule("W-BARRIER-2")
def test_a_forgotten_token_is_lost_and_not_waited_for() -> None:
    tokens = listening(kept=2)
    for number in (1, 2, 3):
        tokens.arrived(token(number), now_ms=LONG_UP_MS + number)
        tokens.settled()
    assert tokens.request("a", 3, token(3), now_ms=LONG_UP_MS + 4) == Passed()
    assert tokens.request("a", 1, token(1), now_ms=LONG_UP_MS + 4) == Awaited(needs_proof=True)
    assert who(tokens.proven(LONG_UP_MS + 5)) == [("a", 1)]


@pytest.mark.rule("W-BARRIER-2")
def test_a_lost_source_loses_the_tokens_and_whoever_waits() -> None:
    tokens = listening()
    tokens.arrived(token(1), now_ms=1.0)
    tokens.settled()
    tokens.arrived(token(2), now_ms=2.0)
    tokens.request("a", 7, token(3), now_ms=3.0)
    assert who(tokens.source_lost()) == [("a", 7)]
    assert tokens.request("a", 8, token(1), now_ms=4.0) == Lost()
    tokens.source_up()
    assert tokens.settled() == []
    assert tokens.request("a", 9, token(1), now_ms=6.0) == Awaited(needs_proof=False)


def test_more_tokens_of_one_transaction_than_are_kept_are_not_kept_and_put_in_doubt() -> None:
    tokens = listening(kept=2)
    tokens.request("a", 9, token(9), now_ms=LONG_UP_MS)
    for number in range(1, 10):
        tokens.arrived(token(number), now_ms=LONG_UP_MS)
    assert who(tokens.settled()) == [("a", 9)]
    assert tokens.request("a", 1, token(5), now_ms=LONG_UP_MS) == Awaited(needs_proof=True)


steps = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 3)),
    st.tuples(st.just("arrive"), st.integers(0, 3)),
    st.tuples(st.sampled_from(["settle", "prove", "lose", "wait", "drop"]), st.just(0)),
)


@given(st.lists(steps, max_size=40))
def test_each_barrier_is_answered_once_and_none_is_forgotten(history: list[tuple[str, int]]) -> None:
    """Whatever happens in whatever order; what still waits at the end is lost with the source."""
    tokens = listening(kept=2)
    now_ms, asked, answered, dropped = 0.0, 0, list[int](), set[int]()
    for what, number in history:
        now_ms += 1.0
        match what:
            case "ask":
                asked += 1
                if not isinstance(tokens.request(asked % 2, asked, token(number), now_ms=now_ms), Awaited):
                    answered.append(asked)
            case "arrive":
                tokens.arrived(token(number), now_ms=now_ms)
            case "settle":
                answered += [wait.id for wait in tokens.settled()]
            case "prove":
                answered += [wait.id for wait in tokens.proven(now_ms)]
            case "lose":
                answered += [wait.id for wait in tokens.source_lost()]
                tokens.source_up()
            case "wait":
                now_ms += DOUBT_MS
            case _:
                dropped |= {identity for identity in range(1, asked + 1) if identity % 2 and identity not in answered}
                tokens.drop(1)
    answered += [wait.id for wait in tokens.source_lost()]
    assert sorted(answered) == sorted(set(range(1, asked + 1)) - dropped)
    assert tokens._count == 0
    assert not tokens._per_subscriber


@pytest.mark.parametrize("text", ["", "x" * 32, "0" * 31, "0" * 33, "A" * 32, "0" * 32 + "\n"])
def test_what_is_no_token_is_counted_and_not_kept(text: str) -> None:
    tokens = listening()
    assert not tokens.arrived(text, now_ms=1.0)
    assert tokens.settled() == []
    assert (tokens.stats.arrived, tokens.stats.ignored) == (0, 1)


def test_waiting_is_bounded_in_all_and_for_one_connection_and_ends_with_it() -> None:
    tokens = listening(limits=LoopbackLimits(barriers=3, barriers_per_subscriber=2))
    for identity in (1, 2):
        tokens.request("a", identity, token(identity), now_ms=1.0)
    assert tokens.request("a", 3, token(1), now_ms=1.0) == Full(2)
    tokens.request("b", 1, token(1), now_ms=1.0)
    assert tokens.request("c", 1, token(1), now_ms=1.0) == Full(2)
    tokens.drop("a")
    tokens.drop("nobody")
    tokens.arrived(token(1), now_ms=2.0)
    assert who(tokens.settled()) == [("b", 1)]
    for identity in (4, 5):
        assert isinstance(tokens.request("c", identity, token(2), now_ms=3.0), Awaited)
    assert tokens.stats.refused == 2


@pytest.mark.rule("W-BARRIER-2")
def test_one_that_goes_on_from_another_s_memory_answers_as_that_one_would() -> None:
    first = listening()
    first.arrived(token(1), now_ms=1.0)
    first.settled()
    first.arrived(token(2), now_ms=2.0)
    second = Tokens(LoopbackLimits())
    second.remember(first.memory())
    assert second.request("a", 1, token(1), now_ms=3.0) == Passed()
    assert second.request("a", 2, token(2), now_ms=3.0) == Awaited(needs_proof=True)
    assert second.request("a", 3, token(3), now_ms=3.0) == Awaited(needs_proof=False)
    assert who(second.settled()) == [("a", 2)]


def test_a_memory_is_a_copy() -> None:
    first = listening()
    memory = first.memory()
    first.arrived(token(1), now_ms=1.0)
    assert not memory.arriving
    second = Tokens(LoopbackLimits())
    second.remember(memory)
    second.arrived(token(2), now_ms=1.0)
    assert not memory.arriving


def test_one_that_goes_on_while_the_source_is_lost_has_lost_them_too() -> None:
    first = listening()
    first.source_lost()
    second = Tokens(LoopbackLimits())
    second.remember(first.memory())
    assert second.request("a", 1, token(1), now_ms=1.0) == Lost()
