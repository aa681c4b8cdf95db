"""What the trigger functions do in journal mode: one row of the journal per statement, and nobody waits for a lock.

A row says which table (its OID, so that a rename is of no concern), which operation and which keys, NULL for any row of
the table; what the keys are made of is said by the number of a shape. Statements that changed nothing write nothing.

Fails closed: a write that can not be recorded fails, because its event would be lost. What can be foreseen, a journal
that is missing or forbidden, is refused with a text of ours; a full disk speaks for itself. Catching that too would
take a subtransaction with a transaction id of its own around each row, and more than 64 of them in one transaction make
every snapshot of the server slower. Only a function that fails open pays for that: it tells of the lost row by NOTIFY.

Wake-up. While a relay is awake it holds JOURNAL_LOCK, and then writers notify nothing and take no commit lock. A writer
that finds it free tells the relay to wake up. It looks behind its row, so a relay that gave the lock up and then waits
for all transactions of before has that row or will be told. It looks and lets go in one expression: a lock kept until
the end of a long transaction would keep the relay from taking it all that time, and writers notifying.
"""

# ruff: noqa: S608 - building SQL is the purpose here; what is put in is a number or a constant

from __future__ import annotations

from pgcachewatch_daemon.sql.capture import IS_TRACED, RELATIVES, TRACEPARENT, Capture, Operation, collect

SCHEMA = "pgcachewatch"
JOURNAL_CHANNEL = "pgcachewatch_journal"
# The first is the one of 'pgcachewatch': the first four bytes of its SHA-256. Locks are each database's own.
JOURNAL_LOCK = (640_152_935, 1)  # held by the relay that is awake
PRUNE_LOCK = (JOURNAL_LOCK[0], 2)  # held by the relay that prunes, to the end of its transaction
RELAY_AWAKE = "awake"  # what the relay notifies that has taken JOURNAL_LOCK
RESET = "reset "  # begins the notification of a function that fails open
UNWRITABLE = "55000"  # object_not_in_prerequisite_state

# SQLSTATE of what went wrong, the trace context of a writer that has set one, or both with a space between. It has no
# column of its own: a journal that an older release made would lack it, and take no writes until it is repaired.
_NOTE = f"CASE WHEN {IS_TRACED}\n      THEN pg_catalog.concat_ws(' ', reason, {TRACEPARENT}) ELSE reason END"

LETTERS: dict[Operation, str] = {"insert": "i", "update": "u", "delete": "d", "truncate": "t"}


def entry_body(capture: Capture, operation: Operation) -> str:
    """The function of one operation."""
    collected = collect(capture, operation, is_json=False)
    root = ""
    if capture.is_partition:
        root = "\n  told := coalesce(pg_catalog.pg_partition_root(TG_RELID)::pg_catalog.oid, TG_RELID);"
    return f"""
#variable_conflict use_column
DECLARE
  told pg_catalog.oid := TG_RELID;
  rows_read pg_catalog.int8;
  longest pg_catalog.int8;
  found pg_catalog.text[];
  reason pg_catalog.text;
BEGIN{_guarded(collected)}{root}
{_recorded(capture, operation)}{_wake(capture)}
  RETURN NULL;
END;
"""


def _guarded(collected: str) -> str:
    """A key that can not be told makes the row table-wide. Nothing is written in this block, so it takes no id."""
    if not collected:
        return ""
    return f"""
  BEGIN{collected}
  EXCEPTION WHEN OTHERS THEN
    found := NULL;
    reason := SQLSTATE;
  END;"""


def _recorded(capture: Capture, operation: Operation) -> str:
    insert = _insert(capture, operation)
    if capture.is_fail_open:
        told = (
            "'null'" if capture.has_relatives else "told::pg_catalog.text"
        )  # by inheritance it may concern tables that are not known
        return f"""  BEGIN
{insert}
  EXCEPTION WHEN OTHERS THEN
    PERFORM pg_catalog.pg_notify('{JOURNAL_CHANNEL}', '{RESET}{{"rel":' || {told} || ',"shape":{capture.shape_id}'
      || ',"xid":"' || pg_catalog.pg_current_xact_id()::pg_catalog.text || '","error":"' || SQLSTATE || '"}}');
  END;"""
    may_insert = f"pg_catalog.has_table_privilege(pg_catalog.to_regclass('{SCHEMA}.journal'), 'INSERT')"
    return f"""  IF {may_insert} IS NOT TRUE THEN
    RAISE EXCEPTION USING ERRCODE = '{UNWRITABLE}',
      MESSAGE = 'pgcachewatch can not record this write to ' || TG_RELID::pg_catalog.regclass::pg_catalog.text,
      DETAIL = 'The table {SCHEMA}.journal is missing, or the owner of the trigger functions may not insert into it.',
      HINT = 'Run: pgcachewatch install --repair --commit. To write unwatched: pgcachewatch uninstall --commit.';
  END IF;
{insert}"""


def _insert(capture: Capture, operation: Operation) -> str:
    letter = "pg_catalog.lower(pg_catalog.left(TG_OP, 1))" if operation == "row" else f"'{LETTERS[operation]}'"
    target = f"  INSERT INTO {SCHEMA}.journal (shape, rel, op, keys, note)"
    values = f"{capture.shape_id}, {{rel}}, {letter}, {{keys}}, {_NOTE}"
    if not capture.has_relatives:
        return f"{target}\n    VALUES ({values.format(rel='told', keys='found')});"
    # By inheritance a row is in several tables at once: each other one gets a table-wide row.
    return f"""{target}
    {RELATIVES}
    SELECT {values.format(rel="r.relid", keys="CASE WHEN r.relid = told THEN found END")}
      FROM (SELECT told AS relid UNION SELECT up.relid FROM up UNION SELECT down.relid FROM down) AS r;"""


def _wake(capture: Capture) -> str:
    if capture.wake == "none":
        return ""
    key = f"{JOURNAL_LOCK[0]}, {JOURNAL_LOCK[1]}"
    return f"""
  IF (CASE WHEN pg_catalog.pg_try_advisory_lock_shared({key})
      THEN pg_catalog.pg_advisory_unlock_shared({key}) ELSE false END) THEN
    PERFORM pg_catalog.pg_notify('{JOURNAL_CHANNEL}', '');
  END IF;"""
