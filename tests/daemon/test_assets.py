"""The page's files come whole, once, and with a policy that lets nothing else in."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from pgcachewatch_daemon.assets import HOME, POLICY, Assets

ASSETS = Assets()
TEXTS = {name: ASSETS.answer(name).body.decode() for name in sorted(ASSETS.names)}


def test_each_file_of_the_folder_is_served() -> None:
    folder = resources.files("pgcachewatch_daemon") / "page"
    assert {file.name for file in folder.iterdir()} == ASSETS.names
    assert {"index.html", "page.css", "page.js"} <= ASSETS.names


@pytest.mark.parametrize("name", TEXTS)
def test_a_browser_that_has_the_file_is_not_sent_it_again(name: str) -> None:
    first = ASSETS.answer(name)
    tag = first.headers["ETag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
    for known in (tag, f'"other", {tag}', f"W/{tag}", "*"):
        again = ASSETS.answer(name, known_tags=known)
        assert (again.status, again.body, again.headers["ETag"]) == (304, b"", tag)
        assert again.headers["Content-Length"] == str(len(first.body))
    assert ASSETS.answer(name, known_tags='"other"').status == 200


@pytest.mark.parametrize("name", ["", "..", "../cli.py", "..%2fcli.py", "index.html/", "INDEX.HTML"])
def test_nothing_else_is_a_file(name: str) -> None:
    assert ASSETS.answer(name).status == 404


def test_the_policy_lets_only_this_origin_s_files_run() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.split("; "))
    assert rules["default-src"] == "'none'"
    assert (rules["script-src"], rules["style-src"], rules["connect-src"]) == ("'self'",) * 3
    assert rules["img-src"] == "'self'"
    assert "unsafe" not in POLICY
    assert ASSETS.answer(HOME).headers["Content-Security-Policy"] == POLICY
    assert ASSETS.answer(HOME).headers["X-Content-Type-Options"] == "nosniff"
    assert ASSETS.answer(HOME).headers["Referrer-Policy"] == "no-referrer"


def test_the_page_needs_nothing_that_its_policy_forbids() -> None:
    html = TEXTS[HOME]
    assert not re.search(r"\bstyle=|\bon[a-z]+=|javascript:", html)
    assert re.findall(r"<script[^>]*>", html) == ['<script type="module" src="page/page.js">']
    assert not re.findall(r"https?://", html.replace("http://www.w3.org/2000/svg", ""))


@pytest.mark.parametrize("name", [name for name in TEXTS if name.endswith(".js")])
def test_no_script_makes_markup_out_of_text(name: str) -> None:
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|createContextualFragment"
    assert re.findall(forbidden, TEXTS[name]) == []
    imported = re.findall(r'from "\./([^"]+)"', TEXTS[name])
    assert set(imported) <= ASSETS.names


def brightness(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    parts = (int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted(map(brightness, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_texts_and_controls_are_told_from_their_ground_in_light_and_dark() -> None:
    blocks = re.findall(r":root \{(.*?)\}", TEXTS["page.css"], re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
        grounds = [colours[name] for name in ("ground", "card", "hover", "warn-ground", "bad-ground")]
        for text in ("ink", "soft", "faint", "blue", "good", "warn", "bad"):
            assert min(contrast(colours[text], ground) for ground in grounds) >= 4.5, text  # WCAG 1.4.3, AA
        assert min(contrast(colours["edge"], ground) for ground in grounds) >= 3.0, "1.4.11: borders of fields"
