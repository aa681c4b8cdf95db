"""Settings read anew: what is said of each change, and that nothing changes when they can not work."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from urllib.parse import urlsplit

import asyncpg
import pytest
from websockets.typing import Subprotocol

from pgcachewatch.errors import ConfigurationError
from pgcachewatch_config import Loaded, Settings
from pgcachewatch_config.spelling import group_of, is_reloadable
from pgcachewatch_daemon.cli import relay_options
from pgcachewatch_daemon.core.admission import AdmissionLimits
from pgcachewatch_daemon.relay import Relay, RelayOptions
from pgcachewatch_daemon.reloading import Reloading
from tests.postgres import Database
from tests.raw_client import Client, kill_listener, options, refused, running
from tests.waiting import LIMIT_S, eventually

# Those of access and of certificates come with files, and are tested where those are read.
PLAIN = [
    name
    for name in Settings.model_fields
    if is_reloadable(name) and group_of(name) != "Access" and not name.endswith("_file") and name != "log_level"
]
SUBPROTOCOL = Subprotocol("pgcachewatch.v1")
RELAYS_SQL = "SELECT usename::text FROM pg_stat_activity WHERE application_name = 'pgcachewatch relay' AND datname = $1"


@pytest.fixture(autouse=True)
def _root_level() -> Iterator[None]:
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)


def nothing(settings: Settings) -> None:
    """Done with settings that are taken over."""


def preparing(take_over: Callable[[Settings], None] = nothing) -> Callable[[Settings], Callable[[], None]]:
    return lambda settings: partial(take_over, settings)


async def reload(before: Settings, after: Settings, take_over: Callable[[Settings], None] = nothing) -> Reloading:
    logging.getLogger().setLevel(before.log_level.upper())
    reloading = Reloading(before, read=lambda: Loaded(after, {}), prepare=preparing(take_over))
    await reloading.reload()
    return reloading


async def test_a_change_is_one_line_with_both_values(caplog: pytest.LogCaptureFixture) -> None:
    applied: list[Settings] = []
    await reload(Settings(), Settings(connections_limit=5), applied.append)
    assert [settings.connections_limit for settings in applied] == [5]
    assert 'option changed option=connections_limit old=10000 new=5 source="the defaults"' in caplog.messages
    assert caplog.messages[-1] == "settings reloaded changed=1"


async def test_an_option_that_needs_a_restart_is_warned_of_each_time_and_keeps_its_value(
    caplog: pytest.LogCaptureFixture,
) -> None:
    applied: list[Settings] = []
    reloading = await reload(Settings(), Settings(port=1), applied.append)
    await reloading.reload()
    assert [settings.port for settings in applied] == [8420, 8420]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings == ['option needs a restart to change option=port old=8420 new=1 source="the defaults"'] * 2


async def test_settings_that_can_not_work_change_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def refuse() -> Loaded:
        raise ConfigurationError("option 'port' can not be 'x'")

    applied: list[Settings] = []
    results: Counter[str] = Counter()
    reloading = Reloading(Settings(), read=refuse, prepare=preparing(applied.append), results=results)
    await reloading.reload()
    assert (applied, reloading.running) == ([], Settings())
    assert results == {"refused": 1}
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "option 'port' can not be 'x'" in record.getMessage()


async def test_a_part_that_refuses_keeps_the_old_settings_and_the_old_level() -> None:
    def refuse(settings: Settings) -> Callable[[], None]:
        raise ConfigurationError("the file of tokens is not readable")

    logging.getLogger().setLevel(logging.INFO)
    reloading = Reloading(Settings(), read=lambda: Loaded(Settings(log_level="debug"), {}), prepare=refuse)
    await reloading.reload()
    assert reloading.running == Settings()
    assert logging.getLogger().level == logging.INFO


@pytest.mark.parametrize(("old", "new"), [("info", "error"), ("error", "info")])
async def test_the_log_level_changes_and_the_line_that_says_so_is_seen(
    old: str, new: str, caplog: pytest.LogCaptureFixture
) -> None:
    await reload(Settings.model_validate({"log_level": old}), Settings.model_validate({"log_level": new}))
    assert logging.getLogger().level == logging.getLevelNamesMapping()[new.upper()]
    assert f'option changed option=log_level old={old} new={new} source="the defaults"' in caplog.messages


async def test_what_is_odd_is_said_again(caplog: pytest.LogCaptureFixture) -> None:
    loaded = Loaded(Settings(), {}, ("a variable is misspelled",))
    results: Counter[str] = Counter()
    await Reloading(Settings(), read=lambda: loaded, prepare=preparing(), results=results).reload()
    assert results == {"applied": 1}
    assert 'settings are odd problem="a variable is misspelled"' in caplog.messages


async def test_a_password_is_in_no_line(caplog: pytest.LogCaptureFixture) -> None:
    before = Settings.model_validate({"dsn": "postgresql://u:hunter2@h/d"})
    await reload(before, Settings.model_validate({"dsn": "postgresql://u:hunter3@h/d"}))
    assert "option changed option=dsn old=postgresql://u:***@h/d" in caplog.text
    assert "hunter" not in caplog.text


class Slow:
    """Reads in a thread, and is not done before it is let."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Event(), threading.Event()
        self.reads = 0

    def read(self) -> Loaded:
        self.reads += 1
        self.began.set()
        self.may_end.wait(LIMIT_S)
        return Loaded(Settings(), {})


async def test_the_loop_goes_on_while_files_are_read_and_who_asks_meanwhile_is_heard_once() -> None:
    slow, applied = Slow(), list[Settings]()
    reloading = Reloading(Settings(), read=slow.read, prepare=preparing(applied.append))
    reloading.ask()
    await eventually(slow.began.is_set)
    for _ in range(5):
        reloading.ask()
    assert applied == []
    slow.may_end.set()
    await eventually(lambda: len(applied) == 2)
    await reloading.close()
    assert slow.reads == 2


async def test_what_is_read_behind_the_end_is_not_taken_over() -> None:
    slow, applied = Slow(), list[Settings]()
    reloading = Reloading(Settings(), read=slow.read, prepare=preparing(applied.append))
    reloading.ask()
    await eventually(slow.began.is_set)
    await reloading.close()
    slow.may_end.set()
    await asyncio.get_running_loop().shutdown_default_executor()
    assert applied == []


async def test_a_fault_of_our_own_is_told_and_the_next_reload_is_one(caplog: pytest.LogCaptureFixture) -> None:
    results: Counter[str] = Counter()
    faults = [RuntimeError("planted")]

    def prepare(settings: Settings) -> Callable[[], None]:
        if faults:
            raise faults.pop()
        return lambda: None

    reloading = Reloading(Settings(), read=lambda: Loaded(Settings(), {}), prepare=prepare, results=results)
    for outcome in ("refused", "applied"):
        reloading.ask()
        await eventually(lambda outcome=outcome: results[outcome] == 1)  # type: ignore[misc]  # a lambda's default
    assert "planted" in caplog.text


# --- the relay


async def test_a_lower_limit_holds_for_newcomers_and_sends_nobody_away(database: Database) -> None:
    async with running(options(database.dsn)) as relay, Client(relay) as first, Client(relay) as second:
        await first.hello()
        await second.hello()
        relay.prepare(_with(relay.options, connections=1))()
        assert await refused(f"{relay.url}/v1/ws", subprotocols=[SUBPROTOCOL]) == 503
        relay.prepare(_with(relay.options, connections=3))()
        async with Client(relay) as third:
            await third.hello()
        await first.until("mark")
        await second.until("mark")


async def test_another_login_is_used_from_the_next_connection_on(database: Database) -> None:
    role = f"relay_{secrets.token_hex(4)}"
    other = urlsplit(database.dsn)
    other = other._replace(netloc=f"{role}:changed@{other.netloc.rpartition('@')[2]}")
    connection = await asyncpg.connect(database.dsn)
    try:
        await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'changed'")
        async with running(options(database.dsn)) as relay, Client(relay) as client:
            await client.hello()
            relay.prepare(replace(relay.options, source=replace(relay.options.source, dsn=other.geturl())))()
            await client.until("mark")
            await kill_listener(database)
            await client.until("reset")
            name = await connection.fetchval("SELECT current_database()")
            assert await connection.fetchval(RELAYS_SQL, name) == role
    finally:
        await connection.execute(f"DROP ROLE {role}")
        await connection.close()


async def test_parts_are_asked_before_any_of_them_changes() -> None:
    def refuse(new: RelayOptions) -> Callable[[], None]:
        raise ConfigurationError("no")

    relay = Relay(RelayOptions(port=0))
    relay.preparations.append(refuse)
    with pytest.raises(ConfigurationError):
        relay.prepare(_with(relay.options, connections=1))()
    assert relay._admission.limits == relay.options.admission == RelayOptions().admission


def _with(given: RelayOptions, *, connections: int) -> RelayOptions:
    return replace(given, admission=AdmissionLimits(connections=connections))


# --- each option by itself


@pytest.mark.parametrize("name", PLAIN)
def test_a_relay_that_took_over_an_option_has_it_wherever_one_that_began_with_it_has_it(name: str) -> None:
    options_before, options_after = relay_options(Settings()), relay_options(another(name))
    assert options_after != options_before, "nobody is told of this option"
    relay = Relay(options_before)
    relay.prepare(options_after)()
    assert held(relay) == held(Relay(options_after))


def another(name: str) -> Settings:
    """All defaults but for this option."""
    default = Settings.model_fields[name].default
    others: list[object]
    match default:
        case bool():
            others = [not default]
        case int() | float():
            others = [default * 2, default / 2, 7]
        case _:
            others = ["shared", "postgresql://u@h/d", ["10.0.0.1"], "x" * 40]
    for value in others:
        try:
            settings = Settings.model_validate({name: value})
        except ValueError:
            continue
        if getattr(settings, name) != default:
            return settings
    raise AssertionError(f"no other value of {name} is known here")


def held(part: object, path: str = "relay", depth: int = 4) -> dict[str, object]:
    """The options and limits that a relay's parts keep, by where they keep them."""
    found: dict[str, object] = {}
    for attribute, value in attributes(part).items():
        place, kind = f"{path}.{attribute}", type(value)
        if kind.__name__.endswith(("Options", "Limits")):
            found[place] = value
        elif kind.__module__.startswith("pgcachewatch_daemon") and depth:
            found |= held(value, place, depth - 1)
    return found


def attributes(part: object) -> dict[str, object]:
    slots = [name for kind in type(part).__mro__ for name in getattr(kind, "__slots__", ())]
    return getattr(part, "__dict__", {}) | {name: getattr(part, name) for name in slots if hasattr(part, name)}
