"""A headless Chromium that really clicks and types, by its debugging pipe: no package beside the browser is needed."""

import base64
import fcntl
import importlib.util
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
)
SECONDS = 15
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowDown": 40, "ArrowUp": 38}


class Browser:
    """One page of one Chromium process, driven by the DevTools protocol (JSON messages that end with a zero byte)."""

    def __init__(self, executable: str, profile: Path):
        ours, theirs = os.pipe(), os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4; copies far above them are not overwritten.
        commands, answers = (fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (ours[0], theirs[1]))

        def place_descriptors() -> None:
            os.dup2(commands, 3)
            os.dup2(answers, 4)

        self.process = subprocess.Popen(
            [executable, *FLAGS, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(3, 4),
            preexec_fn=place_descriptors,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (ours[0], theirs[1], commands, answers):
            os.close(fd)
        self.output, self.input, self.buffer = ours[1], theirs[0], b""
        self.number, self.session, self.messages = 0, None, []
        targets = self.send("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.send("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters):
        """Run one command and return its result."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.output, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.messages.append(answer)

    def receive(self) -> dict:
        end = time.monotonic() + SECONDS
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.input], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self.input, 1 << 20) if ready else b""
            assert part, "Chromium does not answer"
            self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\0")
        return json.loads(line)

    def open(self, path: Path, width: int = 1280, height: int = 900, scheme: str = "light") -> None:
        """Show a file at a window size, in a colour scheme of the system."""
        self.messages = []
        self.resize(width, height)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.send("Page.navigate", url=path.resolve().as_uri())
        while not any(message.get("method") == "Page.loadEventFired" for message in self.messages):
            self.messages.append(self.receive())

    def resize(self, width: int, height: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def value(self, expression: str):
        """Return the value of a JavaScript expression in the page."""
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def click(self, selector: str) -> None:
        """Click into the middle of an element with the mouse."""
        x, y = self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center', behavior: 'instant'});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def point_at(self, selector: str, share: float) -> None:
        """Move the mouse to a share of an element's width, half-way down."""
        x, y = self.value(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            " e.scrollIntoView({block: 'center', behavior: 'instant'});"
            f" const r = e.getBoundingClientRect(); return [r.x + r.width * {share}, r.y + r.height / 2]; }})()"
        )
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str) -> None:
        """Press and release one key."""
        for kind in ("rawKeyDown", "keyUp"):
            code = "Space" if key == " " else key
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=code, windowsVirtualKeyCode=KEYS[key])

    def choose(self, name: str, value: str) -> None:
        """Choose a value of a select element, as its list of choices does."""
        self.value(
            f"(() => {{ const s = document.querySelector('select[name={name}]'); s.value = {json.dumps(value)};"
            " s.dispatchEvent(new Event('change', {bubbles: true})); })()"
        )

    def visible(self, selector: str) -> int:
        """Return how many elements are on the page for the eye."""
        return self.value(
            f"[...document.querySelectorAll({json.dumps(selector)})].filter(e => e.getClientRects().length).length"
        )

    def complaints(self) -> list[str]:
        """Return console errors and warnings, exceptions and requests beside the file, since the page was opened."""
        self.value("new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))")
        found = []
        for message in self.messages:
            method, content = message.get("method"), message.get("params", {})
            if method == "Runtime.exceptionThrown" or method == "Log.entryAdded":
                found.append(json.dumps(content))
            elif method == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning", "assert"):
                found.append(json.dumps(content))
            elif method == "Network.requestWillBeSent" and not content["request"]["url"].startswith(("file:", "data:")):
                found.append(f"request for {content['request']['url']}")
        return found

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """Save the window, or the whole page, as a PNG."""
        data = self.send(
            "Page.captureScreenshot",
            format="png",
            captureBeyondViewport=whole,
            **({"clip": self.page_box()} if whole else {}),
        )
        path.write_bytes(base64.b64decode(data["data"]))

    def page_box(self) -> dict:
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}

    def close(self) -> None:
        self.session = None
        self.send("Browser.close")
        self.process.wait(SECONDS)
        os.close(self.output)
        os.close(self.input)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A page in headless Chromium; the test is skipped where there is none."""
    executable = next((found for name in NAMES if (found := shutil.which(name))), None)
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed (Debian: apt-get install chromium)")
    browser = Browser(executable, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def load_module(path: Path):
    spec = importlib.util.spec_from_file_location(f"{path.stem}_of_report_tests", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def made():
    """The functions of made_runs.py, which make run folders and data sets."""
    return load_module(HERE / "made_runs.py")


@pytest.fixture(scope="session")
def data_root(made, tmp_path_factory):
    """A data root with the two test sets of `made_runs`; the second has a name that must be escaped in a page."""
    root = tmp_path_factory.mktemp("data")
    made.draw_data_set(root, "here", seed=0)
    made.draw_data_set(root, "there", seed=1, prefix="_<b>&'\"")
    return root


@pytest.fixture(scope="session")
def trained(made, tmp_path_factory):
    """Two run folders with numbers and a checkpoint; the second has another learning rate, weights and results."""
    root = tmp_path_factory.mktemp("logs")
    folders = [
        made.write_numbers(root / "first"),
        made.write_numbers(root / "<second>", (10.0, 50.0), SOLVER__BASE_LR=0.5),
    ]
    for seed, folder in enumerate(folders):
        torch.manual_seed(seed)
        made.write_checkpoint(folder)
    return folders


@pytest.fixture(scope="session")
def report_tool():
    """The module of tools/report.py."""
    return load_module(HERE.parents[1] / "tools" / "report.py")


@pytest.fixture(scope="session")
def find_results_tool():
    """The module of tools/find_results.py."""
    return load_module(HERE.parents[1] / "tools" / "find_results.py")


@pytest.fixture(scope="session")
def page(report_tool, trained, data_root, tmp_path_factory):
    """The page of both runs, made by the command."""
    output = tmp_path_factory.mktemp("page") / "report.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTREID_DATASETS", str(data_root))
        report_tool.main([*map(str, trained), "--output", str(output), "--queries", "2", "--top-k", "4"])
    return output
