"""The client's end of consumers, against what a relay may say."""

from __future__ import annotations

import json

import pytest

from pgcachewatch.protocol import messages
from pgcachewatch.protocol.client_session import ClientSession
from pgcachewatch.protocol.client_takers import Admitted, JobGiven, JobsTaken

WELCOME = '{"t":"welcome","e":"00000000000000aa","s":7,"resumed":false,"now":1.0,"hb_ms":500,"node":"n"}'
SUBOK = '{"t":"subok","id":5,"sid":1,"s":0}'
JOB = '{"t":"job","sid":1,"id":"7:1","tries":1,"op":"i","detail":{"table":"t"}}'
TAKEN = '{"t":"taken","sid":1,"ids":["7:1"]}'


def opened() -> ClientSession:
    session = ClientSession(subscriptions=[])
    session.receive(WELCOME)
    session.takers.consume(messages.Consume(id=5, consumer="c", wants=[messages.Want(table="t")]))
    return session


@pytest.mark.rule("W-CONSUMER-1")
def test_an_admission_and_the_jobs_behind_it_are_told_by_the_callers_own_id() -> None:
    session = opened()
    assert session.receive(SUBOK) == [Admitted(5)]
    (given,) = session.receive(JOB)
    assert isinstance(given, JobGiven)
    assert (given.id, given.job.id, given.job.detail) == (5, "7:1", {"table": "t"})
    assert session.receive(TAKEN) == [JobsTaken(5, ("7:1",))]
    assert session.is_granted


def test_words_before_the_admission_are_left_to_the_next_connection() -> None:
    session = opened()
    assert session.takers.done(5, ["7:1"]) is None
    assert session.takers.failed(5, ["7:1"], "no") is None
    session.receive(SUBOK)
    assert json.loads(session.takers.done(5, ["7:1"]) or "") == {"t": "done", "sid": 1, "ids": ["7:1"]}
    assert json.loads(session.takers.failed(5, ["7:1"], "no") or "")["reason"] == "no"


def test_jobs_of_a_consumer_that_was_left_or_refused_are_skipped() -> None:
    session = opened()
    session.receive(SUBOK)
    assert json.loads(session.takers.leave(5)) == {"t": "unsub", "id": 5}
    assert session.receive(JOB) == []

    session = opened()
    session.receive('{"t":"err","id":5,"code":"consumer_elsewhere","message":"m","retry":true}')
    assert session.receive(JOB) == []
