"""A token stands for one transaction: notified inside it, it is delivered when that transaction is, and not before.

    async with connection.transaction():
        await connection.execute("UPDATE ...")
        token = await client.token(connection)
    await client.barrier(token)

As text it can travel to another process and be waited for there: in a header, a job, a cookie. `epoch` is the relay's
epoch its client was in: in any other one the token may have been missed, and a barrier without it takes its place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from pgcachewatch.errors import ConfigurationError
from pgcachewatch.protocol.messages import TOKEN_CHANNEL

_TEXT = re.compile(r"([0-9a-f]{32})\.([0-9a-f]{16})?")


@dataclass(frozen=True, slots=True)
class BarrierToken:
    """`nonce` is 32 hex digits; `epoch` is empty when the client had none yet."""

    nonce: str
    epoch: str = ""

    def __str__(self) -> str:
        """
        >>> str(BarrierToken.parse("00112233445566778899aabbccddeeff.0123456789abcdef"))
        '00112233445566778899aabbccddeeff.0123456789abcdef'
        """
        return f"{self.nonce}.{self.epoch}"

    @property
    def statement(self) -> str:
        """The SQL that notifies it. Safe to build by hand: the nonce is hexadecimal digits."""
        return f"NOTIFY {TOKEN_CHANNEL}, '{self.nonce}'"

    @classmethod
    def parse(cls, text: str) -> BarrierToken:
        """The token that `str` wrote. Raises ConfigurationError."""
        found = _TEXT.fullmatch(text)
        if found is None:
            raise ConfigurationError(
                f"{text[:80]!r} is no token; give what client.token(connection) returned, or its str"
            )
        return cls(found[1], found[2] or "")
