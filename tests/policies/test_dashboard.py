"""The operator's page: in headless Chromium with a connected robot, and against pages of other
sites.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("msgpack", reason="needs: pip install alltrades[serve]")
pytest.importorskip("websockets", minversion="16", reason="needs: pip install alltrades[serve]")

from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from alltrades.policies.client.client import PolicyClient
from alltrades.policies.server import PolicyServer
from tests.policies.serving import LARGE, make_policy, observation, running

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)


@pytest.fixture(scope="module")
def server() -> Iterator[PolicyServer]:
    with running(make_policy(), dashboard=True) as out:
        yield out


def page(port: int, **headers: str) -> tuple[str, Any]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    request = urllib.request.Request(f"http://127.0.0.1:{port}/dashboard", headers=headers)
    with opener.open(request, timeout=30) as reply:
        return reply.read().decode(), reply.headers


class Browser:
    """One tab of a headless Chromium, driven through its debugging protocol."""

    def __init__(self, profile: Path) -> None:
        command = [
            str(CHROMIUM),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-dev-shm-usage",
            "--no-proxy-server",
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",
            "about:blank",
        ]
        self._process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self.problems: list[str] = []
        self._count = 0
        place = profile / "DevToolsActivePort"
        until(lambda: place.exists() and len(place.read_text().split()) == 2)
        port = place.read_text().split()[0]
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{port}/json/list", timeout=60) as reply:
            target = next(t for t in json.load(reply) if t["type"] == "page")
        self._socket = connect(
            target["webSocketDebuggerUrl"], proxy=None, max_size=None, open_timeout=60
        )
        for domain in ("Runtime", "Log", "Page"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            entry = message.get("params", {}).get(
                "entry", {"level": "error"}
            )  # not hints about speed
            if (
                message.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")
                and entry["level"] == "error"
            ):
                self.problems.append(json.dumps(message["params"])[:500])
            if message.get("id") == self._count:
                return message["result"]

    def evaluate(self, expression: str) -> Any:
        return self.send("Runtime.evaluate", expression=expression, returnByValue=True)[
            "result"
        ].get("value")

    def close(self) -> None:
        self._socket.close()
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    out = Browser(tmp_path / "profile")
    yield out
    out.close()


def until(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)


class Robot(threading.Thread):
    """Asks all the time; keeps the replies."""

    def __init__(self, port: int) -> None:
        super().__init__()
        self.client, self.replies, self.ending = (
            PolicyClient(port=port, timeout=60),
            [],
            threading.Event(),
        )  # type: ignore[var-annotated]

    def run(self) -> None:
        self.client.reset(environment=LARGE, seed=1)
        while not self.ending.is_set():
            self.replies.append(self.client.infer({"observation": observation(len(self.replies))}))
            time.sleep(0.05)
        self.client.close()


@pytest.mark.skipif(CHROMIUM is None, reason="needs a chromium on PATH: apt-get install chromium")
def test_the_page_shows_a_robot_and_its_button_holds_it(
    server: PolicyServer, browser: Browser
) -> None:
    robot = Robot(server.port)
    robot.start()
    try:
        browser.send("Page.navigate", url=f"http://127.0.0.1:{server.port}/dashboard")
        until(
            lambda: (
                LARGE in (browser.evaluate("document.getElementById('clients')?.innerText") or "")
            )
        )
        until(
            lambda: (
                int(browser.evaluate("document.querySelector('figure')?.dataset.points") or 0) >= 3
            )
        )
        drawn = (
            "(() => { const c = document.querySelector('canvas'); const d = "
            "c.getContext('2d').getImageData(0, 0, c.width, c.height).data; let n = 0; for (let i "
            "= 3; i < d.length; i += 4) n += d[i] > 0; return n; })()"
        )
        until(lambda: browser.evaluate(drawn) > 20)
        assert browser.evaluate("document.getElementById('state').textContent") == "running"

        assert not robot.replies[-1]["held"]
        browser.evaluate("document.getElementById('stop').click()")
        until(lambda: robot.replies[-1]["held"])
        held = [r for r in robot.replies if r["held"]][0]["actions"]
        before = [r for r in robot.replies if not r["held"]][-1]["actions"]
        np.testing.assert_array_equal(held, np.repeat(before[-1:], len(held), axis=0))
        until(
            lambda: (
                browser.evaluate("document.getElementById('state').textContent") or ""
            ).startswith("STOPPED")
        )
        until(
            lambda: (
                "held" in (browser.evaluate("document.getElementById('clients').innerText") or "")
            )
        )
        assert browser.evaluate("document.getElementById('stop').disabled") is True

        browser.evaluate("document.getElementById('resume').click()")
        until(lambda: not robot.replies[-1]["held"])
        events = browser.evaluate("document.getElementById('events').innerText")
        assert "stop: every robot holds" in events and "connect" in events
        assert not browser.problems
    finally:
        server.hold(False)
        robot.ending.set()
        robot.join(60)


def test_the_page_is_one_file_that_loads_nothing(server: PolicyServer) -> None:
    text, headers = page(server.port)
    assert (
        not re.findall(r"""(?:src|href)=["'](?!data:)""", text)
        and "{{" not in text
        and "@import" not in text
    )
    policy = headers["Content-Security-Policy"]
    nonce = re.search(r"script-src 'nonce-([^']+)'", policy)
    assert "default-src 'none'" in policy and nonce is not None and text.count(nonce[1]) == 2
    assert page(server.port)[0] != text  # a nonce is used once


def test_only_the_page_itself_may_open_the_live_connection(server: PolicyServer) -> None:
    found = re.search(r"live\?key=([\w-]+)", page(server.port)[0])
    assert found is not None
    here = f"http://127.0.0.1:{server.port}"

    def live(key: str, origin: str | None, **headers: str) -> Any:
        return connect(
            f"ws://127.0.0.1:{server.port}/dashboard/live?key={key}",
            proxy=None,
            origin=origin,
            additional_headers=headers,
        )  # type: ignore[arg-type]

    for key, origin in (
        (found[1], "https://example.org"),
        (found[1], None),
        ("wrong", here),
        ("", here),
        (found[1], "null"),
        (found[1], f"http://127.0.0.1:{server.port + 1}"),
    ):
        with pytest.raises(InvalidStatus, match="403"):
            live(key, origin)
    with live(found[1], here) as socket:
        assert json.loads(socket.recv(timeout=30))["held"] is False
        socket.send("stop")
        until(lambda: server.held)
        socket.send("anything else")
        socket.send("resume")
        until(lambda: not server.held)


def test_a_name_that_a_stranger_points_here_gets_no_page(server: PolicyServer) -> None:
    """DNS rebinding: the browser believes that the page is of the stranger's site, and sends its
    name as Host.
    """
    for host in ("robots.example.org", f"robots.example.org:{server.port}", ""):
        with pytest.raises(urllib.error.HTTPError, match="403"):
            page(server.port, Host=host or "x")
    for host in (f"localhost:{server.port}", f"[::1]:{server.port}"):
        assert "STOP" in page(server.port, Host=host)[0]


def test_without_the_option_there_is_no_page() -> None:
    with running(make_policy()) as server:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            page(server.port)
        with pytest.raises(InvalidStatus, match="404|403"):
            connect(f"ws://127.0.0.1:{server.port}/dashboard/live?key=", proxy=None)
