"""Each message of PROTOCOL.md as a validated model, for both directions.

The field names are the wire's own, short ones: `t` type, `e` epoch, `s` seq, `p` previous seq, `i` items. Unknown
fields are ignored, so that a newer peer can add some (rule W-FORWARD-1). Types are strict: a number in quotes is a
malformed message, not a number. Limits that belong to one message stand here, beside its field; limits of a
connection live in the sessions.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic

SUBPROTOCOL = "pgcachewatch.v1"
PATH = "/v1/ws"
PLAIN_PATH_PREFIX = "/pgpubsub/"
PROTOCOL_HEADER = "PGCacheWatch-Protocol"  # of the plain path's handshake: what is spoken at PATH

CLIENT_FRAME_BYTES = 65_536
RELAY_FRAME_BYTES = 1_048_576
HELLO_TIMEOUT_S = 10.0
SUBSCRIPTIONS_PER_CONNECTION = 1_000
CHANNELS_PER_CONNECTION = 100  # unless a relay is told otherwise
KEY_BYTES = 1_024
KEYS_PER_SUBSCRIPTION = 1_000
COLUMNS_PER_SUBSCRIPTION = 32  # PostgreSQL's own limit of an index: no key has more
COLUMN_LENGTH = 200
CHANNEL_BYTES = 63  # NAMEDATALEN - 1: PostgreSQL refuses longer channel names
NAME_LENGTH = 200
TOKEN_LENGTH = 16_384
TOKEN_CHANNEL = "pgcachewatch_token"  # a token of a barrier is notified here, inside the transaction it stands for
SNAPSHOT_LENGTH = 2_000  # of a mark: about a hundred transactions that run; above, the relay widens it
CONSUMER_LENGTH = 200
WANTS_PER_CONSUMER = 100
JOBS_PER_TAKER = 100  # that a client has at one time
JOB_LENGTH = 80
DONE_REPEATED = 2 * JOBS_PER_TAKER  # ids that a client that comes back repeats
REASON_LENGTH = 1_000
SEQ_MAX = 2**53 - 1  # the largest integer every JSON reader keeps exact

Operation = Literal["i", "u", "d", "t"]
OpCode = Operation | Literal["*"]
OP_CODES: dict[str, Operation] = {"insert": "i", "update": "u", "delete": "d", "truncate": "t"}
OPERATION_OF: dict[str, str] = {code: operation for operation, code in OP_CODES.items()}
Mode = Literal["invalidate", "stream"]


def _fits_key(value: str) -> str:
    if len(value.encode()) > KEY_BYTES:
        raise ValueError(f"key text is {len(value.encode())} bytes, the limit is {KEY_BYTES}")
    return value


def _fits_channel(value: str) -> str:
    if not value or "\0" in value or len(value.encode()) > CHANNEL_BYTES:
        raise ValueError(f"channel name must have 1 to {CHANNEL_BYTES} bytes and no NUL, not {value[:80]!r}")
    return value


Seq = Annotated[int, pydantic.Field(ge=0, le=SEQ_MAX)]
RequestId = Annotated[int, pydantic.Field(ge=0, le=SEQ_MAX)]
Epoch = Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{16}$")]
Key = Annotated[str, pydantic.AfterValidator(_fits_key)]
Channel = Annotated[str, pydantic.AfterValidator(_fits_channel)]
Column = Annotated[str, pydantic.Field(min_length=1, max_length=COLUMN_LENGTH)]
BarrierToken = Annotated[str, pydantic.Field(pattern=r"^[0-9a-f]{32}$")]
SnapshotText = Annotated[
    str, pydantic.Field(max_length=SNAPSHOT_LENGTH, pattern=r"^[0-9]{1,20}:[0-9]{1,20}:([0-9]{1,20}(,[0-9]{1,20})*)?$")
]
JobId = Annotated[str, pydantic.Field(min_length=1, max_length=JOB_LENGTH, pattern=r"^[0-9A-Za-z:._-]+$")]
ConsumerName = Annotated[str, pydantic.Field(min_length=1, max_length=CONSUMER_LENGTH, pattern=r"^[^\x00]+$")]
Milliseconds = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]


class Message(pydantic.BaseModel):
    """Common ground of every message: immutable, strict, tolerant of fields it does not know."""

    model_config = pydantic.ConfigDict(frozen=True, strict=True, extra="ignore")


# --- client to relay


class Resume(Message):
    """Where the client was: the relay replays what came after, or says that it can not.

    `j`: the place in the journal that the last mark with one showed (W-JOURNAL-2).
    """

    e: Epoch
    s: Seq
    j: SnapshotText | None = None


class Sub(Message):
    """One wish. None widens: no table, the whole channel; no ops, each operation; no keys, each row.

    `columns` says by which columns the subscriber tells rows apart: the keys it is sent are texts of these, in this
    order (W-ROW-1). Empty: it does not tell them apart, and is sent one item an event. None: the trigger's own keys.
    `stamps`: items tell their transaction, marks what was committed (W-STAMP-1).
    """

    t: Literal["sub"] = "sub"
    id: RequestId
    channel: Channel | None = None
    table: Annotated[str, pydantic.Field(min_length=1, max_length=200)] | None = None
    schema_name: str | None = pydantic.Field(default=None, alias="schema", min_length=1, max_length=200)
    ops: Annotated[list[Literal["i", "u", "d", "t"]], pydantic.Field(min_length=1, max_length=4)] | None = None
    keys: Annotated[list[Key], pydantic.Field(min_length=1, max_length=KEYS_PER_SUBSCRIPTION)] | None = None
    columns: Annotated[list[Column], pydantic.Field(max_length=COLUMNS_PER_SUBSCRIPTION)] | None = None
    mode: Mode = "invalidate"
    stamps: Literal[True] | None = None

    model_config = pydantic.ConfigDict(frozen=True, strict=True, extra="ignore", populate_by_name=True)


class Hello(Message):
    """First message of a connection, within 10 s; carries resume and all subscriptions: one round trip."""

    t: Literal["hello"] = "hello"
    v: Literal[1] = 1
    caps: Annotated[list[str], pydantic.Field(max_length=32)] = []
    token: Annotated[str, pydantic.Field(max_length=TOKEN_LENGTH)] | None = pydantic.Field(default=None, repr=False)
    name: Annotated[str, pydantic.Field(max_length=NAME_LENGTH)] | None = None
    resume: Resume | None = None
    # The count of subscriptions is a limit of the connection: the session checks it and names it (W-LIMIT-3).
    subs: list[Sub] = []


class Unsub(Message):
    t: Literal["unsub"] = "unsub"
    id: RequestId


class Barrier(Message):
    """With a `token`: answer when the transaction that notified it was sent, however long it takes to commit."""

    t: Literal["barrier"] = "barrier"
    id: RequestId
    token: BarrierToken | None = None


class Ping(Message):
    t: Literal["ping"] = "ping"
    id: RequestId


class Auth(Message):
    t: Literal["auth"] = "auth"
    token: Annotated[str, pydantic.Field(max_length=TOKEN_LENGTH, repr=False)]


class Ack(Message):
    t: Literal["ack"] = "ack"
    s: Seq


class Want(Message):
    """What a consumer is for. Each None widens, as in Sub."""

    channel: Channel | None = None
    table: Annotated[str, pydantic.Field(min_length=1, max_length=200)] | None = None
    schema_name: str | None = pydantic.Field(default=None, alias="schema", min_length=1, max_length=200)
    model_config = pydantic.ConfigDict(frozen=True, strict=True, extra="ignore", populate_by_name=True)


class Consume(Message):
    """Take part in a durable consumer, with up to `prefetch` jobs at one time (W-CONSUMER-1).

    `done` and `held` are of the connection before this one (W-CONSUMER-7).
    """

    t: Literal["consume"] = "consume"
    id: RequestId
    consumer: ConsumerName
    wants: Annotated[list[Want], pydantic.Field(min_length=1, max_length=WANTS_PER_CONSUMER)]
    ops: Annotated[list[Literal["i", "u", "d", "t"]], pydantic.Field(min_length=1, max_length=4)] | None = None
    prefetch: Annotated[int, pydantic.Field(ge=1, le=JOBS_PER_TAKER)] = 1
    done: Annotated[list[JobId], pydantic.Field(max_length=DONE_REPEATED)] = []
    held: JobId | None = None


class Done(Message):
    """These jobs were handled. Without any: more may be given."""

    t: Literal["done"] = "done"
    sid: Annotated[int, pydantic.Field(ge=1)]
    ids: Annotated[list[JobId], pydantic.Field(max_length=JOBS_PER_TAKER)]


class Failed(Message):
    """These were not, and may be given to anybody. `reason` is for people."""

    t: Literal["failed"] = "failed"
    sid: Annotated[int, pydantic.Field(ge=1)]
    ids: Annotated[list[JobId], pydantic.Field(max_length=JOBS_PER_TAKER)]
    reason: Annotated[str, pydantic.Field(max_length=REASON_LENGTH)] = ""


# --- relay to client


class Welcome(Message):
    """Answer to hello. `resumed` False: flush everything before use. `now` is the relay's monotonic clock, in ms."""

    t: Literal["welcome"] = "welcome"
    e: Epoch
    s: Seq
    resumed: bool
    now: Milliseconds
    hb_ms: Milliseconds
    node: str
    caps: list[str] = []
    max_frame: int = RELAY_FRAME_BYTES


class Subok(Message):
    """The subscription `id` is live from `s`; `sid` is the small integer its events carry.

    `types` has the base type of each of the subscription's `columns`, in their order (W-ROW-2). `notice` is for people:
    what is odd about the wish, such as a table that does not exist.
    """

    t: Literal["subok"] = "subok"
    id: RequestId
    sid: Annotated[int, pydantic.Field(ge=1)]
    s: Seq
    types: list[str] | None = None
    notice: str | None = None


class Ev(Message):
    """Changes: `p` the previous position sent on this connection, `s` the new one.

    An item is `[sid, op, key]`, in stream mode and with stamps `[sid, op, key, detail]`. Key null: all the subscription
    covers; sid 0 with key null: everything.
    """

    t: Literal["ev"] = "ev"
    p: Seq
    s: Seq
    i: list[list[Any]]  # items grow by fields at the end (W-FORWARD-1); the session reads and checks each one


class Mark(Message):
    """Heartbeat. Each commit that returned before the relay's monotonic instant `as_of` (ms) lies at or before `s`.

    `as_of` null: nothing is proven, the message only advances the position. `x`: a snapshot of the primary that was
    taken at or after `as_of` (W-STAMP-2). `j`: the journal was read up to this one (W-JOURNAL-1).
    """

    t: Literal["mark"] = "mark"
    p: Seq
    s: Seq
    as_of: Milliseconds | None = None
    x: SnapshotText | None = None
    j: SnapshotText | None = None


class Stale(Message):
    """The relay lost PostgreSQL: no mark will come until `reset` or a mark says otherwise. `since`: relay ms."""

    t: Literal["stale"] = "stale"
    since: Milliseconds
    reason: str


class ResetScope(Message):
    """What a reset flushes; each None widens, as in Scope."""

    channel: str | None = None
    table: str | None = None
    schema_name: str | None = pydantic.Field(default=None, alias="schema")
    model_config = pydantic.ConfigDict(frozen=True, strict=True, extra="ignore", populate_by_name=True)


class Reset(Message):
    """Flush `scope` (None: everything) and go on from (e, s)."""

    t: Literal["reset"] = "reset"
    e: Epoch
    s: Seq
    scope: ResetScope | None = None


class Barrierok(Message):
    t: Literal["barrierok"] = "barrierok"
    id: RequestId
    s: Seq


class Pong(Message):
    t: Literal["pong"] = "pong"
    id: RequestId
    now: Milliseconds


class Authok(Message):
    """The token is good. `token_ms`: how long yet; None: it does not end by itself."""

    t: Literal["authok"] = "authok"
    token_ms: Milliseconds | None = None


class Err(Message):
    """A refusal that leaves the connection open. `code` is a word of PROTOCOL.md, `retry` whether it can help."""

    t: Literal["err"] = "err"
    id: RequestId | None = None
    code: str
    message: str
    retry: bool = False
    after_ms: Milliseconds | None = None


class Bye(Message):
    """A planned close follows: reconnect after `after_ms` plus a random part of `jitter_ms`."""

    t: Literal["bye"] = "bye"
    code: int
    after_ms: Milliseconds = 0
    jitter_ms: Milliseconds = 0


class Job(Message):
    """An event of a consumer, or with `op` `*` a gap, to be acknowledged. `tries` counts this one."""

    t: Literal["job"] = "job"
    sid: Annotated[int, pydantic.Field(ge=1)]
    id: JobId
    tries: Annotated[int, pydantic.Field(ge=1)]
    op: OpCode
    detail: dict[str, Any]  # the event's own content, read where it is used


class Taken(Message):
    """These jobs are not this client's any more."""

    t: Literal["taken"] = "taken"
    sid: Annotated[int, pydantic.Field(ge=1)]
    ids: list[JobId]


ClientMessage = Hello | Sub | Unsub | Barrier | Ping | Auth | Ack | Consume | Done | Failed
RelayMessage = Welcome | Subok | Ev | Mark | Stale | Reset | Barrierok | Pong | Authok | Err | Bye | Job | Taken
