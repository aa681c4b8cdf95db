"""Text of a notification to an Event, or to the Gap it leaves (guarantee G11).

Nothing unreadable is dropped. What can not be validated becomes a Gap for the widest scope it may concern: the table,
when the payload names one, else the channel. A key that is too long to travel makes its event table-wide, which is
wider and so still right. `read` never raises; each fault is counted by kind, and the shell logs from those counts.
On the path of an event: step 2, validate.
"""

from __future__ import annotations

import datetime
from typing import Literal

import pydantic
import pydantic_core

from pgcachewatch.models import Event, Gap, Scope
from pgcachewatch.protocol.messages import KEY_BYTES
from pgcachewatch_daemon.core.stats import IntakeStats

Fault = Literal["not_json", "not_an_object", "malformed"]

PAYLOAD_CHARACTERS = 8 * 1024 * 1024  # a notification has less than 8,000; a row of the journal, 5,000 keys of 1 KiB
TABLE_NAME_CHARACTERS = 200
DETAIL_CHARACTERS = 200


class Intake:
    """Reads payloads and counts what it could not read.

    >>> intake = Intake()
    >>> now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    >>> payload = '{"operation":"update","table":"users","sent_at":"2030-01-01T00:00:00Z"}'
    >>> intake.read("c", payload, received_at=now).table
    'users'
    >>> intake.read("c", '{"operation":"explode","table":"users"}', received_at=now).scope
    Scope(channel='c', table='users', schema=None, key=None)
    >>> intake.read("c", "hello", received_at=now).scope
    Scope(channel='c', table=None, schema=None, key=None)
    """

    def __init__(self) -> None:
        self.stats = IntakeStats()

    def read(self, channel: str, payload: str, *, received_at: datetime.datetime) -> Event | Gap:
        """The change that `payload` tells of. `received_at` is aware, and replaces one in the payload."""
        self.stats.received += 1
        try:
            content = pydantic_core.from_json(payload) if len(payload) <= PAYLOAD_CHARACTERS else None
        except (ValueError, TypeError):  # TypeError: half a character, which JSON in UTF-8 has not
            return self._gap("not_json", Scope(channel), payload)
        if not isinstance(content, dict):
            return self._gap("not_an_object", Scope(channel), payload)
        try:
            event = Event.model_validate({**content, "channel": channel, "received_at": received_at})
        except pydantic.ValidationError:
            return self._gap("malformed", _scope_of(channel, content), payload)
        if event.keys is not None and any(len(key.encode()) > KEY_BYTES for key in event.keys):
            return event.model_copy(update={"keys": None})
        return event

    def _gap(self, fault: Fault, scope: Scope, payload: str) -> Gap:
        self.stats.invalid[fault] = self.stats.invalid.get(fault, 0) + 1
        return Gap(scope, "unreadable", f"{fault}: {payload[:DETAIL_CHARACTERS]!r}")


def _scope_of(channel: str, content: dict[str, object]) -> Scope:
    """The table, when the payload says it in a way that can be believed; else the whole channel."""
    table, schema = content.get("table"), content.get("schema")
    if not isinstance(table, str) or not 0 < len(table) <= TABLE_NAME_CHARACTERS:
        return Scope(channel)
    return Scope(channel, table, schema if isinstance(schema, str) else None)
