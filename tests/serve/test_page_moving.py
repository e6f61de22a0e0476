"""The page with moving pictures: the camera with ages while it runs, clips; and results that are saved."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import agelens

ENGINE = Path(__file__).parents[2] / "src" / "agelens" / "serve" / "page" / "engine"

# A camera that the test draws: the example photo at a place that it chooses, or nobody.
_CAMERA = """
const canvas = Object.assign(document.createElement('canvas'), {width: 640, height: 512});
const context = canvas.getContext('2d');
const photo = Object.assign(new Image(), {src: 'example.jpg'});
window.scene = null;
setInterval(() => {
    context.fillStyle = `rgb(90, 110, ${130 + Date.now() % 2})`;
    context.fillRect(0, 0, 640, 512);
    if (window.scene !== null) context.drawImage(photo, window.scene, 0);
}, 50);
navigator.mediaDevices.getUserMedia = async () => (window.stream = canvas.captureStream());
"""


@pytest.fixture
def engine() -> None:
    if not ENGINE.joinpath("ort-wasm-simd-threaded.wasm.gz").is_file():
        pytest.skip("built without npm: no engine for estimation in the browser")


def _before_the_camera(page: Any) -> None:
    page.page.get_by_role("button", name="Use the camera").click()
    page.page.get_by_role("button", name="Start the camera").click()
    page.page.get_by_label("Show ages live").check()


@pytest.mark.usefixtures("engine")
def test_live_ages_follow_a_person_and_go_with_them(
    visit: Callable[..., Any], paged: Any, portrait: Path, estimator: Any
) -> None:
    page = visit(paged.url, lambda page: page.add_init_script(_CAMERA))
    page.page.set_default_timeout(60_000)
    _before_the_camera(page)
    page.page.locator("[data-part=live-state]", has_text="a second, estimated in this page").wait_for()
    assert page.page.locator(".mark").count() == 0

    page.page.evaluate("scene = 0")
    mark = page.page.locator(".mark:not(.settling)")
    mark.wait_for()
    (face,) = estimator.estimate(portrait)
    assert float(mark.locator("b").inner_text()) == pytest.approx(face.age, abs=4)
    (told,) = page.page.locator("[data-part=people] li").all_inner_texts()
    assert told.startswith(f"Person 1: about {mark.locator('b').inner_text()} years, ")
    page.page.locator("#announcements", has_text="Person 1: about").wait_for()
    share = (face.box[0] + face.box[2]) / 2 / 640
    place = page.page.evaluate(
        "(() => { const {style} = document.querySelector('.mark');"
        " return (parseFloat(style.left) + parseFloat(style.width) / 2) / 100; })()"
    )
    assert place == pytest.approx(1 - share, abs=0.05), "the picture is mirrored, and so are the boxes"

    page.page.evaluate("scene = null")
    page.page.locator(".mark").wait_for(state="detached")
    page.page.locator("[data-part=people] li").wait_for(state="detached")

    page.page.evaluate("scene = 0")
    page.page.locator(".mark").first.wait_for()
    page.page.get_by_role("button", name="Stop the camera").click()
    assert page.page.locator(".mark, [data-part=people] li").count() == 0
    assert not any("POST" in request for request in page.sent)


@pytest.mark.usefixtures("engine")
def test_a_camera_that_goes_away_leaves_no_marks(visit: Callable[..., Any], paged: Any) -> None:
    page = visit(paged.url, lambda page: page.add_init_script(_CAMERA))
    page.page.set_default_timeout(60_000)
    _before_the_camera(page)
    page.page.evaluate("scene = 0")
    page.page.locator(".mark").wait_for()
    page.page.evaluate("stream.getTracks()[0].dispatchEvent(new Event('ended'))")
    page.page.locator("#camera [data-part=note]", has_text="The camera has gone").wait_for()
    assert page.page.locator(".mark, [data-part=people] li").count() == 0
    assert page.page.get_by_role("button", name="Start the camera").is_visible()


def test_no_live_ages_without_the_engine(visit: Callable[..., Any], paged: Any) -> None:
    def prepare(page: Any) -> None:
        page.add_init_script(_CAMERA)
        page.route("**/engine/manifest.json", lambda route: route.fulfill(json={"missing": "no npm"}))

    page = visit(paged.url, prepare)
    page.page.get_by_role("button", name="Use the camera").click()
    page.page.get_by_role("button", name="Start the camera").click()
    page.page.get_by_role("button", name="Take the photo").wait_for()
    page.page.get_by_label("Show ages live").click()
    page.page.locator("[data-part=live-state]", has_text="No live ages: no npm").wait_for()
    assert not page.page.get_by_label("Show ages live").is_checked()


# --- clips

# Videos do not play before they are released.
_HELD = """
const { play } = HTMLVideoElement.prototype;
const released = new Promise((resolve) => { window.release = resolve; });
HTMLVideoElement.prototype.play = function () { return released.then(() => play.call(this)); };
"""


@pytest.fixture(scope="module")
def clip(portrait: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One person who moves for 2 s, then nobody for one more; VP8, which every Chromium plays."""
    av = pytest.importorskip("av", reason="the clip is made with PyAV")
    with Image.open(portrait) as opened:
        person = opened.convert("RGB").crop((150, 20, 310, 200))  # no background that looks like a face
    path = tmp_path_factory.mktemp("clips") / "one person.webm"
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 256, "yuv420p"
        for number in range(30):
            picture = Image.new("RGB", (320, 256), (90, 110, 130))
            if number < 20:
                picture.paste(person, (20 + 3 * number, 30))
            output.mux(stream.encode(av.VideoFrame.from_image(picture)))
        output.mux(stream.encode(None))
    return path


def _saved(page: Any, within: Any, button: str) -> bytes:
    with page.expect_download() as download:
        within.get_by_role("button", name=button).click()
    return Path(download.value.path()).read_bytes()


@pytest.mark.usefixtures("engine")
def test_a_clip_gives_a_row_for_each_person(
    visit: Callable[..., Any],
    paged: Any,
    clip: Path,
    assert_accessible: Callable[[Any], None],
) -> None:
    page = visit(paged.url, lambda page: page.add_init_script(_HELD))
    page.page.set_default_timeout(60_000)
    page.page.set_input_files("#files", str(clip))
    card = page.page.locator(".clip")
    card.locator("[data-part=state]", has_text="Estimating in this page").wait_for()
    card.get_by_role("button", name="Stop").click()
    page.page.evaluate("release()")
    card.get_by_text("Stopped at 0:00.0").wait_for()
    assert card.locator("tbody tr").get_attribute("data-frames") == "1"

    card.get_by_role("button", name="Try again").click()
    page.page.locator(".clip.done tbody tr").wait_for()
    assert card.locator(".error").is_hidden(), card.inner_text()
    row = card.locator("tbody tr")
    assert row.count() == 1
    assert "Person 1" in row.inner_text()
    (person,) = agelens.estimate_video(clip)
    age, low, high = (float(row.get_attribute(f"data-{name}")) for name in ("age", "low", "high"))
    assert age == pytest.approx(person.age, abs=1.5)
    assert [low, high] == pytest.approx(list(person.interval(0.9)), abs=3)
    assert card.get_by_role("img", name="person 1 from 0:0").count() == 1
    assert not any("POST" in request for request in page.sent)

    row.get_by_role("button", name="Person 1").click()
    card.locator(".mark b", has_text=str(round(age))).wait_for()
    assert_accessible(page.page)
    card.locator("video").evaluate("video => video.currentTime = 2.8")
    card.locator(".mark").wait_for(state="detached")

    table = list(csv.DictReader(io.StringIO(_saved(page.page, card, "People as CSV").decode("utf-8-sig"))))
    assert [told["path"] for told in table] == ["one person.webm"]
    assert float(table[0]["age"]) == pytest.approx(age, abs=0.01)
    assert 0.5 < float(table[0]["last"]) < 2.5
    told = json.loads(_saved(page.page, card, "JSON"))
    assert [len(person["distribution"]) for person in told["people"]] == [101]
    assert told["people"][0]["frames"] >= 3
    frames = list(csv.DictReader(io.StringIO(_saved(page.page, card, "Frames as CSV").decode("utf-8-sig"))))
    assert len(frames) == sum(len(frame["people"]) for frame in told["frames"])
    with Image.open(io.BytesIO(_saved(page.page, card, "This picture"))) as picture:
        assert picture.size == (320, 256)


@pytest.mark.usefixtures("engine")
def test_clips_that_cannot_be_played_are_told_and_can_be_removed(
    visit: Callable[..., Any], paged: Any, clip: Path, tmp_path: Path
) -> None:
    broken, empty = tmp_path / "broken.webm", tmp_path / "empty.mp4"
    broken.write_bytes(clip.read_bytes()[:100])
    empty.write_bytes(b"")
    page = visit(paged.url)
    page.page.set_default_timeout(60_000)
    page.add(broken, empty)
    errors = page.page.locator(".clip .error strong").all_inner_texts()
    assert errors == ["This clip cannot be played"] * 2
    page.page.get_by_role("button", name="Remove broken.webm").click()
    assert page.page.locator(".clip").count() == 1


# --- saved results


def test_results_of_photos_are_saved(
    visit: Callable[..., Any], paged: Any, two_faces: Path, no_face: Path, estimator: Any
) -> None:
    page = visit(paged.url)
    page.add(two_faces, no_face)
    rows = list(
        csv.DictReader(io.StringIO(_saved(page.page, page.page, "Save ages as CSV").decode("utf-8-sig")))
    )
    assert [(row["path"], row["face"]) for row in rows] == [
        ("sky.png", ""),
        ("two.png", "1"),
        ("two.png", "2"),
    ]
    assert rows[0]["error"] == "no face found"
    wanted = estimator.estimate(two_faces)
    assert [float(row["age"]) for row in rows[1:]] == pytest.approx([face.age for face in wanted], abs=0.3)
    assert [float(row["high"]) for row in rows[1:]] == pytest.approx(
        [face.interval(0.9)[1] for face in wanted], abs=0.3
    )
    told = json.loads(_saved(page.page, page.page, "as JSON"))
    assert [len(photo["faces"]) for photo in told] == [0, 2]
    with (
        Image.open(two_faces) as original,
        Image.open(io.BytesIO(_saved(page.page, page.page, "Save picture of two.png"))) as marked,
    ):
        assert marked.size == original.size
        x1, y1, x2, _ = wanted[0].box
        assert marked.convert("RGB").getpixel((round((x1 + x2) / 2), round(y1))) == (255, 255, 255)
