"""A real Chromium without a window, driven by its DevTools protocol over the project's own WebSocket library.

`async with Browser.start() as browser` gives one empty tab. Whatever the page prints as an error, each exception and
each thing that a policy forbade is kept in `complaints`; what the network refused is apart, since tests cut it.
Without Chromium the tests that ask for it are skipped, with the reason.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.waiting import eventually

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",  # the tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
ANSWER_S = 30.0
FRAME_BYTES = 64 * 1024 * 1024  # a screenshot is one message

NAVIGATED = re.compile("navigated|context was destroyed|Cannot find (default execution )?context")

JSON = dict[str, Any]  # Any: as the protocol has it


class Navigated(Exception):
    """The page that was asked is not there any more."""


def chromium() -> str:
    """Where it is; skips the test when it is nowhere."""
    found = next((path for path in map(shutil.which, NAMES) if path is not None), None)
    if found is None:
        pytest.skip("no Chromium on this machine: install Debian's package chromium")
    return found


class Browser:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self.complaints: list[str] = []
        self.network: list[str] = []
        self._socket = socket
        self._number = 0
        self._answers: dict[int, asyncio.Future[JSON]] = {}
        self._tab = ""
        self._reader = asyncio.create_task(self._read(), name="browser")

    @classmethod
    @contextlib.asynccontextmanager
    async def start(cls) -> AsyncIterator[Browser]:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            process = _launch(folder)
            try:
                told = Path(folder, "DevToolsActivePort")
                await eventually(lambda: len(_read(told).split()) == 2)
                port, path = _read(told).split()
                async with connect(
                    f"ws://127.0.0.1:{port}{path}", proxy=None, max_size=FRAME_BYTES, compression=None
                ) as socket:
                    browser = cls(socket)
                    try:
                        await browser._attach()
                        yield browser
                    finally:
                        await browser._close()
            finally:
                process.terminate()
                await asyncio.to_thread(process.wait)

    async def open(self, url: str) -> None:
        """Load a page, and wait until it has."""
        await self.call("Page.navigate", url=url)
        await self.until("location.href !== 'about:blank' && document.readyState === 'complete'")

    async def see(self, expression: str) -> Any:  # Any: what the script says
        """The value of a JavaScript expression in the page."""
        answer = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"{expression}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true, also through a page that is loaded anew."""

        async def is_so() -> bool:
            try:
                return bool(await self.see(expression))
            except Navigated:
                return False

        is_so.__qualname__ = expression
        try:
            await eventually(is_so)
        except AssertionError as error:
            text = await self.see("document.body.innerText")
            raise AssertionError(f"{error}\n{self.complaints}\n{text}") from None

    async def text(self, selector: str) -> str:
        """What a person reads in there."""
        return str(await self.see(f"document.querySelector({json.dumps(selector)}).innerText"))

    async def type(self, selector: str, text: str) -> None:
        """Focus a field, empty it, and type as a keyboard does."""
        place = json.dumps(selector)
        await self.see(f"(field => {{ field.focus(); field.select(); }})(document.querySelector({place}))")
        if text:
            await self.call("Input.insertText", text=text)
        else:
            await self.press("Delete", 46)

    async def press(self, key: str, code: int) -> None:
        """One key, down and up."""
        known = {"key": key, "windowsVirtualKeyCode": code} | ({"text": key} if len(key) == 1 else {})
        if key == "Enter":
            known["text"] = "\r"
        await self.call("Input.dispatchKeyEvent", type="keyDown", **known)
        await self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    async def click(self, selector: str) -> None:
        await self.see(f"document.querySelector({json.dumps(selector)}).click()")

    async def screenshot(self, place: Path, *, scheme: str = "light", width: int = 1280, height: int = 1400) -> None:
        """A picture of the tab at this size."""
        await self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        answer = await self.call("Page.captureScreenshot", format="png")
        await asyncio.to_thread(place.write_bytes, base64.b64decode(answer["data"]))

    async def call(self, method: str, **parameters: Any) -> JSON:  # Any: as the protocol has it
        """One command, to the tab once there is one."""
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        session = {"sessionId": self._tab} if self._tab else {}
        await self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters, **session}))
        async with asyncio.timeout(ANSWER_S):
            result: JSON = await answer
            return result

    async def _attach(self) -> None:
        target = (await self.call("Target.createTarget", url="about:blank"))["targetId"]
        self._tab = (await self.call("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Audits"):
            await self.call(f"{domain}.enable")

    async def _close(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    async def _read(self) -> None:
        async for text in self._socket:
            message = json.loads(text)
            if "id" in message:
                self._answered(self._answers.pop(message["id"]), message)
            else:
                self._told(message["method"], message["params"])

    def _answered(self, answer: asyncio.Future[JSON], message: JSON) -> None:
        if answer.cancelled():
            return
        if "error" in message:
            text = str(message["error"])
            answer.set_exception((Navigated if NAVIGATED.search(text) else RuntimeError)(text))
        else:
            answer.set_result(message["result"])

    def _told(self, method: str, told: JSON) -> None:
        match method:
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(told["exceptionDetails"])[:600])
            case "Runtime.consoleAPICalled" if told["type"] in ("error", "warning", "assert"):
                self.complaints.append(json.dumps(told["args"])[:600])
            case "Log.entryAdded" if told["entry"]["level"] in ("error", "warning"):
                entry = told["entry"]
                place = (
                    self.network if entry["source"] == "network" or "WebSocket" in entry["text"] else self.complaints
                )
                place.append(f"{entry['text']} {entry.get('url', '')}")
            case "Audits.issueAdded":
                self.complaints.append(json.dumps(told["issue"])[:600])


def _launch(folder: str) -> subprocess.Popen[bytes]:
    command = [chromium(), *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    # No bus: it would wait for one, and complain.
    environment = {**os.environ, "DBUS_SESSION_BUS_ADDRESS": "disabled:"}
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, env=environment, stdin=quiet, stdout=quiet, stderr=quiet)


def _read(file: Path) -> str:
    return file.read_text() if file.is_file() else ""
