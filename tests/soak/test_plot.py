"""The picture shows what was measured: in SVG and in braille."""

from __future__ import annotations

from xml.etree import ElementTree

from tests.soak.plot import COLUMNS, ROWS, Panel, Picture, svg, text

RISING = [(float(second), float(second)) for second in range(101)]


def picture() -> Picture:
    panels = [Panel("memory <MiB>", {"PSS & RSS": RISING}), Panel("clients", {"clients": [(0.0, 3.0), (100.0, 3.0)]})]
    return Picture(title="a soak", duration_s=100.0, panels=panels, faults=[(50.0, "postgres_killed")], shaded_s=20.0)


def test_svg_is_well_formed_and_names_every_curve_and_fault() -> None:
    root = ElementTree.fromstring(svg(picture()))
    words = " ".join(root.itertext())

    for word in ("a soak", "memory <MiB>", "PSS & RSS", "clients", "postgres_killed", "1 faults"):
        assert word in words


def test_svg_draws_a_rising_curve_from_the_lower_left_to_the_upper_right() -> None:
    root = ElementTree.fromstring(svg(picture()))
    line = next(each for each in root.iter() if each.tag.endswith("polyline"))
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]

    assert points == sorted(points), "time goes to the right"
    assert [y for _, y in points] == sorted((y for _, y in points), reverse=True), "and SVG counts from the top"


def test_braille_rises_as_the_curve_does() -> None:
    lines = text(picture()).splitlines()
    start = lines.index("memory <MiB>, PSS & RSS: 0 to 100") + 1
    block = [line[2:].ljust(COLUMNS, "\u2800") for line in lines[start : start + ROWS]]

    assert block[0][-1] != "\u2800"
    assert block[0][0] == "\u2800"
    assert block[-1][0] != "\u2800"
    assert block[-1][-1] == "\u2800"


def test_seldom_values_are_joined_by_a_line() -> None:
    lines = text(picture()).splitlines()
    start = lines.index("clients, clients: 0 to 3") + 1

    assert len(lines[start].strip()) == COLUMNS


def test_ticks_stand_where_faults_were() -> None:
    ticks = text(picture()).splitlines()[-2].strip()

    assert ticks.index("|") == COLUMNS // 2
    assert ticks.count("|") == 1


def test_a_flat_curve_and_an_empty_one_can_be_drawn() -> None:
    panels = [Panel("flat", {"flat": [(0.0, 0.0)]}, starts_at_zero=False), Panel("none", {"none": []})]
    empty = Picture(title="empty", duration_s=0.0, panels=panels)

    ElementTree.fromstring(svg(empty))
    assert "flat, flat: 0 to 1e-09" in text(empty)
