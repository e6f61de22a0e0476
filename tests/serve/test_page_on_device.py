"""Photos that stay on the device: the page estimates by itself as Python does, and sends nothing."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageCms

PAGE = Path(__file__).parents[2] / "src" / "agelens" / "serve" / "page"
ENGINE = PAGE / "engine"


# --- estimated in the page


@pytest.fixture
def engine() -> None:
    if not ENGINE.joinpath("ort-wasm-simd-threaded.wasm.gz").is_file():
        pytest.skip("built without npm: no engine for estimation in the browser")


@pytest.mark.parametrize(
    "told", [{"json": {"missing": "npm was not found when it was built"}}, {"status": 404}]
)
def test_switch_is_disabled_without_engine(
    visit: Callable[..., Any], paged: Any, told: dict[str, Any], portrait: Path
) -> None:
    without = lambda page: page.route("**/engine/manifest.json", lambda route: route.fulfill(**told))  # noqa: E731
    page = visit(paged.url, without)
    assert page.page.locator("#on-device").is_disabled()
    reason = "npm was not found" if "json" in told else "without the engine"
    assert reason in page.text("#privacy-state")
    assert page.add(portrait).locator(".face").count() == 1
    page.excused.append("404")


def test_nothing_is_sent_if_the_engine_fails(visit: Callable[..., Any], paged: Any, portrait: Path) -> None:
    manifest = {"files": [{"name": "ort-wasm-simd-threaded.wasm", "bytes": 1}]}

    def fail(page: Any) -> None:
        page.route("**/engine/*", lambda route: route.abort())
        page.route("**/engine/manifest.json", lambda route: route.fulfill(json=manifest))

    page = visit(paged.url, fail)
    page.page.locator("#on-device").check()
    page.page.locator("#privacy[data-state=failed]").wait_for()
    assert "Nothing is sent" in page.text("#privacy-state")
    card = page.add(portrait)
    assert card.locator(".error").is_visible()
    assert card.locator(".face").count() == 0
    assert not any("POST" in request for request in page.sent)
    page.excused.append("ERR_FAILED")


@contextlib.contextmanager
def counting_listener(port: int) -> Iterator[list[str]]:
    """Take the place of a server that has gone, and note whoever asks for something, and for what.

    Not noted: connections that ask for nothing (a browser opens some in advance), and the browser's own check
    for a newer service worker, whose moment it chooses itself.
    """
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
                    connection, _ = listener.accept()
                    with connection:
                        connection.settimeout(1)
                        asked = b""
                        with contextlib.suppress(OSError):
                            asked = connection.recv(4096)
                    if asked and not (
                        asked.startswith(b"GET /sw.js ") and b"Service-Worker: script" in asked
                    ):
                        knocks.append(asked.decode("latin-1"))

        thread = threading.Thread(target=count)
        thread.start()
        yield knocks
        ended.set()
        thread.join()


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_offline_without_the_server(
    visit: Callable[..., Any],
    portrait: Path,
    two_faces: Path,
    no_face: Path,
    broken: Path,
    estimator: Any,
    assert_like_python: Callable[..., int],
    running_service: Callable[..., Any],
) -> None:
    with running_service() as doomed:
        page = visit(doomed.url)
        page.keep_on_device()
        page.page.locator("#privacy-state", has_text="after a reload too").wait_for()
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
    named = "sRGB".encode("utf-16-be")
    assert named in profile
    return bytes(profile).replace(named, "swap".encode("utf-16-be"))  # profiles of sRGB are not applied


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
    visit: Callable[..., Any],
    paged: Any,
    portrait: Path,
    tmp_path: Path,
    estimator: Any,
    assert_like_python: Callable[..., int],
) -> None:
    page = visit(paged.url)
    page.keep_on_device()
    seen = [assert_like_python(page.add(path), path, estimator) for path in _variants(portrait, tmp_path)]
    assert seen == [1] * 9
    page.page.select_option("#model", "resnet10-tiny-lrn-utkface-mirrored")
    page.page.wait_for_function("() => document.querySelectorAll('.photo.done').length === 9", timeout=60_000)
    page.page.locator("#privacy[data-state=ready]").wait_for()
    from agelens import AgeEstimator

    mirrored = AgeEstimator("resnet10-tiny-lrn-utkface-mirrored")
    assert assert_like_python(page.add(portrait), portrait, mirrored) == 1
    assert not any("POST" in request for request in page.sent)


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_page_estimates_real_photos_as_python_does(
    visit: Callable[..., Any],
    paged: Any,
    shared: Path,
    estimator: Any,
    assert_like_python: Callable[..., int],
) -> None:
    page = visit(paged.url)
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
    visit: Callable[..., Any], paged: Any, portrait: Path
) -> None:
    page = visit(paged.url, service_workers="block")  # else requests pass the test by
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
    page.excused.append("registration blocked")


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_the_page_works_after_a_reload_without_the_server(
    visit: Callable[..., Any],
    running_service: Callable[..., Any],
    portrait: Path,
    estimator: Any,
    assert_like_python: Callable[..., int],
) -> None:
    with running_service() as doomed:
        page = visit(doomed.url)
        page.keep_on_device()
        page.page.locator("#privacy-state", has_text="after a reload too").wait_for()
        doomed.stop()
        page.page.reload()
        page.page.locator("#privacy[data-state=ready]").wait_for(timeout=60_000)
        assert assert_like_python(page.add(portrait), portrait, estimator) == 1
        page.page.get_by_role("button", name="Try an example").click()
        page.page.locator(".photo.done").nth(1).wait_for()
        page.page.locator("#on-device").uncheck()  # what was kept is let go of
        page.page.wait_for_function(
            "async () => (await navigator.serviceWorker.getRegistrations()).length === 0"
            " && !(await caches.has('agelens'))"
        )
        page.excused += ["ERR_CONNECTION_REFUSED", "ERR_FAILED"]  # asked of the server that has gone


def test_every_file_of_the_page_is_kept() -> None:
    kept = set(re.findall(r'^  "([^"]+)",$', (PAGE / "offline.js").read_text(), re.MULTILINE))
    laid = {path.relative_to(PAGE).as_posix() for path in PAGE.rglob("*") if path.is_file()}
    laid = {name for name in laid if not name.startswith("engine/")} - {"index.html", "sw.js"}
    engine = {"engine/manifest.json", "engine/ort.wasm.bundle.min.mjs", "engine/ort-wasm-simd-threaded.wasm"}
    assert kept == laid | engine | {"./"}


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_a_photo_of_more_pixels_than_allowed_is_made_smaller(
    visit: Callable[..., Any], running_service: Callable[..., Any], portrait: Path, tmp_path: Path
) -> None:
    path = tmp_path / "large.png"
    with Image.open(portrait) as opened:
        opened.convert("RGB").resize((1600, 1600)).save(path)
    with running_service("--max-pixels", "1000000") as small:
        page = visit(small.url)
        page.keep_on_device()
        page.page.locator("#privacy-state", has_text="after a reload too").wait_for()
        card = page.add(path)
        assert "to 1000 × 1000 pixels" in card.locator(".notes").inner_text()
        assert card.locator(".face").count() == 1
        assert not any("POST" in request for request in page.sent)
