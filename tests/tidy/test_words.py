"""Words that do not belong in the repository: paths of one machine, addresses of registries, secrets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tidy.tree import ROOT, files, name

# Written in pieces, so that this file does not contain what it looks for.
FORBIDDEN = {
    "a path of one machine": re.compile(r"(?<![\w.])/(?:work|root|Users|home/\w+)/" r"\w"),
    "the address of a registry": re.compile(
        r"https?://\S*/(?:simple|packages)/"
        "|"
        r"pypi\.(?:org|python)"
        "|"
        r"python"
        r"hosted\.org"
        "|"
        r"registry\.npm"
    ),
    "a private key": re.compile(r"BEGIN (?:RSA |EC |OPENSSH )?PRIVATE" " KEY"),
    "a leftover of a merge": re.compile(r"^(?:<{7}|>{7}) ", re.MULTILINE),
}
FORBIDDEN_FILES = {"uv.lock", "pylock.toml"}


def test_no_file_holds_words_that_do_not_belong_here() -> None:
    found = [f"{name(path)}: {problem}" for path in files() for problem in problems(path)]

    assert found == []


def problems(path: Path) -> Iterator[str]:
    content = path.read_bytes()
    text = "" if b"\0" in content else content.decode()
    for what, pattern in FORBIDDEN.items():
        for match in pattern.finditer(text):
            yield f"{what}, {match[0]!r}, in line {text.count(chr(10), 0, match.start()) + 1}"


@pytest.mark.parametrize(
    "text",
    [
        "see /" + "work/main/x",
        "cd /" + "root/x",
        "open /" + "home/anna/x",
        "https" + "://host/simple/websockets/",
        "files.python" + "hosted.org",
    ],
)
def test_patterns_find_what_they_are_for(text: str) -> None:
    assert any(pattern.search(text) for pattern in FORBIDDEN.values())


def test_lock_files_that_record_addresses_are_ignored_by_git() -> None:
    ignored = (ROOT / ".gitignore").read_text().split()

    assert set(ignored) >= FORBIDDEN_FILES
