"""The page in a real browser: what it shows and sends, and that by itself it estimates as Python does."""

from __future__ import annotations

import base64
import contextlib
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
from PIL import Image, ImageCms

PROJECT = Path(__file__).parents[2]
ENGINE = PROJECT / "src" / "agelens" / "serve" / "page" / "engine"
AXE = PROJECT / "web" / "node_modules" / "axe-core" / "axe.min.js"

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright")
pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("uvicorn", reason="the service needs the extra serve")


def chromium() -> str | None:
    """A browser of the system, if there is one; else playwright may have its own."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
        try:
            opened = started.chromium.launch(executable_path=chromium(), args=arguments + camera)
        except playwright.Error as error:
            pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@dataclass
class Service:
    """A service in a process of its own."""

    process: subprocess.Popen[bytes]
    url: str

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextlib.contextmanager
def running_service(*arguments: str, **environment: str) -> Iterator[Service]:
    command = [sys.executable, "-m", "agelens", "serve", "--port", "0", "--workers", "1", *arguments]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
        try:
            until = time.monotonic() + 60
            while (found := re.search(r"http://127\.0\.0\.1:\d+", told := read_whole(log))) is None:
                assert process.poll() is None, f"the service ended: {told}"
                assert time.monotonic() < until, f"the service did not start: {told}"
                time.sleep(0.05)
            yield Service(process, found[0])
        finally:
            process.kill()
            process.wait()


def read_whole(log: IO[str]) -> str:
    log.seek(0)
    return log.read()


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service() as started:
        yield started


@dataclass
class Visit:
    """An open page with all that it asked for and complained of."""

    page: Any
    url: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def sent(self) -> list[str]:
        """What left the browser, in order: method and address."""
        return [request for request in self.requests if not request.split()[1].startswith(("blob:", "data:"))]

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).inner_text())

    def add(self, *paths: Path) -> Any:
        """Choose files; gives the card of the last when all are done."""
        done = self.page.locator(".photo.done")
        before = done.count()
        self.page.set_input_files("#files", [str(path) for path in paths])
        done.nth(before + len(paths) - 1).wait_for(timeout=60_000)
        return self.page.locator(".photo").first

    def keep_on_device(self) -> None:
        self.page.locator("#on-device").check()
        self.page.locator("#privacy:is([data-state=ready], [data-state=failed])").wait_for(timeout=60_000)
        assert self.page.locator("#privacy").get_attribute("data-state") == "ready", self.text("#privacy")

    def settle(self) -> None:
        self.page.locator("#privacy-state:not(:text('Asking'))").wait_for()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """``visit(url, **options of the browser's context)`` opens the page; it may not complain."""
    visits = []

    def opened(url: str, prepare: Callable[[Any], None] = lambda page: None, **options: Any) -> Visit:
        context = browser.new_context(**options)
        visited = Visit(context.new_page(), url)
        visits.append(visited)
        context.on("request", lambda request: visited.requests.append(f"{request.method} {request.url}"))
        visited.page.on("pageerror", lambda error: visited.complaints.append(str(error)))
        visited.page.on(
            "console",
            lambda told: visited.complaints.append(told.text) if told.type in {"error", "warning"} else None,
        )
        prepare(visited.page)
        visited.page.goto(url)
        visited.settle()
        return visited

    yield opened
    for visited in visits:
        visited.page.context.close()
        assert visited.complaints == []


def faces_of(card: Any) -> list[dict[str, float]]:
    """What a photo's card says of its faces; boxes in shares of the photo."""
    faces = card.locator(".face").evaluate_all("faces => faces.map(face => ({...face.dataset}))")
    boxes = card.locator(".box").evaluate_all(
        "boxes => boxes.map(({style}) => [style.left, style.top, style.width, style.height].map(parseFloat))"
    )
    told = []
    for face, (left, top, width, height) in zip(faces, boxes, strict=True):
        box = {"x1": left / 100, "y1": top / 100, "x2": (left + width) / 100, "y2": (top + height) / 100}
        told.append({key: float(value) for key, value in face.items()} | box)
    return told


@pytest.fixture(scope="module")
def estimator() -> Any:
    from agelens import AgeEstimator

    return AgeEstimator()


def assert_like_python(card: Any, path: Path, estimator: Any) -> int:
    """The card says what Python says of the file: boxes within a pixel, ages within 0.3 years."""
    with Image.open(path) as picture:
        size = np.array(picture.size)
        turned = picture.getexif().get(0x0112, 1) > 4
    wanted, found = estimator.estimate(path), faces_of(card)
    assert len(found) == len(wanted)
    for face, told in zip(wanted, found, strict=True):
        box = np.array([told[key] for key in ("x1", "y1", "x2", "y2")]) * np.tile(
            size[::-1] if turned else size, 2
        )
        assert box == pytest.approx(np.array(face.box), abs=1)
        assert told["age"] == pytest.approx(face.age, abs=0.3)
        assert [told["low"], told["high"]] == pytest.approx(list(face.interval(0.9)), abs=0.3)
    chances = card.locator("[data-part=probability]").all_inner_texts()
    for face, chance in zip(wanted, chances, strict=True):
        number = float(re.sub("[^0-9.]", "", chance)) / 100
        assert number == pytest.approx(face.probability_at_least(18), abs=0.003)
    return len(wanted)


@pytest.fixture(scope="module")
def two_faces(portrait: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with Image.open(portrait) as picture:
        face = picture.convert("RGB")
    pair = Image.new("RGB", (face.width * 2, face.height))
    pair.paste(face, (0, 0))
    pair.paste(face.transpose(Image.Transpose.FLIP_LEFT_RIGHT).resize((380, 380)), (face.width + 60, 90))
    path = tmp_path_factory.mktemp("photos") / "two.png"
    pair.save(path)
    return path


@pytest.fixture(scope="module")
def no_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "sky.png"
    Image.linear_gradient("L").resize((320, 200)).convert("RGB").save(path)
    return path


@pytest.fixture(scope="module")
def broken(portrait: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos") / "broken.jpg"
    path.write_bytes(portrait.read_bytes()[:200])
    return path


# --- loading


def test_page_is_small_quick_and_asks_nobody_else(visit: Callable[..., Visit], service: Service) -> None:
    paints = [float("inf")]
    while min(paints) >= 1000 and len(paints) < 6:  # the machine may be busy with something else
        page = visit(service.url)
        assert {request.split()[1].startswith(service.url + "/") for request in page.sent} == {True}
        entries = (
            "performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
        )
        transferred = page.page.evaluate(f"{entries}.reduce((sum, entry) => sum + entry.transferSize, 0)")
        assert 5_000 < transferred < 300_000
        assert not any("/engine/ort" in request or ".onnx" in request for request in page.sent)
        paints.append(
            page.page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        )
    assert min(paints) < 1000


def test_page_says_where_photos_go_and_what_it_cannot_know(
    visit: Callable[..., Visit], service: Service
) -> None:
    page = visit(service.url)
    assert f"the server at {service.url.removeprefix('http://')}" in page.text("#privacy-state")
    told = page.text("main")
    for words in ("What this cannot know", "no proof of age", "non-commercial research"):
        assert words in told


# --- photos, estimated by the server


def test_upload(visit: Callable[..., Visit], service: Service, portrait: Path, estimator: Any) -> None:
    page = visit(service.url)
    card = page.add(portrait)
    assert assert_like_python(card, portrait, estimator) == 1
    (face,) = estimator.estimate(portrait)
    age = str(round(face.age))
    assert card.locator(".face [data-part=age]").inner_text() == age
    assert card.locator(".box").inner_text().split()[0] == age
    assert card.get_by_role("img", name=f"estimate {age}").count() == 1
    assert "one face" in page.text("#announcements")
    assert card.locator("img").evaluate("image => image.naturalWidth > 0 && image.alt.includes('one face')")
    assert [request for request in page.sent if "POST" in request] == [
        f"POST {service.url}/v1/estimate?model=resnet10-tiny-lrn-utkface"
    ]


def test_two_faces_are_numbered(
    visit: Callable[..., Visit], service: Service, two_faces: Path, estimator: Any
) -> None:
    page = visit(service.url)
    card = page.add(two_faces)
    assert assert_like_python(card, two_faces, estimator) == 2
    assert card.locator(".badge").all_inner_texts() == ["Face 1", "Face 2"]
    assert card.locator(".box .number").all_inner_texts() == ["1", "2"]
    assert "2 faces were found" in card.locator(".notes").inner_text()
    card.locator(".face").nth(1).hover()
    assert card.locator(".box.lit .number").inner_text() == "2"


def test_no_face_and_broken_file(
    visit: Callable[..., Visit], service: Service, no_face: Path, broken: Path
) -> None:
    page = visit(service.url)
    assert page.add(no_face).locator(".notes").inner_text() == "No face was found."
    failed = page.add(broken)
    assert "damaged" in failed.locator(".error").inner_text()
    assert failed.locator("img").is_hidden()
    assert "broken.jpg" in page.text("#announcements")
    page.complaints[:] = [told for told in page.complaints if "422" not in told]  # the browser's own note
    failed.get_by_role("button", name="Remove broken.jpg").click()
    assert page.page.locator(".photo").count() == 1
    page.page.get_by_role("button", name="Remove all").click()
    assert page.page.locator("#results").is_hidden()


def test_threshold_level_and_model(
    visit: Callable[..., Visit], service: Service, portrait: Path, estimator: Any
) -> None:
    from agelens import AgeEstimator

    page = visit(service.url)
    card = page.add(portrait)
    (face,) = estimator.estimate(portrait)
    sent = len(page.sent)
    page.page.fill("#threshold", "30")
    assert card.locator("[data-part=question]").inner_text() == "P(age ≥ 30)"
    chance = float(card.locator("[data-part=probability]").inner_text().split()[0])
    assert chance == pytest.approx(100 * face.probability_at_least(30), abs=0.06)
    assert card.locator(".curve text.threshold").text_content() == "≥ 30"
    for level in (0.5, 0.8, 0.95):
        page.page.select_option("#level", str(level))
        (told,) = faces_of(card)
        assert [told["low"], told["high"]] == pytest.approx(list(face.interval(level)), abs=0.01)
    page.page.fill("#threshold", "-3")
    assert card.locator("[data-part=question]").inner_text() == "P(age ≥ 30)"
    page.page.fill("#threshold", "0")
    assert card.locator("[data-part=probability]").inner_text() == "over 99.9 %"
    assert len(page.sent) == sent

    page.page.fill("#threshold", "18")
    page.page.select_option("#level", "0.9")
    page.page.select_option("#model", "resnet10-tiny-lrn-utkface-mirrored")
    assert_like_python(page.add(portrait), portrait, AgeEstimator("resnet10-tiny-lrn-utkface-mirrored"))


_GIVE = """([bytes, type]) => {
    const file = new File([Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0))], 'given.jpg');
    const carrier = new DataTransfer();
    carrier.items.add(file);
    const event = type === 'paste'
        ? new ClipboardEvent(type, {clipboardData: carrier, bubbles: true, cancelable: true})
        : new DragEvent(type, {dataTransfer: carrier, bubbles: true, cancelable: true});
    return document.body.dispatchEvent(event);
}"""


@pytest.mark.parametrize("how", ["paste", "drop"])
def test_paste_and_drop(visit: Callable[..., Visit], service: Service, portrait: Path, how: str) -> None:
    page = visit(service.url)
    given = base64.b64encode(portrait.read_bytes()).decode()
    if how == "drop":
        page.page.evaluate(_GIVE, [given, "dragenter"])
        assert page.page.locator(".veil").is_visible()
    assert page.page.evaluate(_GIVE, [given, how]) is False  # the browser does not open the file itself
    page.page.locator(".photo.done .face").wait_for()
    assert page.page.locator(".photo h3").inner_text() == "given.jpg"
    assert page.page.locator(".veil").is_hidden()


def test_busy_service_is_asked_again(visit: Callable[..., Visit], service: Service, portrait: Path) -> None:
    page = visit(service.url)
    turned_away = []

    def busy_once(route: Any) -> None:
        if turned_away:
            route.continue_()
            return
        turned_away.append(route)
        route.fulfill(status=503, headers={"Retry-After": "1"}, json={"title": "busy", "detail": "later"})

    page.page.route("**/v1/estimate*", busy_once)
    assert page.add(portrait).locator(".face").count() == 1
    assert turned_away
    page.complaints[:] = [told for told in page.complaints if "503" not in told]


def test_silent_server_is_said(visit: Callable[..., Visit], service: Service, portrait: Path) -> None:
    page = visit(service.url)
    page.page.route("**/v1/estimate*", lambda route: route.abort())
    assert "does not answer" in page.add(portrait).locator(".error").inner_text()
    page.complaints[:] = [told for told in page.complaints if "ERR_FAILED" not in told]


@pytest.mark.slow
def test_token(visit: Callable[..., Visit], portrait: Path) -> None:
    with running_service(AGELENS_TOKEN="open-sesame-0123456789") as guarded:
        page = visit(guarded.url)
        token = page.page.get_by_label("This server asks for a token")
        token.wait_for()
        token.fill("open-sesame-0123456789")
        page.page.get_by_role("button", name="Use it").click()
        page.page.locator("#privacy-state", has_text="the server at").wait_for()
        assert page.add(portrait).locator(".face").count() == 1
        if ENGINE.joinpath("ort-wasm-simd-threaded.wasm.gz").is_file():
            page.keep_on_device()
        page.complaints[:] = [told for told in page.complaints if "401" not in told]


# --- camera


def test_camera_asks_takes_and_stops(visit: Callable[..., Visit], service: Service) -> None:
    asked = (
        "const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices); window.streams = [];"
        "navigator.mediaDevices.getUserMedia = async (wish) =>"
        " { const stream = await real(wish); window.streams.push(stream); return stream; };"
    )
    page = visit(service.url, lambda page: page.add_init_script(asked), permissions=["camera"])
    live = "streams.map((stream) => stream.getTracks().some((track) => track.readyState === 'live'))"
    page.page.get_by_role("button", name="Use the camera").click()
    assert page.page.evaluate(live) == []
    page.page.get_by_role("button", name="Start the camera").click()
    page.page.get_by_role("button", name="Stop the camera").click()
    assert page.page.evaluate(live) == [False]
    assert page.page.get_by_role("button", name="Start the camera").evaluate(
        "b => b === document.activeElement"
    )
    page.page.get_by_role("button", name="Start the camera").click()
    page.page.get_by_role("button", name="Take the photo").click()
    page.page.locator(".photo.done").wait_for()
    assert page.page.evaluate(live) == [False, False]
    assert page.page.locator(".photo h3").inner_text().startswith("Camera ")
    assert page.page.locator(".photo img").evaluate("image => image.naturalWidth >= 320")
    page.page.get_by_role("button", name="Use the camera").click()
    page.page.get_by_role("button", name="Start the camera").click()
    page.page.get_by_role("button", name="Take the photo").wait_for()
    page.page.keyboard.press("Escape")
    page.page.wait_for_function(
        f"() => {live}.every((on) => !on)"
    )  # the dialog tells of its end a moment later
    assert page.page.evaluate(live) == [False, False, False]


def test_camera_refused(visit: Callable[..., Visit], service: Service) -> None:
    refuse = (
        "navigator.mediaDevices.getUserMedia = () =>"
        " Promise.reject(new DOMException('denied', 'NotAllowedError'));"
    )
    page = visit(service.url, lambda page: page.add_init_script(refuse))
    page.page.get_by_role("button", name="Use the camera").click()
    page.page.get_by_role("button", name="Start the camera").click()
    page.page.locator("dialog", has_text="not allowed to use the camera").wait_for()
    assert page.page.get_by_role("button", name="Start the camera").is_enabled()


# --- everyone can use it


def test_keyboard(visit: Callable[..., Visit], service: Service) -> None:
    page = visit(service.url)
    reached = []
    for _ in range(6):
        page.page.keyboard.press("Tab")
        reached.append(page.page.evaluate("document.activeElement.id"))
    assert reached == ["files", "use-camera", "on-device", "threshold", "level", "model"]
    page.page.locator("#use-camera").focus()
    page.page.keyboard.press("Enter")
    assert page.page.locator("dialog").is_visible()
    page.page.keyboard.press("Escape")
    assert page.page.evaluate("document.activeElement.id") == "use-camera"


@pytest.mark.parametrize("width", [320, 375])
def test_narrow_screen(
    visit: Callable[..., Visit], service: Service, two_faces: Path, broken: Path, width: int
) -> None:
    page = visit(service.url, viewport={"width": width, "height": 640})
    page.add(two_faces, broken)
    page.complaints[:] = [told for told in page.complaints if "422" not in told]
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = (
        "elements => elements.filter(element => element.getBoundingClientRect().right > innerWidth).length"
    )
    assert page.page.locator("button, select, input, label, .curve, .face, .error").evaluate_all(beyond) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility_rules(
    visit: Callable[..., Visit], service: Service, two_faces: Path, broken: Path, scheme: str
) -> None:
    if not AXE.is_file():
        pytest.skip("no axe-core: run `npm ci` in web/")
    page = visit(service.url, color_scheme=scheme)
    page.page.evaluate(AXE.read_text(encoding="utf-8"))

    def assert_accessible() -> None:
        found = page.page.evaluate("axe.run({resultTypes: ['violations']})")
        broken_rules = [
            f"{rule['id']}: {node['html']} {node['failureSummary']}"
            for rule in found["violations"]
            for node in rule["nodes"]
        ]
        assert broken_rules == []
        assert len(found["passes"]) > 15

    assert_accessible()
    page.add(two_faces, broken)
    page.complaints[:] = [told for told in page.complaints if "422" not in told]
    assert_accessible()
    page.page.get_by_role("button", name="Use the camera").click()
    page.page.get_by_role("button", name="Start the camera").click()
    page.page.get_by_role("button", name="Take the photo").wait_for()
    assert_accessible()


# --- estimated in the page


@pytest.fixture
def engine() -> None:
    if not ENGINE.joinpath("ort-wasm-simd-threaded.wasm.gz").is_file():
        pytest.skip("built without npm: no engine for estimation in the browser")


@pytest.mark.parametrize(
    "told", [{"json": {"missing": "npm was not found when it was built"}}, {"status": 404}]
)
def test_switch_is_disabled_without_engine(
    visit: Callable[..., Visit], service: Service, told: dict[str, Any], portrait: Path
) -> None:
    without = lambda page: page.route("**/engine/manifest.json", lambda route: route.fulfill(**told))  # noqa: E731
    page = visit(service.url, without)
    assert page.page.locator("#on-device").is_disabled()
    reason = "npm was not found" if "json" in told else "without the engine"
    assert reason in page.text("#privacy-state")
    assert page.add(portrait).locator(".face").count() == 1
    page.complaints[:] = [told for told in page.complaints if "404" not in told]


def test_nothing_is_sent_if_the_engine_fails(
    visit: Callable[..., Visit], service: Service, portrait: Path
) -> None:
    manifest = {"files": [{"name": "ort-wasm-simd-threaded.wasm", "bytes": 1}]}

    def fail(page: Any) -> None:
        page.route("**/engine/*", lambda route: route.abort())
        page.route("**/engine/manifest.json", lambda route: route.fulfill(json=manifest))

    page = visit(service.url, fail)
    page.page.locator("#on-device").check()
    page.page.locator("#privacy[data-state=failed]").wait_for()
    assert "Nothing is sent" in page.text("#privacy-state")
    card = page.add(portrait)
    assert card.locator(".error").is_visible()
    assert card.locator(".face").count() == 0
    assert not any("POST" in request for request in page.sent)
    page.complaints[:] = [told for told in page.complaints if "ERR_FAILED" not in told]


@contextlib.contextmanager
def counting_listener(port: int) -> Iterator[list[str]]:
    """Take the place of a server that has gone, and note whoever knocks."""
    knocks: list[str] = []
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        listener.settimeout(0.1)
        ended = threading.Event()

        def count() -> None:
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    connection, address = listener.accept()
                    knocks.append(str(address))
                    connection.close()

        thread = threading.Thread(target=count)
        thread.start()
        yield knocks
        ended.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_offline_without_the_server(
    visit: Callable[..., Visit], portrait: Path, two_faces: Path, no_face: Path, broken: Path, estimator: Any
) -> None:
    with running_service() as doomed:
        page = visit(doomed.url)
        page.keep_on_device()
        assert "Ready offline" in page.text("#privacy-state")
        doomed.stop()
        asked = len(page.sent)
        with counting_listener(doomed.port) as knocks:
            card = page.add(portrait)
            assert assert_like_python(card, portrait, estimator) == 1
            assert "was not sent" in card.locator("[data-part=state]").inner_text()
            assert assert_like_python(page.add(two_faces), two_faces, estimator) == 2
            assert page.add(no_face).locator(".notes").inner_text() == "No face was found."
            assert "cannot be read" in page.add(broken).locator(".error").inner_text()
            page.page.get_by_role("button", name="Use the camera").click()
            page.page.get_by_role("button", name="Start the camera").click()
            page.page.get_by_role("button", name="Take the photo").click()
            page.page.locator(".photo.done h3", has_text="Camera").wait_for()
            page.page.fill("#threshold", "25")
            time.sleep(0.5)
            assert (
                page.page.evaluate("navigator.serviceWorker.getRegistrations().then((all) => all.length)")
                == 0
            )
            assert page.sent[asked:] == []
            page.page.close()  # when beacons are sent
            time.sleep(0.5)
        assert knocks == []
        assert page.sent[asked:] == []


def _swapped_profile() -> bytes:
    """A colour profile that takes red for blue: whoever applies it sees blue faces."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = struct.unpack_from(">I", profile, 128)[0]
    entries = {bytes(profile[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, blue = entries[b"rXYZ"], entries[b"bXYZ"]
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(profile)


def _variants(portrait: Path, folder: Path) -> Iterator[Path]:
    """The portrait in the forms in which photos come."""
    with Image.open(portrait) as opened:
        picture = opened.convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6
    transparent = picture.convert("RGBA")
    transparent.putalpha(Image.linear_gradient("L").rotate(180).resize(picture.size))
    large = picture.resize((2900, 2900), Image.Resampling.BICUBIC)
    saved: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "turned.jpg": (picture.transpose(Image.Transpose.ROTATE_90), {"exif": turned, "quality": 95}),
        "grey.jpg": (picture.convert("L"), {}),
        "profile.jpg": (picture, {"icc_profile": _swapped_profile(), "quality": 95}),
        "palette.gif": (picture.quantize(64), {}),
        "transparent.png": (transparent, {}),
        "photo.webp": (picture, {"lossless": True}),
        "bitmap.bmp": (picture, {}),
        "cut.png": (picture.crop((150, 60, 260, 200)), {}),
        "large.jpg": (large.crop((300, 0, 2900, 2100)), {"quality": 90}),
    }
    for name, (image, options) in saved.items():
        path = folder / name
        image.save(path, **options)
        yield path


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_page_estimates_as_python_does(
    visit: Callable[..., Visit], service: Service, portrait: Path, tmp_path: Path, estimator: Any
) -> None:
    page = visit(service.url)
    page.keep_on_device()
    seen = [assert_like_python(page.add(path), path, estimator) for path in _variants(portrait, tmp_path)]
    assert seen == [1] * 9
    page.page.select_option("#model", "resnet10-tiny-lrn-utkface-mirrored")
    page.page.locator("#privacy[data-state=ready]").wait_for()
    from agelens import AgeEstimator

    mirrored = AgeEstimator("resnet10-tiny-lrn-utkface-mirrored")
    assert assert_like_python(page.add(portrait), portrait, mirrored) == 1
    assert not any("POST" in request for request in page.sent)


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_page_estimates_real_photos_as_python_does(
    visit: Callable[..., Visit], service: Service, shared: Path, estimator: Any
) -> None:
    page = visit(service.url)
    photos = sorted((shared / "data" / "photos").glob("*.jpg"))
    by_server = [page.add(path).locator("li:not(.face)").all_inner_texts() for path in photos]
    page.keep_on_device()
    faces = 0
    for path, warnings in zip(photos, by_server, strict=True):
        card = page.add(path)
        faces += assert_like_python(card, path, estimator)
        assert card.locator("li:not(.face)").all_inner_texts() == warnings
    assert faces > 50


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_choice_is_remembered_and_binds_photos_at_once(
    visit: Callable[..., Visit], service: Service, portrait: Path
) -> None:
    page = visit(service.url)
    page.keep_on_device()
    held: list[Any] = []
    page.page.route("**/v1/models", lambda route: held.append(route))
    page.page.reload()
    page.page.set_input_files("#files", str(portrait))  # before anything is loaded
    page.page.locator("#on-device").uncheck()
    assert len(held) == 1
    held[0].continue_()
    page.page.locator(".photo.done").wait_for()
    assert "was not sent" in page.text(".photo [data-part=state]")
    assert not any("POST" in request for request in page.sent)
