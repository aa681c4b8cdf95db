"""When to connect again: how long, where, and when never."""

from __future__ import annotations

import itertools

import pytest

from pgcachewatch.core.backoff import RETRY_AFTER_LIMIT_S, Backoff, Ended, Reconnect, Retry, Stop
from pgcachewatch.errors import ConfigurationError, ConnectionFailed, Refused

LOST = ConnectionFailed("lost")


def after(reconnect: Reconnect, *, chance: float = 1.0, **ended: object) -> Retry:
    decision = reconnect.after(Ended(LOST, **ended), chance=chance)  # type: ignore[arg-type]  # options by keyword
    assert isinstance(decision, Retry)
    return decision


def test_first_attempt_after_a_connection_that_worked_is_nearly_immediate() -> None:
    assert after(Reconnect(Backoff(), relays=1), is_proven=True).delay_s <= 0.05


def test_delays_double_up_to_the_cap() -> None:
    reconnect = Reconnect(Backoff(base_s=0.1, cap_s=1.0), relays=1)
    assert [after(reconnect).delay_s for _ in range(6)] == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


def test_jitter_draws_from_the_whole_interval() -> None:
    assert after(Reconnect(Backoff(base_s=0.1), relays=1), chance=0.0).delay_s == 0.0


def test_a_blip_of_500_ms_is_retried_several_times_within_it() -> None:
    reconnect = Reconnect(Backoff(), relays=1)
    delays = [after(reconnect, chance=0.5, is_proven=True).delay_s]
    delays += [after(reconnect, chance=0.5).delay_s for _ in range(4)]
    assert sum(at < 0.5 for at in itertools.accumulate(delays)) >= 4


def test_a_proof_resets_the_delays() -> None:
    reconnect = Reconnect(Backoff(), relays=1)
    for _ in range(8):
        after(reconnect)
    assert after(reconnect, is_proven=True).delay_s <= 0.05


def test_drain_is_followed_at_once_and_elsewhere() -> None:
    decision = after(Reconnect(Backoff(), relays=2), is_proven=True, is_leaving=True, code=4000)
    assert decision.delay_s <= 0.05
    assert decision.relay == 1


def test_bye_hints_are_honoured() -> None:
    reconnect = Reconnect(Backoff(), relays=1)
    decision = after(reconnect, chance=0.5, is_proven=True, is_leaving=True, code=4000, after_s=2.0, jitter_s=1.0)
    assert decision.delay_s == pytest.approx(2.0 + 0.5 + 0.025)


def test_lagged_backs_off_although_the_connection_had_worked() -> None:
    assert after(Reconnect(Backoff(base_s=0.1), relays=1), is_proven=True, code=4103).delay_s == pytest.approx(0.1)


def test_retry_after_is_honoured_up_to_a_limit() -> None:
    assert after(Reconnect(Backoff(), relays=1), code=503, after_s=3.0).delay_s >= 3.0
    assert after(Reconnect(Backoff(), relays=1), code=429, after_s=1e9).delay_s <= RETRY_AFTER_LIMIT_S + 0.1


@pytest.mark.parametrize("code", [401, 403, 4200, 4300, 4308, 4399])
def test_refusals_for_good_stop(code: int) -> None:
    decision = Reconnect(Backoff(), relays=1).after(Ended(LOST, code=code), chance=0.5)
    assert isinstance(decision, Stop)
    assert isinstance(decision.error, Refused)
    assert decision.error.code == code


@pytest.mark.parametrize("code", [None, 1006, 1012, 404, 429, 503, 4000, 4199, 4400, 4999])
def test_everything_else_is_tried_again(code: int | None) -> None:
    assert isinstance(Reconnect(Backoff(), relays=1).after(Ended(LOST, code=code), chance=0.5), Retry)


@pytest.mark.parametrize("code", [401, 4200])
def test_a_token_source_is_asked_again_when_the_token_is_refused(code: int) -> None:
    reconnect = Reconnect(Backoff(), relays=1, has_token_source=True)
    assert isinstance(reconnect.after(Ended(LOST, code=code), chance=0.5), Retry)


def test_a_lost_link_is_tried_where_it_was_and_a_failed_attempt_moves_on() -> None:
    reconnect = Reconnect(Backoff(), relays=3)
    assert after(reconnect, is_proven=True).relay == 0
    assert [after(reconnect).relay for _ in range(4)] == [1, 2, 0, 1]


def test_other_relays_are_tried_without_delay_before_backing_off() -> None:
    reconnect = Reconnect(Backoff(first_s=0.05, base_s=1.0), relays=3)
    assert [after(reconnect).delay_s for _ in range(6)] == pytest.approx([0.05, 0.05, 1.0, 0.05, 0.05, 2.0])


def test_a_relay_that_refused_for_good_is_left_out_until_all_have() -> None:
    reconnect = Reconnect(Backoff(), relays=2)
    assert after(reconnect, code=401).relay == 1
    assert after(reconnect).relay == 1
    assert isinstance(reconnect.after(Ended(LOST, code=403), chance=0.5), Stop)


@pytest.mark.parametrize("settings", [{"base_s": 0.0}, {"first_s": -1.0}, {"base_s": 9.0, "cap_s": 1.0}])
def test_settings_that_can_not_work_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="backoff needs"):
        Backoff(**settings)


def test_a_token_that_ended_is_followed_at_once_by_the_next_one_at_the_same_relay() -> None:
    reconnect = Reconnect(Backoff(), relays=2, has_token_source=True)
    assert after(reconnect, is_proven=True, code=4200) == Retry(0.05, 0)


def test_a_token_that_ends_each_connection_at_once_backs_off() -> None:
    reconnect = Reconnect(Backoff(base_s=0.1), relays=1, has_token_source=True)
    assert [after(reconnect, code=4200).delay_s for _ in range(3)] == pytest.approx([0.1, 0.2, 0.4])


def test_a_token_that_is_not_known_may_be_followed_by_one_that_is() -> None:
    assert after(Reconnect(Backoff(base_s=0.1), relays=1, has_token_source=True), code=4301).delay_s > 0
    assert isinstance(Reconnect(Backoff(), relays=1).after(Ended(LOST, code=4301), chance=0.5), Stop)
