"""Which releases of PostgreSQL are fit to listen to, and what is wrong with the others.

Before the minor releases of February 2026 an error while notifications are read loses one without ending the session,
so that nobody learns of it; and a MERGE inside WITH beside another write to the same table leaves rows out of
transition tables (release notes of 18.2 and its siblings).
"""

from __future__ import annotations

from dataclasses import dataclass

OLDEST_MAJOR = 14
SAFE_MINORS = {14: 21, 15: 16, 16: 12, 17: 8, 18: 2}


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """As the server calls itself: 18.4, and no third number.

    >>> str(ServerVersion.parse("18.4 (Debian 18.4-1)")), ServerVersion.parse("19beta3").minor
    ('18.4', 0)
    """

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> ServerVersion:
        """From `server_version`, whatever a packager put behind it."""
        first = text.partition(" ")[0]
        major, _, minor = first.partition(".")
        return cls(_leading(major), _leading(minor))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"

    @property
    def is_supported(self) -> bool:
        return self.major >= OLDEST_MAJOR

    @property
    def problem(self) -> str:
        """What it may lose, and the release that does not; empty when there is nothing to say."""
        safe = SAFE_MINORS.get(self.major, 0)
        if self.minor >= safe:
            return ""
        return (
            f"upgrade to {self.major}.{safe}: before it an error can lose a notification in silence, and MERGE inside "
            "WITH beside another write to the same table may raise no event"
        )


def _leading(text: str) -> int:
    digits = text[: len(text) - len(text.lstrip("0123456789"))]
    return int(digits or 0)
