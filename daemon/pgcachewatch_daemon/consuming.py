"""Durable consumers: between the clients that take their jobs and the session they are read and stored with.

A client joins a consumer; when this relay holds the consumer's lock and knows its place, the client is admitted and
given jobs. What is read, stored and timed happens in one task, which runs while there are consumers: their session is
opened with the first one and closed behind the last. What clients say is applied at once, and stored a little later.

While the session is lost nothing is given, since another relay may hold the lock by now; what clients say is kept. If
nobody had the consumer meanwhile, all goes on as it was. Else it is read anew from what the other one has stored.

Bounds: `consumers` at one time, each with its own; a store a second for each, IDLE_STORE_S when only the place moved.
On the path of an event: beside steps 5 to 7.
"""

from __future__ import annotations

import asyncio
import datetime
import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from typing import assert_never

from pgcachewatch.models import Event, Gap
from pgcachewatch.protocol import codec, messages
from pgcachewatch.protocol.relay_session import JobsDone, JobsFailed, TakerEffect, TakerJoined
from pgcachewatch_daemon.core.audience import Subscriber
from pgcachewatch_daemon.core.consumers import (
    GAP_ID,
    Consumer,
    ConsumerStats,
    Give,
    Saved,
    TakeBack,
    Told,
)
from pgcachewatch_daemon.core.jobs import content, encode_job
from pgcachewatch_daemon.core.pages import Filter, Page
from pgcachewatch_daemon.core.snapshot import Snapshot
from pgcachewatch_daemon.inspection import NotReady
from pgcachewatch_daemon.io.postgres import SourceOptions
from pgcachewatch_daemon.io.postgres.consumers import ConsumerSession, Elsewhere, Found, Missed, NoJournal, Unusable
from pgcachewatch_daemon.lines import line_logger
from pgcachewatch_daemon.posts import GOING_AWAY, ConsumerOptions, Desk, NotServed, Post, Seat, Standing
from pgcachewatch_daemon.sql.columns import Refusal

STORE_S = 1.0
IDLE_STORE_S = 60.0
LOOK_S = 1.0  # without a word of the source
RETRY_MIN_S = 0.1
RETRY_MAX_S = 3.0
CLOSE_S = 3.0
AGAIN_MS = 1_000.0
LONGEST_S = 3_600.0

logger = line_logger(__name__)


class Consuming:
    """See the module. `now_s` is the relay's monotonic clock."""

    def __init__(
        self, options: ConsumerOptions, source: SourceOptions, desk: Desk, *, now_s: Callable[[], float]
    ) -> None:
        self.stats = ConsumerStats()
        self._options = options
        self._source = source
        self._desk = desk
        self._now_s = now_s
        self._owner = secrets.token_hex(8)
        self._posts: dict[str, Post] = {}
        self._seats: dict[tuple[Subscriber, int], tuple[Seat, Post]] = {}
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._is_draining = False
        self._has_news = False
        self._doubts = 0

    def reload(self, options: ConsumerOptions, source: SourceOptions) -> None:
        """Go on with these; the session there is stays, the next one is opened with what they say."""
        self._options = options
        self._source = source
        for post in self._posts.values():
            if post.core is not None:
                post.core.limits = options.limits

    # --- what is known

    @property
    def consumers(self) -> int:
        return len(self._posts)

    @property
    def takers(self) -> int:
        """Clients that were admitted."""
        return sum(len(post.core.takers) for post in self._posts.values() if post.core is not None)

    @property
    def pending(self) -> int:
        return sum(post.core.pending for post in self._posts.values() if post.core is not None)

    def standings(self, now: datetime.datetime) -> list[Standing]:
        """Those whose jobs are given here; `now` is the time of the database."""
        held = [(post.name, post.core) for post in self._posts.values() if post.core is not None]
        return [Standing(name, len(core.takers), core.pending, _lag_s(core, now)) for name, core in held]

    # --- what clients say

    def perform(self, subscriber: Subscriber, effect: TakerEffect) -> None:
        """Carry out what a client asked for."""
        match effect:
            case TakerJoined(sid, consume):
                self._join(Seat(subscriber, sid, consume))
            case JobsDone(sid, ids):
                for seat, core in self._seat(subscriber, sid):
                    self._tell(core.done(seat, ids, now_s=self._now_s()))
            case JobsFailed(sid, ids, reason):
                for seat, core in self._seat(subscriber, sid):
                    self._tell(core.failed(seat, ids, reason, now_s=self._now_s()))
            case _:
                assert_never(effect)
        self._woken.set()

    def leave(self, subscriber: Subscriber, sid: int) -> bool:
        """The client takes part no more. False when this is no consumer's sid."""
        return self._leave(subscriber, sid, is_lost=False)

    def taken_by(self, subscriber: Subscriber) -> list[messages.Consume]:
        """What this client takes part in, or waits to."""
        return [seat.consume for (known, _), (seat, _) in self._seats.items() if known is subscriber]

    def drop(self, subscriber: Subscriber) -> None:
        """The client is gone."""
        for sid in [sid for known, sid in self._seats if known is subscriber]:
            self._leave(subscriber, sid, is_lost=not self._is_draining)

    def _leave(self, subscriber: Subscriber, sid: int, *, is_lost: bool) -> bool:
        found = self._seats.pop((subscriber, sid), None)
        if found is None:
            return False
        seat, post = found
        post.waiting.pop(seat, None)
        if post.core is not None:
            self._tell(post.core.leave(seat, now_s=self._now_s(), is_lost=is_lost))
        self._woken.set()
        return True

    def _seat(self, subscriber: Subscriber, sid: int) -> Sequence[tuple[Seat, Consumer]]:
        """One, or none when it has left or was not admitted."""
        found = self._seats.get((subscriber, sid))
        if found is None or found[1].core is None:
            return ()
        return ((found[0], found[1].core),)

    def _join(self, seat: Seat) -> None:
        consume = seat.consume
        ops = frozenset(consume.ops) if consume.ops else None
        wanted = Filter(tuple(consume.wants), ops)
        post = self._posts.get(consume.consumer)
        problem = self._problem(consume, post, wanted)
        if problem is not None:
            self._refuse(seat, problem)
            return
        if post is None:
            post = self._posts[consume.consumer] = Post(consume.consumer, wanted)
        self._seats[seat.subscriber, seat.sid] = (seat, post)
        if post.core is not None and post.is_held:
            self._admit(post.core, seat)
        else:
            post.waiting[seat] = None
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="consumers")

    def _problem(self, consume: messages.Consume, post: Post | None, wanted: Filter) -> NotServed | None:
        if not self._options.is_offered:
            text = "a relay of several workers has no consumers; run one with workers=1"
            return NotServed("no_consumers", text, may_retry=False)
        if self._is_draining:
            return GOING_AWAY
        for want in consume.wants:
            match self._desk.why_not(want):
                case None:
                    pass
                case NotReady(text):
                    return NotServed("not_ready", text)
                case Refusal(code, text):
                    return NotServed(code, text, may_retry=False)
        limit = self._options.consumers
        if post is None and len(self._posts) >= limit:
            return NotServed("too_many_consumers", f"{limit} consumers are in use, the limit; raise consumers_limit")
        if post is not None and post.filter != wanted:
            text = f"others take {consume.consumer!r} for other tables or operations; use another name, or end them"
            return NotServed("consumer_differs", text)
        return None

    def _admit(self, core: Consumer, seat: Seat) -> None:
        consume = seat.consume
        self._desk.tell(seat.subscriber, codec.encode(messages.Subok(id=consume.id, sid=seat.sid, s=0)))
        told = core.join(seat, consume.prefetch, now_s=self._now_s(), done=consume.done, held=consume.held)
        self._tell(told)

    def _refuse(self, seat: Seat, why: NotServed) -> None:
        self._seats.pop((seat.subscriber, seat.sid), None)
        after_ms = AGAIN_MS if why.may_retry else None
        error = messages.Err(
            id=seat.consume.id, code=why.code, message=why.text, retry=why.may_retry, after_ms=after_ms
        )
        self._desk.refuse(seat.subscriber, error)

    def _tell(self, told: Iterable[Told]) -> None:
        for one in told:
            seat = one.taker
            assert isinstance(seat, Seat), "takers are seats"
            match one:
                case Give(_, job, tries):
                    self._desk.tell(seat.subscriber, encode_job(job, sid=seat.sid, tries=tries))
                case TakeBack(_, ids):
                    self._desk.tell(seat.subscriber, codec.encode(messages.Taken(sid=seat.sid, ids=list(ids))))
                case _:
                    assert_never(one)

    # --- what the relay says

    def wake(self) -> None:
        """Rows of the journal were read."""
        if self._posts:
            self._has_news = True
            self._woken.set()

    def doubt(self, gap: Gap) -> None:
        """Events may be missing that were never journalled."""
        for post in self._posts.values():
            if post.core is not None and post.filter.may_want(gap):
                self._doubts += 1
                identity = f"{GAP_ID}{self._owner}:{self._doubts}"
                self._tell(post.core.gap(identity, gap, now_s=self._now_s()))

    def drain(self) -> None:
        """Give nothing more; what clients still say is stored."""
        self._is_draining = True
        for post in self._posts.values():
            if post.core is not None:
                post.core.pause()
            for seat in tuple(post.waiting):
                self._refuse(seat, GOING_AWAY)
            post.waiting.clear()
        self._woken.set()

    async def close(self) -> None:
        """Store what is to be stored, within a bounded time. The clients are gone by now."""
        self._is_draining = True
        self._woken.set()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=CLOSE_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # --- the task

    async def _run(self) -> None:
        pause_s = RETRY_MIN_S
        while self._posts:
            session: ConsumerSession | None = None
            try:
                session = await ConsumerSession.open(self._source, self._owner)
                pause_s = RETRY_MIN_S
                await self._serve(session)
                await session.close()
                continue  # somebody may have come meanwhile
            except NoJournal as problem:
                self._dismiss(NotServed("not_journalled", str(problem)))
            except Exception as error:
                # Broad on purpose, as the source: this task must not end while somebody waits for it.
                logger.warning("consumers session lost", error=repr(error))
            finally:
                if session is not None:
                    session.terminate()
                self._session_lost()
            if self._is_draining and not self._seats:
                return
            await asyncio.sleep(pause_s)
            pause_s = min(RETRY_MAX_S, 2 * pause_s)

    def _session_lost(self) -> None:
        for post in self._posts.values():
            self._give_up(post)

    def _dismiss(self, why: NotServed) -> None:
        for seat, _ in tuple(self._seats.values()):
            self._refuse(seat, why)
        self._posts.clear()

    async def _serve(self, session: ConsumerSession) -> None:
        while self._posts:
            self._woken.clear()
            if self._has_news:
                self._has_news = False
                for post in self._posts.values():
                    post.look_due_s = 0.0
            for post in tuple(self._posts.values()):
                await self._attend(session, post)
            due_s = min((self._due_s(post) for post in self._posts.values()), default=0.0)
            if not self._woken.is_set() and self._posts:
                timer = asyncio.get_running_loop().call_later(
                    min(LONGEST_S, max(0.0, due_s - self._now_s())), self._woken.set
                )
                try:
                    await self._woken.wait()
                finally:
                    timer.cancel()

    def _due_s(self, post: Post) -> float:
        core = post.core
        if core is None or not post.is_wanted:
            return 0.0
        look_s = post.look_due_s if core.has_room and not self._is_draining else float("inf")
        store_s = post.store_due_s if core.version != post.saved_version else post.idle_due_s
        return min(core.due_s, look_s, store_s)

    async def _attend(self, session: ConsumerSession, post: Post) -> None:
        """What is due for one consumer: its lock, its clocks, a store, a page."""
        if not post.is_held:
            if not post.is_wanted and post.core is None:
                del self._posts[post.name]
                return
            await self._take(session, post)
        core = post.core
        if core is None or not post.is_held:
            return
        self._tell(core.tick(self._now_s()))
        if self._must_store(post, core):
            await self._store(session, post, core)
        if not post.is_wanted:
            if not self._must_store(post, core):  # something more may have been said while the store lasted
                await self._release(session, post)
        elif core.has_room and self._now_s() >= post.look_due_s and not self._is_draining:
            await self._read(session, post, core)

    # --- lock and place

    async def _take(self, session: ConsumerSession, post: Post) -> None:
        try:
            found = await session.find(post.name)
        except Unusable as problem:
            self._send_away(post, NotServed("unusable_consumer", str(problem), may_retry=False))
            return
        if isinstance(found, Elsewhere):
            text = f"another relay gives the jobs of {post.name!r}; connect to that one"
            self._send_away(post, NotServed("consumer_elsewhere", text))
            return
        self._begin(post, found)

    def _begin(self, post: Post, found: Found) -> None:
        post.is_held = True
        post.look_due_s = 0.0
        post.idle_due_s = self._now_s() + IDLE_STORE_S
        if post.core is not None and found.owner != self._owner:
            # Somebody else has given its jobs meanwhile: what is known here is of the past.
            post.waiting.update(dict.fromkeys(self._forget(post)))
        if post.core is None:
            post.core = Consumer(self._options.limits, post.filter, found.saved, stats=self.stats)
            post.saved_version, post.saved_place = post.core.version, found.saved.place
        waiting, post.waiting = post.waiting, {}
        self._tell(post.core.resume(now_s=self._now_s()))
        for seat in waiting:
            self._admit(post.core, seat)

    def _forget(self, post: Post) -> list[Seat]:
        """Take back every job. Those who had them are to be admitted anew."""
        assert post.core is not None, "there is something to forget"
        seats: list[Seat] = []
        for seat in tuple(post.core.takers):
            assert isinstance(seat, Seat), "takers are seats"
            ids = post.core.ids_of(seat)
            if ids:
                self._tell([TakeBack(seat, ids)])
            seats.append(seat)
        post.core = None
        return seats

    def _send_away(self, post: Post, why: NotServed) -> None:
        seats = [seat for seat, its_post in self._seats.values() if its_post is post]
        for seat in seats:
            self._refuse(seat, why)
        self._posts.pop(post.name, None)

    async def _release(self, session: ConsumerSession, post: Post) -> None:
        self._give_up(post)
        await session.release(post.name)
        if not post.is_wanted:  # nobody came while it was waited for
            self._posts.pop(post.name, None)

    @staticmethod
    def _give_up(post: Post) -> None:
        """Give nothing more until the lock is held again."""
        post.is_held = False
        if post.core is not None:
            post.core.pause()

    # --- store

    def _must_store(self, post: Post, core: Consumer) -> bool:
        is_changed = core.version != post.saved_version
        is_due = core.has_letters or not post.is_wanted or self._now_s() >= post.store_due_s
        is_idle_due = core.place != post.saved_place and (not post.is_wanted or self._now_s() >= post.idle_due_s)
        return (is_changed and is_due) or is_idle_due

    async def _store(self, session: ConsumerSession, post: Post, core: Consumer) -> None:
        version, saved = core.version, core.to_save()
        letters = {letter.id: json.dumps(content(letter.change)[1]) for letter in saved.letters}
        if not await session.save(post.name, saved, letters):
            logger.warning("consumer deleted, it begins anew", consumer=post.name)
            self._give_up(post)
            post.waiting.update(dict.fromkeys(self._forget(post)))
            self._woken.set()
            await session.release(post.name)
            return
        self._note(post, saved)
        now_s = self._now_s()
        post.saved_version, post.saved_place = version, saved.place
        post.store_due_s, post.idle_due_s = now_s + STORE_S, now_s + IDLE_STORE_S
        self._tell(core.saved(saved, now_s=now_s))

    def _note(self, post: Post, saved: Saved) -> None:
        for letter in saved.letters:
            facts = {"id": letter.id, "tries": letter.tries, "reason": letter.reason[:200]}
            logger.error("consumer dead letter", consumer=post.name, **facts)

    # --- read

    async def _read(self, session: ConsumerSession, post: Post, core: Consumer) -> None:
        post.look_due_s = self._now_s() + LOOK_S  # before the look: the next word may come while it lasts
        page = await session.read(post.name, core.reading, post.filter)
        now_s = self._now_s()
        if isinstance(page, Page):
            self._tell(core.offer(page, now_s=now_s))
        else:
            self._tell(core.gap(*self._missed(post, core, page), now_s=now_s, end=page.end))
        if core.has_more:
            post.look_due_s = 0.0
            self._woken.set()

    def _missed(self, post: Post, core: Consumer, missed: Missed) -> tuple[str, Gap]:
        logger.warning("consumer gap", consumer=post.name, detail=missed.gap.detail)
        snapshot = Snapshot.parse(core.reading.snapshot)
        # By where it stood, so that the same gap has the same id after another start.
        identity = f"{GAP_ID}{core.reading.epoch or 'none'}:{snapshot.xmax if snapshot is not None else 0}"
        return identity, Gap(missed.gap.scope, missed.gap.reason, missed.gap.detail, since=missed.since)


def _lag_s(core: Consumer, now: datetime.datetime) -> float:
    """Of the oldest event that no taker has acknowledged."""
    oldest = core.oldest.change if core.oldest is not None else None
    return round(max(0.0, (now - oldest.sent_at).total_seconds()), 3) if isinstance(oldest, Event) else 0.0
