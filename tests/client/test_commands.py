"""Which command is meant and whose it is; and what the program does when it is told to end before it runs one."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from pgcachewatch.commands import run
from tests.waiting import LIMIT_S


def test_asyncpg_missing_is_one_line_that_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "asyncpg", None)

    assert run(["uninstall", "--mode", "table"]) == 1

    assert "pgcachewatch[postgres]" in capsys.readouterr().err


def test_without_a_command_all_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0

    out = capsys.readouterr().out
    for name in ("install", "uninstall", "serve", "demo"):
        assert f"  {name} " in out


def announced(monkeypatch: pytest.MonkeyPatch, *found: EntryPoint) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: found)


def told(arguments: list[str]) -> int:
    """Stands for the daemon's command."""
    sys.stdout.write(f"rows {arguments}")
    return 0


THEIRS = EntryPoint("install", f"{__name__}:told", "pgcachewatch.commands")


@pytest.mark.parametrize(
    ("arguments", "is_row_mode"),
    [
        (["users"], True),
        (["users", "--mode", "row"], True),
        (["users", "--mode=row", "--commit"], True),
        (["users", "--mode", "table"], False),
        (["--mode=table", "users"], False),
        (["users", "--trigger-name", "tg"], False),
        (["users", "--function-name=fn"], False),
        (["users", "--trig", "tg"], False),
    ],
)
def test_install_tells_rows_apart_unless_the_original_is_asked_for(
    arguments: list[str], is_row_mode: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(EntryPoint, "load", lambda self: told)
    announced(monkeypatch, THEIRS)

    assert run(["install", *arguments]) == 0

    out = capsys.readouterr().out
    assert out == f"rows {arguments}" if is_row_mode else "FOR EACH STATEMENT EXECUTE FUNCTION" in out


@pytest.mark.parametrize("found", [(), (EntryPoint("install", "no_such_module:x", "pgcachewatch.commands"),)])
def test_without_the_daemon_install_is_the_originals_and_says_so(
    found: tuple[EntryPoint, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    announced(monkeypatch, *found)

    assert run(["install", "users"]) == 0

    out, err = capsys.readouterr()
    assert "FOR EACH STATEMENT EXECUTE FUNCTION" in out
    assert "without the daemon package only table-level triggers" in err
    assert run(["install", "users", "--mode", "row"]) == 1
    assert "pip install 'pgcachewatch[daemon]'" in capsys.readouterr().err


def test_every_command_of_the_daemon_is_listed_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0

    out = capsys.readouterr().out
    for line in ("watch tables: put triggers on each that tell which rows changed", "every table: watched or not"):
        assert line in out
    assert "  doctor " in out


def test_a_command_nobody_has_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["brew"]) == 2
    assert "'brew'" in capsys.readouterr().err


def test_without_the_daemon_its_commands_say_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: ())

    assert run(["serve"]) == 1

    err = capsys.readouterr().err
    assert "pip install 'pgcachewatch[daemon]'" in err
    assert err.count("\n") == 1


def test_a_command_that_can_not_be_loaded_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = EntryPoint("serve", "pgcachewatch_no_such_module:serve", "pgcachewatch.commands")
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: (broken,))

    assert run(["serve"]) == 1
    assert "pip install 'pgcachewatch[daemon]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["status", "example.com:8420"], "is no address of a relay"),
        (["status", "--json", "ws://x:port"], "is no address of a relay"),
        (["tail", "http://"], "is no address of a relay"),
    ],
)
def test_what_names_a_relay_goes_to_the_client(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("pgcachewatch")
    before = logger.level

    assert run(arguments) == 2
    assert said in capsys.readouterr().err
    assert logger.level == before, "who calls it from a program keeps the log"


def test_status_of_a_database_goes_to_the_daemon(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(["status", "--help"])
    assert "--pg-dsn" in capsys.readouterr().out


def test_the_list_of_commands_has_those_for_relays(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    assert {"tail", "status URL", "status"} <= {line[2:14].strip() for line in capsys.readouterr().out.splitlines()}


# Stands for whatever takes time to import, and takes it until the process is ended.
SLOW_MODULE = """\
import sys, time
sys.stdout.write("importing\\n")
sys.stdout.flush()
time.sleep(120)
"""
FIRST_PROCESS = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]


@contextmanager
def importing(folder: Path, *arguments: str, prefix: Sequence[str] = ()) -> Iterator[subprocess.Popen[str]]:
    """The program in the middle of its imports."""
    (folder / "asyncio.py").write_text(SLOW_MODULE, encoding="utf-8")
    process = subprocess.Popen(
        [*prefix, sys.executable, "-m", "pgcachewatch", *arguments],
        env={**os.environ, "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout
        try:
            assert process.stdout.readline() == "importing\n"
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(os.name != "posix", reason="signals are sent to a process")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_relay_that_is_told_to_end_before_it_began_ends_as_cleanly_as_later(
    number: signal.Signals, tmp_path: Path
) -> None:
    with importing(tmp_path, "serve") as process:
        process.send_signal(number)

        assert process.wait(LIMIT_S) == 0


@pytest.mark.skipif(os.name != "posix", reason="signals are sent to a process")
def test_other_commands_are_ended_by_the_signal(tmp_path: Path) -> None:
    with importing(tmp_path, "doctor") as process:
        process.send_signal(signal.SIGTERM)

        assert process.wait(LIMIT_S) == -signal.SIGTERM


@pytest.mark.parametrize(("command", "code"), [("serve", 0), ("install", 128 + signal.SIGTERM)])
def test_first_process_of_a_container_can_be_ended_at_any_time(command: str, code: int, tmp_path: Path) -> None:
    """Its signals have no default action: the kernel drops what it does not handle."""
    if shutil.which("unshare") is None or subprocess.run([*FIRST_PROCESS, "true"], capture_output=True).returncode:
        pytest.skip("this system gives no process a namespace of its own")
    with importing(tmp_path, command, prefix=FIRST_PROCESS) as parent:
        children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text(encoding="ascii")
        os.kill(int(children), signal.SIGTERM)

        assert parent.wait(LIMIT_S) == code
