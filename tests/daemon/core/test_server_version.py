"""Releases of PostgreSQL, as servers call themselves."""

from __future__ import annotations

import pytest

from pgcachewatch_daemon.core.server_version import SAFE_MINORS, ServerVersion


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("18.4", (18, 4)),
        ("15.18 (Debian 15.18-0+deb12u1)", (15, 18)),
        ("19beta3", (19, 0)),
        ("17devel", (17, 0)),
        ("14.5rc1", (14, 5)),
        ("odd", (0, 0)),
    ],
)
def test_a_version_is_read_whatever_a_packager_added(text: str, version: tuple[int, int]) -> None:
    assert ServerVersion.parse(text) == ServerVersion(*version)


@pytest.mark.parametrize(("major", "minor"), SAFE_MINORS.items())
def test_a_release_before_the_safe_one_is_told_what_to_upgrade_to(major: int, minor: int) -> None:
    assert ServerVersion(major, minor).problem == ""
    assert f"upgrade to {major}.{minor}" in ServerVersion(major, minor - 1).problem


def test_old_majors_are_not_supported_and_new_ones_have_nothing_wrong() -> None:
    assert not ServerVersion(13, 22).is_supported
    assert ServerVersion(14, 21).is_supported
    assert ServerVersion(19, 0).problem == ""
