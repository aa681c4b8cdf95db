"""The site of the tests in this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.daemon.io.websocket.site import Site, serving


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    async with serving() as site:
        yield site
