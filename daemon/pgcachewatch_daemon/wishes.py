"""The answer to a wish: may this client see it, and can the relay tell it.

In that order. Whoever may not see a table is not told whether there is one, and advice names only tables whose names
are no secret to whoever asked.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from pgcachewatch.protocol import messages
from pgcachewatch.protocol.relay_session import Subscription
from pgcachewatch_daemon.core.access import Forbidden, Grant
from pgcachewatch_daemon.core.granted import Answer, Granted
from pgcachewatch_daemon.inspection import Inspection, NotReady
from pgcachewatch_daemon.sql.columns import Accepted, Refusal


def forbidden(identity: int, why: Forbidden) -> messages.Err:
    """The refusal of a request that the token does not allow."""
    return messages.Err(id=identity, code="forbidden", message=why.text)


def judge(subscription: Subscription, grant: Grant, inspection: Inspection) -> Answer:
    """The subscription with what is known of it, or why it is none."""
    judged = grant.judge(subscription)
    if isinstance(judged, Forbidden):
        return forbidden(subscription.id, judged)
    match inspection.judge(subscription, may_name=grant.may_name):
        case Accepted(types, notice, is_journalled):
            return Granted(replace(subscription, is_journalled=is_journalled), types, notice)
        case NotReady(text, after_ms):
            return messages.Err(id=subscription.id, code="not_ready", message=text, retry=True, after_ms=after_ms)
        case Refusal(code, text):
            return messages.Err(id=subscription.id, code=code, message=text)
        case other:
            assert_never(other)


def is_outdated(subscription: Subscription, types: tuple[str, ...] | None, inspection: Inspection) -> bool:
    """True when what its `subok` said is not so any more: its columns' `types`, or how its events come."""
    answer = inspection.judge(subscription)
    if not isinstance(answer, Accepted):
        return False
    return answer.is_journalled != subscription.is_journalled or types not in (None, answer.types)
