"""Row-level capture: the triggers that tell which rows changed, as SQL text and the rules around it.

Everything is in the schema `pgcachewatch`. A watched table has one function per operation, named by its OID, and on it
three AFTER statement triggers with transition tables and one for TRUNCATE. They send one JSON payload a statement:

    operation table sent_at   what the original's payload has (`sent_at` is the statement's, in UTC)
    schema xid v              the table's schema, the writer's 64-bit transaction id as text, the version of this format
    key columns               names of the key's columns in order, and of the further columns that `keys` speak of
    keys                      what changed, old and new; absent when it may be any row of the table
    traceparent               the writer's trace context, where it did SET LOCAL pgcachewatch.traceparent
    error                     SQLSTATE of what went wrong in the trigger; such an event has no `keys`

`keys` has a text per changed row and per value of a further column. A key of one column is the canonical text of its
value; one of several columns is a compact JSON array of these texts in the key's order: `["7","2030-01-01"]`, as
`json.dumps(texts, ensure_ascii=False, separators=(",", ":"))` writes it. A further column's value is
`name=text`, and `name` alone when it is NULL.

    type                       canonical text                                  from a Python value
    smallint, integer, bigint  decimal digits                                  str(value)
    numeric                    plain digits, no trailing zeros: 12.5           format(value, "f"), the same way
    text, varchar, char        as it is, without trailing blanks               value.rstrip(" ")
    uuid                       lower case, with hyphens                        str(value)
    boolean                    true, false                                     str(value).lower()
    date                       2030-01-31                                      value.isoformat()
    timestamp                  2030-01-31T23:59:59.5: no trailing zeros        isoformat(), its fraction .rstrip("0")
    timestamptz                the same in UTC, and a Z                        the same of value.astimezone(UTC)
    bytea                      hexadecimal digits, lower case                  value.hex()
    enum                       its label                                       the label
    domain                     as the type below it                            the same

Values that SQL calls equal have one text, except where a column's collation or citext calls different texts equal.
No client can tell those, nor floats, intervals and the like: such a key makes a table's events table-wide, and
`status` says so. The text does not depend on settings of the writer's session.

In direct mode a write never fails because of its trigger: whatever goes wrong becomes a table-wide event. In journal
mode the same triggers write a row with the same keys (`entries`, `journal_tables`), and a write that can not be
recorded fails; the relay reads these rows (`journal`) and makes the payloads above of them.
On the path of an event: before step 1, in the writer's own transaction.
"""
