"""The hub against reference clients, under everything at once: random histories of all that can happen to it."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from pgcachewatch.models import Gap, Scope
from pgcachewatch.protocol import messages
from pgcachewatch_daemon.core.history import HistoryLimits
from pgcachewatch_daemon.core.outbox import OutboxLimits
from tests.daemon.core.test_hub import CHANNELS, KEYS, TABLES, Client, event, make_hub, publish


class HubMachine(RuleBasedStateMachine):
    """Random histories. Each client's cache holds what it filled; the truth is what changed since."""

    clients = Bundle("clients")

    @initialize()
    def start(self) -> None:
        limits = OutboxLimits(bytes=600, keys=3)
        self.hub = make_hub(outbox=limits, history=HistoryLimits(events=6), frame=lambda text: f"{text}\n".encode())
        self.all: list[Client] = []
        self.is_live = True
        self.barriers = 0

    @rule(
        target=clients,
        table=st.sampled_from([None, *TABLES]),
        channel=st.sampled_from(CHANNELS),
        both=st.booleans(),
        columns=st.sampled_from([None, ["id"], []]),
    )
    def join(self, table: str | None, channel: str, columns: list[str] | None, *, both: bool) -> Client:
        subs = [messages.Sub(id=1, channel=channel, table=table, columns=columns)]
        if both:
            subs.append(messages.Sub(id=2, channel="c1", table="users", keys=["1"]))
        client = Client(self.hub, subs)
        client.connect()
        self.all.append(client)
        return client

    @rule(client=clients)
    def reconnect(self, client: Client) -> None:
        self.hub.leave(client.subscriber)
        client.connect(client.client.cursor)

    @rule(client=clients)
    def add_subscription(self, client: Client) -> None:
        if all(sub.id != 3 for sub in client.subs):
            client.subs.append(messages.Sub(id=3, channel="c2", table="orders"))
            client.ask(client.client.subscribe(client.subs[-1]))

    @rule(client=clients)
    def end_subscription(self, client: Client) -> None:
        if any(sub.id == 3 for sub in client.subs):
            client.subs = [sub for sub in client.subs if sub.id != 3]
            client.ask(client.client.unsubscribe(3))
            client.cached = {entry for entry in client.cached if entry[0] != 3}

    @rule(client=clients)
    def fill(self, client: Client) -> None:
        """The client is up to date, and caches every key it depends on."""
        self.check(client)
        granted = {sub.id for sub in client.subs} if client.client.is_granted else set()
        client.cached = {
            (sub.id, key) for sub in client.subs if sub.id in granted for key in KEYS if not sub.keys or key in sub.keys
        }

    @rule(
        channel=st.sampled_from(CHANNELS),
        table=st.sampled_from(TABLES),
        keys=st.lists(st.sampled_from(KEYS), unique=True, max_size=2),
        key=st.sampled_from([None, ("id",), ("other",)]),
        times=st.integers(1, 5),
    )
    def change(self, channel: str, table: str, keys: list[str], key: tuple[str, ...] | None, times: int) -> None:
        for _ in range(times):
            publish(self.hub, event(channel, table, *keys).model_copy(update={"key": key}))
        self.forget(channel, table, keys, key)

    @rule(channel=st.sampled_from(CHANNELS))
    def unreadable(self, channel: str) -> None:
        publish(self.hub, Gap(Scope(channel), "unreadable"))
        self.forget(channel, None, [])

    def forget(self, channel: str, table: str | None, keys: list[str], key: tuple[str, ...] | None = None) -> None:
        """What must be gone from each cache once the client has read everything."""
        for client in self.all:
            due = {
                (sub.id, each)
                for sub in client.subs
                if sub.channel == channel and (table is None or sub.table in (None, table))
                for each in (keys if sub.columns is None or tuple(sub.columns) == key else ()) or KEYS
            }
            client.__dict__.setdefault("due", set()).update(due & client.cached)

    @rule()
    def mark(self) -> None:
        if self.is_live:
            self.hub.mark(1.0)

    @rule(client=clients)
    def read(self, client: Client) -> None:
        self.check(client)

    @rule(writes=st.integers(1, 3), is_full=st.booleans())
    def write_slice(self, writes: int, *, is_full: bool) -> None:
        """To some who are in step; their sockets may be full then."""
        share = self.hub.take_share(writes=writes, size_bytes=1_000)
        if share is not None:
            for subscriber in share.members:
                assert subscriber.write(share.data) == len(share.data)
                if is_full:
                    self.hub.filled(subscriber)

    @rule(client=clients)
    def barrier(self, client: Client) -> None:
        self.barriers += 1
        self.hub.barrier_passed(client.subscriber, self.barriers)

    @rule()
    def lose_source(self) -> None:
        self.hub.source_lost("lost", now_ms=1.0)
        self.is_live = False

    @rule()
    def restore_source(self) -> None:
        if not self.is_live:
            self.hub.source_restored("lost")
            self.is_live = True

    def check(self, client: Client) -> None:
        client.read()
        assert client.closed is None, client.closed
        assert client.subscriber.close is None
        assert client.client.cursor is not None
        due = client.__dict__.pop("due", set())
        assert not due & client.cached, f"not dropped: {due & client.cached}"

    @invariant()
    def outboxes_are_bounded(self) -> None:
        for client in getattr(self, "all", []):
            outbox = client.subscriber.outbox
            assert outbox is None or outbox.size_bytes < 2_000

    def teardown(self) -> None:
        for client in getattr(self, "all", []):
            self.check(client)


TestHubMachine = HubMachine.TestCase
TestHubMachine.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
