"""What of SQL is known to read and to do nothing else: the words that `contrib` goes by.

A cached read must not change anything, must give the same for the same rows, and must read no table that it does not
name. Of a function of one's own nobody knows that, so only PostgreSQL's own are listed, and of those only what depends
on its arguments alone: no clock, no chance, no sequence, nothing that looks into a catalogue or takes a lock. What is
not listed counts as a write, which costs a few runs. A function too many here would cost stale values.

Bound: constant.
"""

from __future__ import annotations

import re

FUNCTIONS = frozenset(
    """
    abs array_agg array_append array_cat array_length array_position array_prepend array_remove array_to_string avg
    bit_and bit_or bool_and bool_or btrim cardinality cast ceil ceiling char_length character_length coalesce concat
    concat_ws corr count cume_dist date_part date_trunc dense_rank div every exp extract first_value floor greatest
    initcap json_agg json_array_length json_build_array json_build_object json_extract_path json_extract_path_text
    json_object_agg jsonb_agg jsonb_array_length jsonb_build_array jsonb_build_object jsonb_extract_path
    jsonb_extract_path_text jsonb_object_agg lag last_value lead least left length ln log lower lpad ltrim md5 max min
    mod mode nth_value ntile nullif octet_length percent_rank percentile_cont percentile_disc position power rank
    regexp_replace repeat replace reverse right round row_number rpad rtrim sign split_part sqrt starts_with stddev
    stddev_pop stddev_samp string_agg string_to_array strpos substr substring sum trim trunc unnest upper var_pop
    var_samp variance width_bucket
    """.split()  # noqa: SIM905  # a list of words is read as words
)

# Spelled as PostgreSQL spells them; comparisons and arithmetic are known to SQLAlchemy by themselves.
OPERATORS = frozenset("@> <@ && -> ->> #> #>> ? ?| ?& || ~ ~* !~ !~* << >> | & # ^ @@".split())  # noqa: SIM905  # as above

# These depend on more than their arguments, but change nothing either.
READING = FUNCTIONS | {"clock_timestamp", "now", "random", "statement_timestamp", "timezone", "to_char", "version"}
# What else may stand before a parenthesis: the grammar's own words, and types that have a length.
GRAMMAR = frozenset(
    """
    all and any array as between by case decimal distinct else except exists filter from having ilike in intersect is
    join lateral like limit not numeric offset on or over row select some then time timestamp timestamptz union using
    values varchar when where within group
    """.split()  # noqa: SIM905  # as above
)
# Words of a SELECT that changes something, takes a lock, or contains a statement that does.
CHANGING = frozenset({"call", "delete", "execute", "for", "insert", "into", "lock", "merge", "truncate", "update"})

_BEGINS = re.compile(r"[\s(]*select\b", re.IGNORECASE)
_TEXT_OR_NAME = re.compile(r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"")
_UNREADABLE = re.compile(r";|--|/\*|\\|\$|'|\"")  # what may hide something, once complete texts and names are gone
_WORD = re.compile(r"(\.\s*)?(?<![\w%])([a-z_]\w*)\s*(\()?", re.IGNORECASE)
_CALLED_NAME = re.compile(r"\?\s*\(")


def is_plain_select(text: str) -> bool:
    """True for one SELECT that reads and does nothing else, as far as its text tells.

    It is no parser, and knows no more than words: what it does not understand is not plain.

    >>> is_plain_select('SELECT "id", lower("name") FROM "users" WHERE ("id" IN (%s, %s))')
    True
    >>> is_plain_select("SELECT nextval('orders')"), is_plain_select('SELECT "id" FROM "users" FOR UPDATE')
    (False, False)
    """
    if not _BEGINS.match(text):
        return False
    bare = _TEXT_OR_NAME.sub("?", text)
    if _UNREADABLE.search(bare) or _CALLED_NAME.search(bare):
        return False
    for qualified, word, is_called in _WORD.findall(bare):
        word = word.lower()
        if word in CHANGING or (is_called and (qualified or (word not in READING and word not in GRAMMAR))):
            return False
    return True
