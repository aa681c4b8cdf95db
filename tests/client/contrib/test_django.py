"""Django: what a cached function does in transactions, on a real PostgreSQL; changes are told by a relay in memory."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from urllib.parse import urlsplit

import django
import pytest
from django.conf import settings
from django.db import connection, connections, models, transaction

import pgcachewatch
from pgcachewatch.contrib import django as contrib
from pgcachewatch.contrib.django import barrier_on_commit, cached, must_ask
from pgcachewatch.errors import BarrierTimeout, ConfigurationError
from pgcachewatch.testing import FakeRelay, fake_relay
from tests.postgres import Database

__all__ = ["fake_relay"]  # a fixture, for the tests below

if not settings.configured:
    settings.configure(DATABASES={}, INSTALLED_APPS=[], USE_TZ=True)
    django.setup()


class Product(models.Model):  # type: ignore[misc]  # Django's classes have no types
    """What the shop sells."""

    name = models.CharField(max_length=50)

    class Meta:
        app_label = "shop"
        db_table = "products"


@pytest.fixture
def database_settings(database: Database) -> dict[str, Any]:
    address = urlsplit(database.dsn)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": database.name,
        "HOST": address.hostname,
        "PORT": address.port,
        "USER": address.username,
        "PASSWORD": address.password or "",
    }


@pytest.fixture
def shop(database_settings: dict[str, Any]) -> Iterator[None]:
    """A database with one product, as Django's default."""
    with configured(database_settings):
        with connection.schema_editor() as editor:
            editor.create_model(Product)
        Product(name="Emma").save()
        yield


class configured:  # noqa: N801  # it is entered like a function
    """Django's connections are those of these settings."""

    def __init__(self, default: dict[str, Any]) -> None:
        self._default = default

    def __enter__(self) -> None:
        with contextlib.suppress(AttributeError):  # there is none yet
            del connections["default"]
        connections.settings = connections.configure_settings({"default": self._default})

    def __exit__(self, *_: object) -> None:
        connection.close()
        del connections["default"]


@pytest.fixture
def relay(fake_relay: FakeRelay) -> Iterator[pgcachewatch.sync.Client]:
    with fake_relay.connect_sync() as client:
        yield client


class Names:
    """A cached function, and how often it ran."""

    def __init__(self, relay: pgcachewatch.sync.Client) -> None:
        self.runs = 0

        @cached(relay, tables=["products"])
        def read(limit: int = 10) -> list[str]:
            self.runs += 1
            return sorted(product.name for product in Product.objects.all()[:limit])

        self.read = read
        relay.wait_live(10)


@pytest.fixture
def names(shop: None, relay: pgcachewatch.sync.Client) -> Names:
    return Names(relay)


# --- outside transactions


def test_a_function_is_cached_until_its_table_changes(names: Names, fake_relay: FakeRelay) -> None:
    assert [names.read(), names.read(10), names.read(limit=10)] == [["Emma"]] * 3
    assert names.runs == 1

    Product(name="Persuasion").save()
    fake_relay.emit("products")

    assert names.read() == ["Emma", "Persuasion"]


def test_it_looks_like_the_function_and_answers_questions(names: Names) -> None:
    read: Any = names.read  # Any: the attributes of a function
    names.read()

    assert read.__name__ == "read"
    assert names.read.cache_contains()
    assert names.read.cache_info().misses == 1
    assert names.read.cache_invalidate()
    names.read.cache_clear()


class Repository:
    """With a method that is cached."""

    cache: ClassVar = pgcachewatch.Cache(tables=["products"])

    def __init__(self) -> None:
        self.runs = 0

    @cached(cache)
    def read(self) -> list[str]:
        self.runs += 1
        return [product.name for product in Product.objects.all()]


def test_a_method_of_a_cache_that_is_bound_later_is_cached(shop: None, relay: pgcachewatch.sync.Client) -> None:
    one, other = Repository(), Repository()
    assert [one.read(), one.read()] == [["Emma"]] * 2
    with Repository.cache.bound(relay):
        relay.wait_live(10)
        assert [one.read(), one.read(), other.read()] == [["Emma"]] * 3
    assert (one.runs, other.runs) == (3, 1)


# --- transactions that see what others do not


def nothing() -> None: ...


def read() -> None:
    assert Product.objects.filter(name__startswith="E").exclude(name__in=["x", "y"]).count() == 1
    list(Product.objects.values("name").annotate(models.Count("id")).order_by("-name").distinct()[:5])


def read_in_savepoint() -> None:
    with transaction.atomic():
        read()


def write() -> None:
    Product(name="Persuasion").save()


def update() -> None:
    Product.objects.update(name="Persuasion")


def delete() -> None:
    Product.objects.all().delete()


def lock() -> None:
    list(Product.objects.select_for_update())


def call_function() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(5)")


def write_many() -> None:
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO products (name) VALUES (%s)", [("a",), ("b",)])


def write_composed() -> None:
    from psycopg import sql

    with connection.cursor() as cursor:
        cursor.execute(sql.SQL("INSERT INTO products (name) VALUES ('x')"))


def set_local() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET LOCAL work_mem = '8MB'")


def write_before_savepoint_that_is_rolled_back() -> None:
    write()
    roll_back_savepoint(nothing)


def write_in_savepoint() -> None:
    with transaction.atomic():
        write()


def roll_back_savepoint(act: Callable[[], None]) -> None:
    with transaction.atomic():
        act()
        transaction.set_rollback(True)


@pytest.mark.parametrize("act", [nothing, read, read_in_savepoint])
def test_a_block_that_has_not_written_is_served(names: Names, act: Callable[[], None]) -> None:
    names.read()
    with transaction.atomic():
        act()
        assert names.read() == ["Emma"]
    assert names.runs == 1


@pytest.mark.parametrize(
    "act",
    [
        write,
        update,
        delete,
        lock,
        call_function,
        write_many,
        write_composed,
        set_local,
        write_in_savepoint,
        write_before_savepoint_that_is_rolled_back,
    ],
)
def test_a_block_that_has_written_reads_by_itself_and_stores_nothing(names: Names, act: Callable[[], None]) -> None:
    before = names.read()
    with transaction.atomic():
        act()
        assert names.read() == sorted(Product.objects.values_list("name", flat=True))
        transaction.set_rollback(True)
    assert names.runs == 2
    assert names.read() is before
    with transaction.atomic():
        assert names.read() is before


def test_what_is_not_committed_is_not_stored(names: Names, fake_relay: FakeRelay) -> None:
    with transaction.atomic():
        write()
        fake_relay.emit("products")
        assert names.read() == ["Emma", "Persuasion"]
        assert not names.read.cache_contains()


def test_after_a_commit_the_next_block_is_served(names: Names, fake_relay: FakeRelay) -> None:
    with transaction.atomic():
        write()
    fake_relay.emit("products")
    with transaction.atomic():
        assert [names.read(), names.read()] == [["Emma", "Persuasion"]] * 2
    assert names.runs == 1


def test_a_rollback_to_a_savepoint_before_any_write_changes_nothing(names: Names) -> None:
    names.read()
    with transaction.atomic():
        roll_back_savepoint(nothing)
        names.read()
    assert names.runs == 1


def test_with_autocommit_off_each_call_runs_the_function(names: Names) -> None:
    transaction.set_autocommit(False)
    try:
        assert [names.read(), names.read()] == [["Emma"]] * 2
        assert names.runs == 2
        transaction.rollback()
    finally:
        transaction.set_autocommit(True)


@pytest.mark.parametrize("how", ["options", "database"])
def test_a_transaction_that_sees_the_database_as_it_was_reads_by_itself(
    shop: None, relay: pgcachewatch.sync.Client, database_settings: dict[str, Any], how: str
) -> None:
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    if how == "database":
        with connection.cursor() as cursor:
            name = connection.ops.quote_name(database_settings["NAME"])
            cursor.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'")
        options: dict[str, Any] = {}
    else:
        options = {"isolation_level": IsolationLevel.REPEATABLE_READ}
    connection.close()
    with configured({**database_settings, "OPTIONS": options}):
        names = Names(relay)
        names.read()
        with transaction.atomic():
            names.read()
        assert names.runs == 2
    connections.settings = connections.configure_settings({"default": database_settings})  # for those who clean up


def test_a_connection_that_was_there_before_may_have_written(shop: None, relay: pgcachewatch.sync.Client) -> None:
    connection.execute_wrappers.clear()
    with transaction.atomic():
        write()
        assert must_ask()
    assert not must_ask()


def test_a_wrapper_of_the_program_comes_and_goes_beside_ours(names: Names) -> None:
    seen: list[str] = []

    def note(execute: Callable[..., Any], text: str, *rest: Any) -> Any:
        seen.append(text)
        return execute(text, *rest)

    connection.close()
    del connections["default"]
    with connection.execute_wrapper(note):
        names.read()
    with transaction.atomic():
        write()
        assert must_ask()
    assert len(seen) == 1


def test_what_another_thread_writes_is_no_concern_of_this_one(names: Names) -> None:
    names.read()
    has_written, may_end = threading.Event(), threading.Event()

    def run() -> None:
        with transaction.atomic():
            write()
            has_written.set()
            assert may_end.wait(10)
        connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert has_written.wait(10)
    with transaction.atomic():
        names.read()
    may_end.set()
    thread.join()
    assert names.runs == 1


# --- the barrier


def test_after_the_block_each_hit_contains_what_it_wrote(names: Names, relay: Any, fake_relay: FakeRelay) -> None:
    names.read()
    told: list[float] = []

    class Told:
        """The relay, which hears of the commit just before the barrier is asked for."""

        def barrier(self, *, timeout: float = 0) -> None:
            told.append(timeout)
            fake_relay.emit("products")
            relay.barrier(timeout=timeout)

    with transaction.atomic():
        write()
        barrier_on_commit(Told(), timeout=7)
        assert told == []
    assert told == [7]
    assert names.read() == ["Emma", "Persuasion"]


def test_without_a_transaction_the_barrier_is_at_once(shop: None, relay: pgcachewatch.sync.Client) -> None:
    barrier_on_commit(relay)


def test_after_a_rollback_there_is_no_barrier(shop: None, fake_relay: FakeRelay) -> None:
    client = fake_relay.connect_sync()
    client.close()
    with transaction.atomic():
        barrier_on_commit(client)
        transaction.set_rollback(True)


def test_a_barrier_that_fails_says_so_unless_it_is_robust(shop: None) -> None:
    class Stuck:
        """A relay that does not answer."""

        def barrier(self, *, timeout: float = 0) -> None:
            raise BarrierTimeout("nothing came", missing="barrierok")

    with pytest.raises(BarrierTimeout), transaction.atomic():
        barrier_on_commit(Stuck())
    with transaction.atomic():
        barrier_on_commit(Stuck(), robust=True)


# --- what can not be cached


def test_a_query_set_is_refused(shop: None, relay: pgcachewatch.sync.Client) -> None:
    @cached(relay)
    def read() -> Any:
        return Product.objects.all()

    with pytest.raises(ConfigurationError, match="return a list"):
        read()


def test_a_coroutine_function_is_refused(relay: pgcachewatch.sync.Client) -> None:
    with pytest.raises(ConfigurationError, match="sync_to_async"):
        cached(relay)(asyncio.sleep)


def test_without_django_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "django.db", None)
    monkeypatch.delitem(sys.modules, contrib.__name__)

    with pytest.raises(ImportError, match="pip install"):
        importlib.import_module(contrib.__name__)
