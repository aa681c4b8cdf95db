"""The slope of memory: right for what grows, and unmoved by what only breathes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.soak.figures import Point, minute_medians, percentile, quarters, slope

MINUTES = 50


def an_hour(growth_per_hour: float, *, noise: float = 0.0, seed: int = 1) -> list[Point]:
    chance = random.Random(seed)
    return [(60.0 * minute, 50.0 + growth_per_hour * minute / 60 + chance.gauss(0, noise)) for minute in range(MINUTES)]


@pytest.mark.parametrize("growth", [-3.0, 0.0, 0.5, 10.0])
def test_slope_of_a_straight_line_is_its_growth_in_an_hour(growth: float) -> None:
    found = slope(an_hour(growth))

    assert found.per_hour == pytest.approx(growth)
    assert found.low_per_hour <= found.per_hour <= found.high_per_hour


def test_growth_is_told_from_noise_of_its_own_size() -> None:
    assert slope(an_hour(6.0, noise=1.0)).low_per_hour > 2.0


@given(st.integers(0, 1_000))
def test_noise_alone_is_no_growth(seed: int) -> None:
    found = slope(an_hour(0.0, noise=0.5, seed=seed))

    assert found.low_per_hour < 1.0
    assert found.high_per_hour > -1.0


def test_a_few_peaks_do_not_move_it() -> None:
    points = an_hour(0.0, noise=0.1)
    for minute in (3, 20, 44, 49):
        points[minute] = (points[minute][0], 500.0)

    assert abs(slope(points).per_hour) < 0.5


def test_one_point_has_no_slope() -> None:
    with pytest.raises(ValueError, match="two points or more, here are 1"):
        slope([(0.0, 1.0)])


def test_medians_of_minutes_leave_out_a_peak_of_a_second() -> None:
    points = [(float(second), 900.0 if second == 30 else 50.0) for second in range(120)]

    assert minute_medians(points) == [(30.0, 50.0), (90.0, 50.0)]


def test_quarters_are_of_the_time_and_not_of_the_points() -> None:
    crowded = [(float(second), 1.0) for second in range(25)] + [(100.0, 9.0)]

    assert quarters(crowded).first == 1.0
    assert quarters(crowded).growth == 8.0


def test_percentile_of_one_value_is_that_value() -> None:
    assert percentile([0.7], 95) == 0.7
    assert percentile([float(number) for number in range(101)], 95) == 95.0
