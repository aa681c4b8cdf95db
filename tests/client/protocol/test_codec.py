"""Frames to messages and back: what is refused, what is skipped, what survives."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgcachewatch.errors import PGCacheWatchError, ProtocolError
from pgcachewatch.protocol import codec, messages

EPOCH = "00000000000000aa"

FROM_CLIENT: list[messages.Message] = [
    messages.Hello(),
    messages.Hello(token="t", name="n", resume=messages.Resume(e=EPOCH, s=5), subs=[messages.Sub(id=1, table="users")]),
    messages.Sub(id=2, channel="c", table="t", schema_name="s", ops=["i", "u"], keys=["5"], mode="stream"),
    messages.Unsub(id=2),
    messages.Barrier(id=3),
    messages.Ping(id=4),
    messages.Auth(token="x"),
    messages.Ack(s=9),
]
FROM_RELAY: list[messages.Message] = [
    messages.Welcome(e=EPOCH, s=1, resumed=True, now=1.5, hb_ms=500, node="n"),
    messages.Subok(id=1, sid=1, s=1),
    messages.Ev(p=1, s=2, i=[[1, "u", "5"], [0, "*", None]]),
    messages.Mark(p=2, s=3, as_of=7.25),
    messages.Mark(p=2, s=3),
    messages.Stale(since=1.0, reason="connection lost"),
    messages.Reset(e=EPOCH, s=0),
    messages.Reset(e=EPOCH, s=0, scope=messages.ResetScope(channel="c", table="t", schema_name="s")),
    messages.Barrierok(id=3, s=3),
    messages.Pong(id=4, now=9.0),
    messages.Authok(),
    messages.Authok(token_ms=5.0),
    messages.Err(id=1, code="x", message="y", retry=True, after_ms=10),
    messages.Bye(code=4000, after_ms=1, jitter_ms=2),
]


EV_FIELDS = st.fixed_dictionaries(
    {
        "t": st.just("ev") | st.sampled_from(["mark", 5]),
        "p": st.integers(-1, 5) | st.sampled_from([2**53 - 1, 2**53, 2**70, True, 1.0, 1.5, None, "1"]),
        "s": st.integers(-1, 5) | st.sampled_from([2**53 - 1, 2**53, 2**70, False, 2.0, None, "1"]),
        "i": st.lists(
            st.lists(
                st.integers()
                | st.none()
                | st.text()
                | st.floats()
                | st.dictionaries(st.text(), st.integers(), max_size=2)
            )
            | st.sampled_from([None, 1, {}]),
            max_size=3,
        )
        | st.sampled_from([None, {}, "[]"]),
    },
    optional={"new": st.integers()},
)


@given(st.lists(EV_FIELDS, max_size=3) | EV_FIELDS, st.booleans())
def test_events_that_are_read_without_a_model_say_what_their_models_say(content: object, is_ascii: bool) -> None:
    frame = json.dumps(content, separators=(",", ":"), ensure_ascii=is_ascii)

    evs = codec.decode_evs(frame)

    if evs is not None:
        read = codec.decode_relay(frame)
        assert repr([messages.Ev(p=p, s=s, i=i) for p, s, i in evs]) == repr(list(read))  # NaN is not itself


@pytest.mark.parametrize("count", [1, 3])
@given(
    items=st.lists(st.tuples(st.integers(0, 9), st.sampled_from("iudt*"), st.none() | st.text(max_size=5)), max_size=3)
)
def test_what_the_relay_writes_is_read_without_a_model(count: int, items: list[codec.Item]) -> None:
    texts = [codec.encode_ev(seq, seq + 1, items) for seq in range(count)]

    evs = codec.decode_evs(texts[0] if count == 1 else f"[{','.join(texts)}]")

    assert evs == [(seq, seq + 1, [list(item) for item in items]) for seq in range(count)]


@pytest.mark.parametrize(
    "frame",
    [
        "",
        '{"t":"mark","p":1,"s":2}',
        '[{"t":"ev","p":1,"s":2,"i":[]},{"t":"mark","p":2,"s":2}]',
        '{"t":"ev","p":1,"s":2,"i":[]',
        '{"t":"ev","p":1,"s":2,"i":[]}{}',
        '{"t":"ev","p":1,"s":9007199254740992,"i":[]}',
        '{"t":"ev","p":true,"s":2,"i":[]}',
        '{"t":"ev","p":0,"s":true,"i":[]}',
        '{"t":"ev","p":1.0,"s":2,"i":[]}',
        '{"t":"ev","p":-1,"s":2,"i":[]}',
        '{"t":"ev","p":1,"s":2,"i":{}}',
        '{"t":"ev","p":1,"s":2,"i":[5]}',
        '{"t":"ev","p":1,"s":2}',
        '{"t":"ev","t":"mark","p":1,"s":2,"i":[]}',
        '{"t":"ev","p":1,"s":2,"i":[[1,"u","\\ud800"]]}',
    ],
)
def test_what_is_not_plainly_an_event_is_left_to_the_models(frame: str) -> None:
    assert codec.decode_evs(frame) is None


@pytest.mark.parametrize("message", FROM_CLIENT, ids=lambda message: message.t)
def test_each_client_message_survives_the_wire(message: messages.Message) -> None:
    assert list(codec.decode_client(codec.encode(message))) == [message]


@pytest.mark.parametrize("message", FROM_RELAY, ids=lambda message: message.t)
def test_each_relay_message_survives_the_wire(message: messages.Message) -> None:
    assert list(codec.decode_relay(codec.encode(message))) == [message]


@pytest.mark.rule("W-FRAME-1")
def test_an_array_means_its_messages_in_order() -> None:
    frame = f"[{codec.encode(messages.Ping(id=1))},{codec.encode(messages.Ping(id=2))}]"
    assert list(codec.decode_client(frame)) == [messages.Ping(id=1), messages.Ping(id=2)]


@pytest.mark.rule("W-FRAME-1")
@pytest.mark.parametrize("frame", ["", "{", "nonsense", "[" * 100_000, "9" * 10_000, '"text'])
def test_what_is_not_json_names_the_rule(frame: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        codec.decode_client(frame)
    assert caught.value.rule == "W-FRAME-1"


@pytest.mark.rule("W-FRAME-2")
@pytest.mark.parametrize("frame", ["1", "null", "[1]", "{}", '{"t":7}', "[[]]"])
def test_what_is_not_a_typed_object_names_the_rule(frame: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        codec.decode_relay(frame)
    assert caught.value.rule == "W-FRAME-2"


@pytest.mark.rule("W-FRAME-3")
@pytest.mark.parametrize(
    "frame",
    [
        '{"t":"ping"}',
        '{"t":"ping","id":"7"}',
        '{"t":"ping","id":-1}',
        '{"t":"ping","id":1.5}',
        '{"t":"ping","id":9007199254740993}',
        '{"t":"hello","v":2}',
        '{"t":"hello","v":1,"resume":{"e":"zz","s":1}}',
        '{"t":"sub","id":1,"mode":"push"}',
        '{"t":"sub","id":1,"ops":["x"]}',
        '{"t":"sub","id":1,"ops":[]}',
        '{"t":"sub","id":1,"channel":""}',
    ],
)
def test_a_malformed_message_names_the_field_and_the_rule(frame: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        codec.decode_client(frame)
    assert caught.value.rule == "W-FRAME-3"
    assert caught.value.close_code == 4300


@pytest.mark.rule("W-LIMIT-4")
def test_a_key_may_have_the_limit_and_not_a_byte_more() -> None:
    def frame(size: int) -> str:
        return json.dumps({"t": "sub", "id": 1, "keys": ["k" * size]})

    assert len(codec.decode_client(frame(messages.KEY_BYTES))) == 1
    with pytest.raises(ProtocolError, match="1024"):
        codec.decode_client(frame(messages.KEY_BYTES + 1))


@pytest.mark.rule("W-FORWARD-1")
def test_unknown_fields_are_ignored() -> None:
    assert list(codec.decode_client('{"t":"ping","id":7,"color":"blue"}')) == [messages.Ping(id=7)]


@pytest.mark.rule("W-FORWARD-2")
def test_an_unknown_type_does_not_spoil_its_frame() -> None:
    frame = '[{"t":"ping","id":1},{"t":"dance","id":5},{"t":"ping","id":2}]'
    assert list(codec.decode_client(frame)) == [
        messages.Ping(id=1),
        codec.Unknown("dance", 5),
        messages.Ping(id=2),
    ]


def test_the_relay_encodes_events_and_marks_as_the_models_would() -> None:
    items: list[codec.Item] = [(1, "u", 'k"\\ü\u2028'), (0, "*", None), (2, "i", None, {"table": "t"})]
    (ev,) = codec.decode_relay(codec.encode_ev(3, 4, items))
    assert ev == messages.Ev(p=3, s=4, i=[list(item) for item in items])
    assert list(codec.decode_relay(codec.encode_mark(4, 5, 1200.0))) == [messages.Mark(p=4, s=5, as_of=1200.0)]
    assert list(codec.decode_relay(codec.encode_mark(4, 5, None))) == [messages.Mark(p=4, s=5)]
    stamped = messages.Mark(p=4, s=5, as_of=1.5, x="10:20:10,14")
    assert list(codec.decode_relay(codec.encode_mark(4, 5, 1.5, "10:20:10,14"))) == [stamped]


def test_a_close_reason_fits_a_close_frame_and_is_not_cut_inside_a_character() -> None:
    assert codec.shorten("ü" * 200) == "ü" * (codec.REASON_BYTES // 2)
    assert codec.shorten("a" + "ü" * 200) == "a" + "ü" * (codec.REASON_BYTES // 2 - 1)
    assert codec.shorten("\ud800") == "?"


@pytest.mark.parametrize("identity", ["-1", "9007199254740992", "1e3", '"1"', "true", "[1]"])
def test_an_unknown_message_with_an_id_that_is_none_has_no_id(identity: str) -> None:
    assert list(codec.decode_client(f'{{"t":"dance","id":{identity}}}')) == [codec.Unknown("dance", None)]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
types = st.sampled_from([message.t for message in FROM_CLIENT + FROM_RELAY])  # type: ignore[attr-defined]  # each has a t


@given(st.text(max_size=50) | json_values.map(json.dumps))
def test_any_text_is_read_or_refused_with_an_error_of_our_tree(frame: str) -> None:
    for decode in (codec.decode_client, codec.decode_relay):
        try:
            decode(frame)
        except PGCacheWatchError:
            pass


@given(types, st.dictionaries(st.sampled_from(["id", "p", "s", "e", "i", "subs", "v", "resume"]), json_values))
def test_any_object_of_a_known_type_is_read_or_refused(kind: str, fields: dict[str, object]) -> None:
    for decode in (codec.decode_client, codec.decode_relay):
        try:
            decode(json.dumps({"t": kind, **fields}))
        except PGCacheWatchError:
            pass


@pytest.mark.parametrize(
    "frame", ['{"t":"hello","token":"s3cret"', '"token s3cret"', '[{"token":"s3cret"}]', "{'token': 's3cret'"]
)
def test_a_frame_that_may_hold_a_token_is_not_quoted(frame: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        codec.decode_client(frame)
    assert "s3cret" not in str(caught.value)
