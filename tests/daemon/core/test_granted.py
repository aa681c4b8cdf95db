"""What `subok` says of a subscription."""

from __future__ import annotations

from pgcachewatch.protocol import messages
from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon.core.granted import Granted

ONE = Subscription(3, 12, "c", table="users", columns=("id",))


def test_a_subscription_with_columns_is_told_their_types_and_a_notice() -> None:
    answer = Granted(ONE, ("int8",), "odd").subok(7)
    assert answer == messages.Subok(id=12, sid=3, s=7, types=["int8"], notice="odd")


def test_one_of_which_there_is_nothing_to_say_is_told_where_it_begins() -> None:
    answer = Granted(ONE).subok(7)
    assert (answer.s, answer.types, answer.notice) == (7, None, None)
