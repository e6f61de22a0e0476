"""The page in a real browser: what it shows and sends."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agelens.inference.shipped_models import DEFAULT_MODEL

PROJECT = Path(__file__).parents[2]
ENGINE = PROJECT / "src" / "agelens" / "serve" / "page" / "engine"
AXE = PROJECT / "web" / "node_modules" / "axe-core" / "axe.min.js"


# --- loading


def test_page_is_small_and_asks_nobody_else(visit: Callable[..., Any], paged: Any) -> None:
    page = visit(paged.url)
    assert {request.split()[1].startswith(paged.url + "/") for request in page.sent} == {True}
    entries = "performance.getEntriesByType('resource').concat(performance.getEntriesByType('navigation'))"
    transferred = page.page.evaluate(f"{entries}.reduce((sum, entry) => sum + entry.transferSize, 0)")
    assert 5_000 < transferred < 300_000
    assert not any("/engine/ort" in request or ".onnx" in request for request in page.sent)


def test_page_says_where_photos_go_and_what_it_cannot_know(visit: Callable[..., Any], paged: Any) -> None:
    page = visit(paged.url)
    assert f"the server at {paged.url.removeprefix('http://')}" in page.text("#privacy-state")
    told = page.text("main")
    for words in ("What this cannot know", "no proof of age", "with attribution", "Kärkkäinen and Joo"):
        assert words in told


# --- photos, estimated by the server


def test_upload(
    visit: Callable[..., Any],
    paged: Any,
    portrait: Path,
    estimator: Any,
    assert_like_python: Callable[..., int],
) -> None:
    page = visit(paged.url)
    card = page.add(portrait)
    assert assert_like_python(card, portrait, estimator) == 1
    (face,) = estimator.estimate(portrait)
    age = str(round(face.age))
    assert card.locator(".face [data-part=age]").inner_text() == age
    assert card.locator(".box b").inner_text() == age
    low, high = (round(bound) for bound in face.interval(0.9))
    named = re.compile(rf"^The face ?, about {age} years, ?{low}–{high}$")
    assert card.get_by_role("button", name=named).count() == 1
    assert card.get_by_role("img", name=f"estimate {age}").count() == 1
    assert "one face" in page.text("#announcements")
    assert card.locator("img").evaluate("image => image.naturalWidth > 0 && image.alt.includes('one face')")
    assert [request for request in page.sent if "POST" in request] == [
        f"POST {paged.url}/v1/estimate?model={DEFAULT_MODEL}"
    ]


def test_two_faces_are_numbered(
    visit: Callable[..., Any],
    paged: Any,
    two_faces: Path,
    estimator: Any,
    assert_like_python: Callable[..., int],
) -> None:
    page = visit(paged.url)
    card = page.add(two_faces)
    assert assert_like_python(card, two_faces, estimator) == 2
    assert card.locator(".badge").all_inner_texts() == ["Face 1", "Face 2"]
    assert card.locator(".box .number").all_inner_texts() == ["1", "2"]
    assert "2 faces were found" in card.locator(".notes").inner_text()
    card.locator(".face").nth(1).hover()
    assert card.locator(".box.lit .number").inner_text() == "2"


def test_no_face_and_broken_file(visit: Callable[..., Any], paged: Any, no_face: Path, broken: Path) -> None:
    page = visit(paged.url)
    assert page.add(no_face).locator(".notes").inner_text() == "No face was found."
    failed = page.add(broken)
    assert "damaged" in failed.locator(".error").inner_text()
    assert failed.locator("img").is_hidden()
    assert "broken.jpg" in page.text("#announcements")
    page.excused.append("422")  # the browser's own note
    failed.get_by_role("button", name="Remove broken.jpg").click()
    assert page.page.locator(".photo").count() == 1
    page.page.get_by_role("button", name="Remove all").click()
    assert page.page.locator("#results").is_hidden()


def test_threshold_level_and_model(
    visit: Callable[..., Any],
    paged: Any,
    portrait: Path,
    estimator: Any,
    assert_like_python: Callable[..., int],
    faces_of: Callable[..., Any],
) -> None:
    from agelens import AgeEstimator

    page = visit(paged.url)
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
    other = "resnet10-tiny-lrn-utkface-mirrored"
    page.page.select_option("#model", other)
    card.locator("[data-part=state]", has_text=f" with {other} in ").wait_for()  # estimated anew
    assert_like_python(page.add(portrait), portrait, AgeEstimator(other))


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
def test_paste_and_drop(visit: Callable[..., Any], paged: Any, portrait: Path, how: str) -> None:
    page = visit(paged.url)
    given = base64.b64encode(portrait.read_bytes()).decode()
    if how == "drop":
        page.page.evaluate(_GIVE, [given, "dragenter"])
        assert page.page.locator(".veil").is_visible()
    assert page.page.evaluate(_GIVE, [given, how]) is False  # the browser does not open the file itself
    page.page.locator(".photo.done .face").wait_for()
    assert page.page.locator(".photo h3").inner_text() == "given.jpg"
    assert page.page.locator(".veil").is_hidden()


def test_busy_service_is_asked_again(visit: Callable[..., Any], paged: Any, portrait: Path) -> None:
    page = visit(paged.url)
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
    page.excused.append("503")


def test_silent_server_is_said(visit: Callable[..., Any], paged: Any, portrait: Path) -> None:
    page = visit(paged.url)
    page.page.route("**/v1/estimate*", lambda route: route.abort())
    assert "does not answer" in page.add(portrait).locator(".error").inner_text()
    page.excused.append("ERR_FAILED")


@pytest.mark.slow
def test_token(visit: Callable[..., Any], portrait: Path, running_service: Callable[..., Any]) -> None:
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
        page.page.close()  # before the service goes: whatever it asks for then is no part of this test
        page.excused.append("401")


# --- camera


def test_camera_asks_takes_and_stops(visit: Callable[..., Any], paged: Any) -> None:
    asked = (
        "const real = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices); window.streams = [];"
        "navigator.mediaDevices.getUserMedia = async (wish) =>"
        " { const stream = await real(wish); window.streams.push(stream); return stream; };"
    )
    page = visit(paged.url, lambda page: page.add_init_script(asked), permissions=["camera"])
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


def test_camera_refused(visit: Callable[..., Any], paged: Any) -> None:
    refuse = (
        "navigator.mediaDevices.getUserMedia = () =>"
        " Promise.reject(new DOMException('denied', 'NotAllowedError'));"
    )
    page = visit(paged.url, lambda page: page.add_init_script(refuse))
    page.page.get_by_role("button", name="Use the camera").click()
    page.page.get_by_role("button", name="Start the camera").click()
    page.page.locator("dialog", has_text="not allowed to use the camera").wait_for()
    assert page.page.get_by_role("button", name="Start the camera").is_enabled()


# --- everyone can use it


def test_keyboard(visit: Callable[..., Any], paged: Any) -> None:
    page = visit(paged.url)
    reached = []
    for _ in range(7):
        page.page.keyboard.press("Tab")
        reached.append(page.page.evaluate("document.activeElement.id"))
    assert reached == ["files", "use-camera", "use-example", "on-device", "threshold", "level", "model"]
    page.page.locator("#use-camera").focus()
    page.page.keyboard.press("Enter")
    assert page.page.locator("dialog").is_visible()
    page.page.keyboard.press("Escape")
    assert page.page.evaluate("document.activeElement.id") == "use-camera"


@pytest.mark.parametrize("width", [320, 375])
def test_narrow_screen(
    visit: Callable[..., Any], paged: Any, two_faces: Path, broken: Path, width: int
) -> None:
    page = visit(paged.url, viewport={"width": width, "height": 640})
    page.add(two_faces, broken)
    page.excused.append("422")
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = (
        "elements => elements.filter(element => element.getBoundingClientRect().right > innerWidth).length"
    )
    assert page.page.locator("button, select, input, label, .curve, .face, .error").evaluate_all(beyond) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessibility_rules(
    visit: Callable[..., Any],
    paged: Any,
    two_faces: Path,
    broken: Path,
    scheme: str,
    assert_accessible: Callable[[Any], None],
) -> None:
    if not AXE.is_file():
        pytest.skip("no axe-core: run `npm ci` in web/")
    page = visit(paged.url, color_scheme=scheme)
    assert_accessible(page.page)
    page.add(two_faces, broken)
    page.excused.append("422")
    assert_accessible(page.page)
    page.page.get_by_role("button", name="Use the camera").click()
    page.page.get_by_role("button", name="Start the camera").click()
    page.page.get_by_role("button", name="Take the photo").wait_for()
    assert_accessible(page.page)
