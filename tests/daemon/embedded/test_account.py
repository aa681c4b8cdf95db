"""As whom the server runs, and where that account can work."""

from __future__ import annotations

import os
import pwd
import tempfile
from pathlib import Path

import pytest

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_daemon.embedded import account as module
from pgcachewatch_daemon.embedded.account import Account, server_account, temporary_parent

NOBODY = Account(name="nobody", uid=65534, gid=65534)


def no_such_entry(_key: object) -> pwd.struct_passwd:
    raise KeyError


def test_ordinary_user_is_not_switched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY.uid)
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: None)

    assert server_account() is None


def test_user_without_passwd_entry_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(pwd, "getpwuid", no_such_entry)

    with pytest.raises(ConfigurationError, match=r"12345.*useradd.*PGCACHEWATCH_DSN"):
        server_account()


def test_root_switches_to_the_first_account_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = {"nobody": pwd.struct_passwd(("nobody", "x", NOBODY.uid, NOBODY.gid, "", "/", "/bin/false"))}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", entries.__getitem__)

    assert server_account() == NOBODY


def test_root_without_any_account_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(pwd, "getpwnam", no_such_entry)

    with pytest.raises(ConfigurationError, match="postgres or nobody"):
        server_account()


def test_temporary_folder_that_the_account_can_not_enter_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(closed))

    assert temporary_parent(NOBODY) != closed
    assert temporary_parent(None) == closed


def test_missing_reachable_folder_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_lets_everybody_pass", lambda _folder: False)

    with pytest.raises(ConfigurationError, match="TMPDIR"):
        temporary_parent(NOBODY)
