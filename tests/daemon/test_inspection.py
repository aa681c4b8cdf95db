"""A look at the catalogue reaches whoever caches a table in doubt, and nobody is refused by what may be out of date."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import pytest

from pgcachewatch.models import Event, Gap, Scope
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon.core.audience import Framing, Subscriber
from pgcachewatch_daemon.core.history import History, HistoryLimits
from pgcachewatch_daemon.core.hub import Hub, HubSettings
from pgcachewatch_daemon.inspection import ADVICE_NAMES, ASKED_LIMIT, Inspection, NotReady
from pgcachewatch_daemon.io.backplane_memory import MemoryBackplane
from pgcachewatch_daemon.sql.assessment import DOUBTS
from pgcachewatch_daemon.sql.catalogue import Catalogue
from pgcachewatch_daemon.sql.columns import Accepted, Refusal
from pgcachewatch_daemon.sql.keytext import Column
from tests.daemon.sql.catalogues import CHANNEL, changed, empty, installed, table

RIGHT = installed([table(1, "users"), table(2, "orders")])
WRONG = changed(RIGHT, 1, triggers={})


class Stage:
    """The real hub, a clock that stands still, and readers of both kinds."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.hastened = 0
        self.retyped: list[frozenset[str]] = []
        self.hub = Hub(
            MemoryBackplane(lambda: "0" * 16),
            History(HistoryLimits()),
            HubSettings("node", 500.0),
            framing=Framing(str.encode),
        )
        self.inspection = Inspection(
            self.hub,
            channel="default",
            now_s=lambda: self.now_s,
            hasten=self._hasten,
            retyped=self.retyped.append,
        )

    def _hasten(self) -> None:
        self.hastened += 1

    def look(self, catalogue: Catalogue) -> None:
        self.now_s += 1.0
        self.inspection.tell(self.inspection.assess(catalogue), self.now_s)

    def join(self, *subscriptions: Subscription) -> Subscriber:
        subscriber = self.hub.join(messages.Hello(), subscriptions, now_ms=0.0)
        subscriber.drain()
        return subscriber

    def judge(self, table: str, *columns: str) -> Accepted | Refusal | NotReady:
        return self.inspection.judge(Subscription(1, 1, CHANNEL, table=table, columns=columns))


def read(subscriber: Subscriber) -> list[Any]:  # JSON
    return [json.loads(frame) for frame in subscriber.drain()]


def test_a_table_in_doubt_is_a_gap_on_every_channel_and_no_other_tables() -> None:
    stage = Stage()
    users = [stage.join(Subscription(1, 1, channel, table="users", columns=("id",))) for channel in ("c1", "c2")]
    others = [
        stage.join(Subscription(1, 1, "c1", table="orders")),
        stage.join(Subscription(1, 1, "c1", table="users", schema="s2")),
    ]
    stage.look(WRONG)
    assert [each["i"] for one in users for each in read(one)] == [[[1, "*", None]]] * 2
    assert [read(one) for one in others] == [[], []]
    assert stage.inspection.stats.gaps == 1
    assert stage.inspection.stats.findings["not_covered"] == 1


def test_whoever_comes_back_is_replayed_the_gap() -> None:
    stage = Stage()
    before = stage.hub.position
    stage.look(WRONG)
    hello = messages.Hello(resume=messages.Resume(e=before.epoch, s=before.seq))
    again = stage.hub.join(hello, [Subscription(1, 1, CHANNEL, table="users")], now_ms=0.0)
    assert [each["i"] for each in read(again) if each["t"] == "ev"] == [[[1, "*", None]]]


def test_a_published_client_is_sent_an_update_of_the_table_on_its_own_channel_only() -> None:
    stage = Stage()
    theirs, default, other = (stage.hub.join_plain(channel) for channel in (CHANNEL, "default", "other"))
    stage.look(WRONG)
    (payload,) = read(theirs)
    assert (payload["operation"], payload["table"]) == ("update", "users")
    assert "sent_at" in payload
    assert read(default) == read(other) == []
    stage.look(empty([table(7, "bare")]))
    stage.look(empty([table(7, "bare", filenode=1)]))
    assert [each["table"] for each in read(default)][-1] == "bare"
    assert read(other) == []


def test_too_many_tables_are_one_gap_for_everything_and_published_clients_are_closed() -> None:
    stage = Stage()
    client, plain = stage.join(Subscription(1, 1, "c", table="users")), stage.hub.join_plain("c")
    many = [table(oid, f"t{oid}") for oid in range(1, DOUBTS + 2)]
    stage.look(empty(many))
    stage.look(empty([replace(one, filenode=1) for one in many]))
    assert [each["i"] for each in read(client)] == [[[1, "*", None]]]
    assert plain.close is not None
    assert plain.close.code == 1012
    assert stage.inspection.stats.gaps == 1


def test_a_finding_is_logged_once_with_its_remedy_and_once_more_when_it_is_mended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stage = Stage()
    caplog.set_level(logging.INFO)
    for catalogue in (WRONG, WRONG, RIGHT, RIGHT):
        stage.look(catalogue)
    assert len(caplog.messages) == 2
    assert "kind=not_covered table=public.users" in caplog.messages[0]
    assert "pgcachewatch install --repair --commit" in caplog.messages[0]
    assert "mended" in caplog.messages[1]
    assert stage.inspection.stats.findings["not_covered"] == 0


def test_a_flood_of_findings_is_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    many = [table(oid, f"t{oid}") for oid in range(1, 101)]
    right = installed(many)
    stage.look(replace(right, relations={one.oid: one for one in many}))
    assert len(caplog.messages) == 21
    assert "drift not listed findings=80" in caplog.messages[-1]


@pytest.mark.rule("W-ROW-3")
def test_columns_wait_for_the_first_look_and_tables_do_not() -> None:
    stage = Stage()
    answer = stage.judge("users", "id")
    assert isinstance(answer, NotReady)
    assert answer.after_ms == 200.0
    assert stage.hastened == 1
    assert stage.judge("users") == Accepted()
    stage.look(RIGHT)
    assert stage.judge("users", "id") == Accepted(("int8",))


@pytest.mark.rule("W-ROW-3")
def test_nobody_is_refused_by_an_old_look() -> None:
    stage = Stage()
    stage.look(RIGHT)
    assert stage.judge("users", "id") == Accepted(("int8",))
    assert isinstance(stage.judge("new", "id"), NotReady)
    assert stage.hastened == 1
    assert isinstance(stage.judge("new", "id"), NotReady)
    stage.look(installed([table(1, "users"), table(9, "new")]))
    assert stage.judge("new", "id") == Accepted(("int8",))
    assert isinstance(stage.judge("missing", "id"), NotReady)
    stage.look(RIGHT)
    assert isinstance(stage.judge("missing", "id"), Refusal)
    assert isinstance(stage.judge("missing", "id"), NotReady)  # asked anew, so looked for anew


def test_a_look_that_began_before_a_wish_refuses_it_to_nobody() -> None:
    stage = Stage()
    stage.look(RIGHT)
    assert isinstance(stage.judge("new", "id"), NotReady)
    stage.inspection.tell(stage.inspection.assess(RIGHT), stage.now_s - 1)
    assert isinstance(stage.judge("new", "id"), NotReady)


def test_wishes_that_wait_for_a_look_are_bounded() -> None:
    stage = Stage()
    stage.look(RIGHT)
    for number in range(ASKED_LIMIT + 1):
        assert isinstance(stage.judge(f"new{number}", "id"), NotReady)
    stage.look(RIGHT)
    assert isinstance(stage.judge("new0", "id"), NotReady)
    assert isinstance(stage.judge(f"new{ASKED_LIMIT}", "id"), Refusal)


def test_looking_for_names_that_come_close_is_bounded_between_two_looks() -> None:
    stage = Stage()
    size = ADVICE_NAMES // 2
    catalogue = empty([table(1, "users"), *(table(oid, f"{oid}") for oid in range(2, size + 1))])
    stage.look(catalogue)
    for name in ("user", "usrs", "uses"):
        stage.judge(name, "id")
    stage.look(catalogue)
    told = [stage.judge(name, "id") for name in ("user", "usrs", "uses")]
    assert ["did you mean" in str(each) for each in told] == [True, True, False]


def test_keys_that_were_written_for_another_type_are_not_believed() -> None:
    stage = Stage()
    fields = {"channel": "c", "operation": "update", "sent_at": "2030-01-01T00:00:00Z", "keys": ["1"], "key": ["id"]}
    events = [
        Event.model_validate(fields | {"table": table, "schema": schema})
        for table, schema in (("users", "public"), ("users", None), ("users", "s2"), ("orders", "public"))
    ]
    gap = Gap(Scope("c"), "unreadable")
    stage.look(RIGHT)
    assert [stage.inspection.believed(each) for each in events] == events
    column = Column("id", "text")
    stage.look(changed(RIGHT, 1, key=(column,), columns={"id": column}))
    believed = [stage.inspection.believed(each) for each in events]
    assert [each.keys for each in believed if isinstance(each, Event)] == [None, None, ("1",), ("1",)]
    assert stage.inspection.believed(gap) is gap


def test_tables_whose_columns_changed_are_told() -> None:
    stage = Stage()
    stage.look(RIGHT)
    stage.look(RIGHT)
    assert stage.retyped == []
    stage.look(changed(RIGHT, 1, key=()))
    assert stage.retyped == [frozenset({"users"})]


def test_the_age_of_the_catalogue_counts_from_the_last_look() -> None:
    stage = Stage()
    stage.look(RIGHT)
    stage.now_s += 5.0
    assert stage.inspection.age_s == 5.0


def test_a_catalogue_that_was_never_read_is_as_old_as_the_relay() -> None:
    stage = Stage()
    stage.now_s += 700.0
    assert stage.inspection.age_s == 700.0, "an alert on the age must not sleep through a look that never succeeds"


def test_a_look_of_another_process_is_gone_by_and_publishes_nothing() -> None:
    stage = Stage()
    assessment = replace(stage.inspection.assess(WRONG), retyped=frozenset({"users"}))
    stage.inspection.adopt(assessment, 101.0)
    assert stage.hub.position.seq == 0
    assert stage.inspection.stats.gaps == 0
    assert stage.retyped == [frozenset({"users"})]
    answer = stage.judge("users", "id")
    assert isinstance(answer, Accepted)
    assert answer.types == ("int8",)
    assert "raise no event" in (answer.notice or "")
