"""The lease: never longer than what was proven, whatever the relay says and however its clock runs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch.core.freshness import DRIFT_ALLOWANCE, Freshness
from pgcachewatch.core.trust import NEVER
from pgcachewatch.protocol.transitions import Trust


def test_nothing_is_served_before_the_first_proof() -> None:
    freshness = Freshness(staleness_s=2.0)
    freshness.sample(local_s=10.0, relay_ms=500.0)
    assert freshness.deadline_s == NEVER
    assert freshness.trust_at(now_s=10.0) is Trust.COLD


def test_a_proof_without_a_clock_sample_proves_nothing() -> None:
    freshness = Freshness(staleness_s=2.0)
    freshness.prove(as_of_ms=500.0, now_s=10.0)
    assert freshness.deadline_s == NEVER
    assert freshness.trust is Trust.COLD


def test_lease_ends_one_staleness_after_the_instant_that_is_proven() -> None:
    freshness = Freshness(staleness_s=2.0)
    freshness.sample(local_s=10.0, relay_ms=500_000.0)
    freshness.prove(as_of_ms=501_000.0, now_s=11.2)
    assert freshness.deadline_s == pytest.approx(13.0, abs=0.001)
    assert freshness.deadline_s < 13.0  # the drift allowance
    assert freshness.trust is Trust.LIVE


def test_an_older_proof_does_not_shorten_the_lease() -> None:
    freshness = Freshness(staleness_s=2.0)
    freshness.sample(local_s=10.0, relay_ms=500_000.0)
    freshness.prove(as_of_ms=501_000.0, now_s=11.2)
    before = freshness.deadline_s
    freshness.prove(as_of_ms=500_200.0, now_s=11.3)
    assert freshness.deadline_s == before


def test_a_relay_that_proves_the_future_is_believed_up_to_now() -> None:
    freshness = Freshness(staleness_s=2.0)
    freshness.sample(local_s=10.0, relay_ms=500_000.0)
    freshness.prove(as_of_ms=900_000.0, now_s=11.0)
    assert freshness.deadline_s == 13.0


def test_the_better_of_two_samples_is_kept() -> None:
    freshness = Freshness(staleness_s=0.0)
    freshness.sample(local_s=10.0, relay_ms=500_000.0)
    freshness.sample(local_s=10.5, relay_ms=501_000.0)  # a slow round trip: half a second worse
    freshness.prove(as_of_ms=501_000.0, now_s=12.0)
    assert freshness.deadline_s == pytest.approx(11.0, abs=0.001)


def test_samples_of_one_connection_do_not_serve_the_next() -> None:
    freshness = Freshness(staleness_s=2.0)
    freshness.sample(local_s=10.0, relay_ms=500_000.0)
    freshness.prove(as_of_ms=500_000.0, now_s=10.1)
    freshness.begin_connection()
    before = freshness.deadline_s
    freshness.prove(as_of_ms=3.0, now_s=11.0)  # another relay, whose clock began just now
    assert freshness.deadline_s == before


def test_a_doubt_leaves_the_lease_and_ends_live() -> None:
    freshness = Freshness(staleness_s=2.0)
    freshness.sample(local_s=10.0, relay_ms=500_000.0)
    freshness.prove(as_of_ms=500_000.0, now_s=10.0)
    freshness.doubt()
    assert freshness.trust is Trust.SUSPECT
    assert freshness.lease_left_s(now_s=11.0) == pytest.approx(1.0)


def test_silence_past_the_lease_is_a_doubt() -> None:
    freshness = Freshness(staleness_s=2.0)
    freshness.sample(local_s=10.0, relay_ms=500_000.0)
    freshness.prove(as_of_ms=500_000.0, now_s=10.0)
    assert freshness.trust_at(now_s=12.0) is Trust.LIVE
    assert freshness.trust_at(now_s=12.001) is Trust.SUSPECT


@given(
    offset_s=st.floats(-1e6, 1e6),
    rate=st.floats(1 - DRIFT_ALLOWANCE * 0.9, 1 + DRIFT_ALLOWANCE * 0.9),
    samples=st.lists(st.tuples(st.floats(0, 600), st.floats(0, 5)), min_size=1, max_size=5),
    proofs=st.lists(st.tuples(st.floats(0, 600), st.floats(0, 30)), min_size=1, max_size=10),
)
def test_the_lease_never_reaches_past_what_was_proven(
    offset_s: float, rate: float, samples: list[tuple[float, float]], proofs: list[tuple[float, float]]
) -> None:
    # The relay's clock shows offset + rate * t at our instant t: another origin, another speed.
    def relay_ms(at_s: float) -> float:
        return (2e6 + offset_s + rate * at_s) * 1000

    staleness_s = 2.0
    freshness = Freshness(staleness_s=staleness_s)
    for asked_s, delay_s in samples:
        freshness.sample(local_s=asked_s, relay_ms=relay_ms(asked_s + delay_s))
    newest_s = NEVER
    for proven_s, delay_s in proofs:
        freshness.prove(as_of_ms=relay_ms(proven_s), now_s=proven_s + delay_s)
        newest_s = max(newest_s, proven_s)
        assert freshness.deadline_s <= newest_s + staleness_s + 1e-6
