"""What the relay does with a look at the catalogue: tells caches what may have changed unseen, and answers by it.

Each table in doubt becomes a Gap, so that caches drop what they hold of it; a published client, which knows no gaps, is
sent the payload of an update of that table, which it reads as any other, and only on the channel that the table
notifies: on another one its readers would not know what it is. Too many tables at once are one gap for everything, and
published clients are closed (W-PLAIN-3). While something is wrong this repeats with each look, so a cache of that table
is older than its bound by no more than the time between two looks.

It also keeps the newest catalogue, by which subscriptions are judged. A refusal is not given by an old one: who was
created a moment ago is looked for first. Bounds: DOUBTS gaps a look; names that come close are looked for in no more
than ADVICE_NAMES names between two looks.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pgcachewatch.models import EVERYTHING, Event, Gap, Scope
from pgcachewatch.protocol import messages
from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon.lines import line_logger
from pgcachewatch_daemon.sql.assessment import Assessment, Doubt, assess
from pgcachewatch_daemon.sql.catalogue import Catalogue
from pgcachewatch_daemon.sql.columns import Accepted, MayName, Refusal, judge, names_all
from pgcachewatch_daemon.sql.drift import KINDS, Finding

RETRY_AFTER_MS = 200.0
ADVICE_NAMES = 20_000
FINDINGS_LOGGED = 20  # of one look
ASKED_LIMIT = 1_000  # of wishes that a look is awaited for; beyond it all of them are asked anew

logger = line_logger(__name__)


@dataclass(frozen=True, slots=True)
class NotReady:
    """Nothing can be said yet; a look at the catalogue was asked for."""

    text: str
    after_ms: float = RETRY_AFTER_MS


@dataclass(slots=True)
class InspectionStats:
    """Findings of now by kind, and gaps since the start."""

    findings: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    gaps: int = 0


class Publisher(Protocol):
    """The part of the hub that tells of changes."""

    def publish(self, change: Event | Gap, *, channel: str, payload: str, now_s: float) -> None: ...
    def close_plain(self, reason: str) -> None: ...


class Inspection:
    """`channel` is the relay's default one, `now_s` its monotonic clock, `hasten` asks for a look.

    `retyped` is called with the names of tables whose columns are not what they were, `doubted` with each gap.
    """

    def __init__(
        self,
        hub: Publisher,
        *,
        channel: str,
        now_s: Callable[[], float],
        hasten: Callable[[], None],
        retyped: Callable[[frozenset[str]], None],
        doubted: Callable[[Gap], None] = lambda gap: None,
    ) -> None:
        self.stats = InspectionStats()
        self._hub = hub
        self._channel = channel
        self._now_s = now_s
        self._hasten = hasten
        self._retyped = retyped
        self._doubted = doubted
        self.has_looked = asyncio.Event()
        self._last: Assessment | None = None
        self._read_at_s = now_s()  # when nothing was read yet: since the start
        self._began_s = 0.0  # when the last look began
        self._asked: dict[tuple[object, ...], float] = {}  # what would be refused, and when it was asked first
        self._advised = 0
        self._distrusted: dict[str, set[str]] = {}  # table -> schemas

    @property
    def findings(self) -> Sequence[Finding]:
        """What the last look found that is not as it was installed."""
        return self._last.findings if self._last is not None else ()

    @property
    def age_s(self) -> float:
        """Of the last look; before the first it counts from the start, so that one that never succeeds is seen."""
        return self._now_s() - self._read_at_s

    def believed(self, change: Event | Gap) -> Event | Gap:  # hot path
        """`change` without its keys while its table's triggers write them for columns of another type.

        A client writes values by the type that there is now, and would not find itself in the old one's texts.
        """
        if not self._distrusted or not isinstance(change, Event) or change.keys is None:
            return change
        schemas = self._distrusted.get(change.table, ())
        if not schemas or change.schema_name not in (None, *schemas):
            return change
        return change.model_copy(update={"keys": None})

    # --- looks

    def assess(self, catalogue: Catalogue) -> Assessment:
        """The catalogue against the last one. Runs beside the loop, and changes nothing."""
        return assess(self._last, catalogue)

    def tell(self, assessment: Assessment, began_s: float) -> None:
        """Publish what is in doubt, and go by this look, which began at `began_s`, from now on."""
        self._go_by(assessment, began_s)
        counts = Counter(finding.kind for finding in assessment.findings)
        self.stats.findings = {kind: counts[kind] for kind in KINDS}
        self._log(assessment)
        if assessment.is_everything:
            self._publish_everything()
        for doubt in assessment.doubts:
            self._publish(doubt)
        if assessment.retyped:
            self._retyped(assessment.retyped)

    def adopt(self, assessment: Assessment, began_s: float) -> None:
        """Go by the look of another process, which has published what it means."""
        self._go_by(assessment, began_s)
        if assessment.retyped:
            self._retyped(assessment.retyped)

    def _go_by(self, assessment: Assessment, began_s: float) -> None:
        self._last = assessment
        self.has_looked.set()
        self._began_s = began_s
        self._read_at_s = self._now_s()
        self._advised = 0
        self._distrusted = {}
        for schema, table in assessment.distrusted:
            self._distrusted.setdefault(table, set()).add(schema)

    def _publish(self, doubt: Doubt) -> None:
        self.stats.gaps += 1
        gap = Gap(Scope(None, doubt.table, doubt.schema), "table_wide", doubt.detail)
        sent_at = datetime.datetime.now(tz=datetime.UTC).isoformat()
        payload = {"operation": "update", "table": doubt.table, "schema": doubt.schema, "sent_at": sent_at}
        channel = doubt.channel or self._channel
        self._doubted(gap)
        self._hub.publish(gap, channel=channel, payload=json.dumps(payload), now_s=self._now_s())

    def _publish_everything(self) -> None:
        self.stats.gaps += 1
        detail = "too many tables may have changed without an event"
        gap = Gap(EVERYTHING, "forced", detail)
        self._doubted(gap)
        self._hub.publish(gap, channel="", payload="", now_s=self._now_s())
        self._hub.close_plain(detail)

    def _log(self, assessment: Assessment) -> None:
        for finding in assessment.appeared[:FINDINGS_LOGGED]:
            grade = logging.WARNING if finding.may_lose_events else logging.INFO
            facts = {"detail": finding.detail, "remedy": finding.remedy}
            logger.log(grade, "drift", kind=finding.kind, table=finding.table or "-", **facts)
        left_out = len(assessment.appeared) - FINDINGS_LOGGED
        if left_out > 0:
            logger.warning("drift not listed", findings=left_out, remedy="see pgcachewatch status")
        if assessment.gone:
            logger.info("drift mended", findings=len(assessment.gone), left=len(assessment.findings))

    # --- subscriptions

    def judge(self, subscription: Subscription, *, may_name: MayName = names_all) -> Accepted | Refusal | NotReady:
        """Whether the subscription's rows can be told apart (W-ROW-3), and what is odd about it.

        The answer names no other tables than `may_name` allows.
        """
        last = self._last
        if last is None:
            if subscription.columns:
                self._hasten()
                return NotReady("the relay has not read the tables of this database yet; ask again")
            return Accepted()
        answer = self._judge(last.catalogue, subscription, has_advice=False, may_name=may_name)
        if isinstance(answer, Refusal) and not self._has_looked_for(subscription):
            self._hasten()
            return NotReady(f"{answer.text}; the relay looks again, in case this is new")
        named = last.catalogue.named(subscription.table or "")
        is_missing = not any(subscription.schema in (None, one.schema) for one in named)
        size = len(last.catalogue.relations)
        if subscription.table and is_missing and self._advised + size <= ADVICE_NAMES:
            self._advised += size
            answer = self._judge(last.catalogue, subscription, has_advice=True, may_name=may_name)
        return answer

    def why_not_journalled(self, want: messages.Want) -> Refusal | NotReady | None:
        """None when the journal has each event of this."""
        if want.table is None:
            return Refusal("not_journalled", "a consumer is for tables in journal mode: name them")
        shown = want.table if want.schema_name is None else f"{want.schema_name}.{want.table}"
        channel = want.channel or self._channel
        subscription = Subscription(0, 0, channel, want.table, want.schema_name, mode="stream")
        if self._last is not None:
            answer = self._judge(self._last.catalogue, subscription, has_advice=False)
            if isinstance(answer, Accepted) and answer.is_journalled:
                return None
            if self._has_looked_for(subscription):
                remedy = f"pgcachewatch install --mode journal {shown} --commit"
                return Refusal("not_journalled", f"events of {shown!r} on {channel!r} are not journalled: {remedy}")
        self._hasten()
        return NotReady("the relay has not read the tables of this database yet; ask again")

    def _has_looked_for(self, subscription: Subscription) -> bool:
        """True when a look began after this was asked for first: a table may be a moment old."""
        wish = (subscription.table, subscription.schema, subscription.columns)
        if len(self._asked) >= ASKED_LIMIT:
            self._asked.clear()
        if self._began_s <= self._asked.setdefault(wish, self._now_s()):
            return False
        del self._asked[wish]
        return True

    def _judge(
        self, catalogue: Catalogue, subscription: Subscription, *, has_advice: bool, may_name: MayName = names_all
    ) -> Accepted | Refusal:
        return judge(
            catalogue,
            table=subscription.table,
            schema=subscription.schema,
            columns=subscription.columns,
            channel=subscription.channel,
            has_advice=has_advice,
            may_name=may_name,
        )
