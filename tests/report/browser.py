"""A headless Chromium driven through a pipe, by its own DevTools protocol: no driver, no port."""

import base64
import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import count
from types import TracebackType
from typing import Any, Self

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_FLAGS = "--headless --remote-debugging-pipe --disable-gpu --no-first-run --hide-scrollbars".split()


class Browser:
    """One page in one browser. `problems` holds what it wrote to its console or threw, and what it
    asked of the network.
    """

    def __enter__(self) -> Self:
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        theirs = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_browser, from_browser)]

        def take_pipes() -> None:  # Chromium reads from 3 and writes to 4
            os.dup2(theirs[0], 3)
            os.dup2(theirs[1], 4)

        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        self._process = subprocess.Popen(
            [str(CHROMIUM), *_FLAGS, *sandbox, f"--user-data-dir={self._folder.name}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=take_pipes,
            pass_fds=(3, 4),
            start_new_session=True,
        )
        for end in (to_browser, from_browser, *theirs):
            os.close(end)
        self._numbers, self._left, self.problems = count(1), b"", []
        target = self._send("Target.createTarget", url="about:blank")["targetId"]
        self._session = None
        attached = self._send("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._send(f"{domain}.enable")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._folder.cleanup()

    def open(
        self, address: str, width: int = 1440, height: int = 900, scheme: str = "light"
    ) -> None:
        """Show an address in a window of that size, with "light" or "dark" colours."""
        self._send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._send("Emulation.setEmulatedMedia", media="", features=features)
        self._send("Page.navigate", url="about:blank")
        self._send("Page.navigate", url=address)
        while self.value("document.readyState") != "complete":
            time.sleep(0.01)

    def without_scripts(self) -> None:
        """The page's own scripts do not run from now on."""
        self._send("Emulation.setScriptExecutionDisabled", value=True)

    def print_media(self) -> None:
        """Show the page as it would be printed."""
        self._send("Emulation.setEmulatedMedia", media="print")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives, as JSON can hold it."""
        answer = self._send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> Any:
        """What an expression gives, or true for an element, once it is something: in 20 seconds."""
        deadline, there = time.monotonic() + 20, f"(x => x instanceof Element || x)({expression})"
        while not (found := self.value(there)):
            assert time.monotonic() < deadline, expression
            time.sleep(0.02)
        return found

    def press(self, key: str) -> None:
        """Press a key, as a user does: one of those below."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, "PageUp": 33, "PageDown": 34, "End": 35}
        codes |= {"Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}
        code = codes[key]
        about = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = {"text": "\r"} if key == "Enter" else {}
        self._send("Input.dispatchKeyEvent", type="keyDown", **about, **text)
        self._send("Input.dispatchKeyEvent", type="keyUp", **about)

    def hover(self, selector: str) -> tuple[float, float]:
        """Point at the middle of the first element that is found, once it is in sight."""
        x, y = self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center', inline: 'center'});"
            "const r = e.getClientRects()[0]; return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        self._send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        return x, y

    def click(self, selector: str) -> None:
        """Click there."""
        x, y = self.hover(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self._send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, full: bool = False) -> bytes:
        """What is in sight, or all of the page, as PNG."""
        answer = self._send("Page.captureScreenshot", captureBeyondViewport=full)
        return base64.b64decode(answer["data"])

    def _send(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        session = getattr(self, "_session", None)
        message |= {"sessionId": session} if session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._receive()).get("id") != number:
            self._note(answer)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._left:
            part = os.read(self._read, 1 << 16)
            assert part, "the browser is gone"
            self._left += part
        message, self._left = self._left.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        method, about = event.get("method"), event.get("params", {})
        if method in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.problems.append(json.dumps(about))
        if method == "Network.requestWillBeSent" and about["request"]["url"].startswith("http"):
            self.problems.append(about["request"]["url"])
