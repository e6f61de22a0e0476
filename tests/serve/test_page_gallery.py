"""The page with many photos, other models, folders, odd names, and photos over the limits."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from agelens.inference.shipped_models import DEFAULT_MODEL


def test_another_model_estimates_every_photo_again(
    visit: Callable[..., Any],
    paged: Any,
    portrait: Path,
    two_faces: Path,
    broken: Path,
    assert_like_python: Callable[..., int],
) -> None:
    from agelens import AgeEstimator

    page = visit(paged.url)
    page.add(portrait, two_faces, broken)
    page.excused.append("422")
    states = page.page.locator(".photo [data-part=state]")
    assert [f" with {DEFAULT_MODEL} in " in text for text in states.all_inner_texts()] == [
        False,
        True,
        True,
    ]
    other = "student-strided-utkface"
    page.page.select_option("#model", other)
    page.page.wait_for_function(
        "model => [...document.querySelectorAll('.photo:not(.failed) [data-part=state]')]"
        ".filter((state) => state.textContent.includes(` with ${model} in `)).length === 2",
        arg=other,
    )
    page.page.locator(".photo.failed").wait_for()
    page.excused.append("422")
    cards = page.page.locator(".photo")
    assert assert_like_python(cards.nth(2), portrait, AgeEstimator(other)) == 1
    assert assert_like_python(cards.nth(1), two_faces, AgeEstimator(other)) == 2


def test_a_failed_photo_can_be_tried_again(visit: Callable[..., Any], paged: Any, portrait: Path) -> None:
    page = visit(paged.url)
    page.page.route("**/v1/estimate*", lambda route: route.abort())
    card = page.add(portrait)
    assert card.locator(".error").is_visible()
    page.page.unroute("**/v1/estimate*")
    card.get_by_role("button", name="Try again").click()
    card.locator(".face").wait_for()
    assert card.locator(".error").is_hidden()
    assert card.get_by_role("button", name="Try again").count() == 0
    page.excused.append("ERR_FAILED")


_FOLDER = """([bytes, names]) => {
    const content = Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0));
    const entry = (name) => ({isDirectory: false, name, file: (done) => done(new File([content], name))});
    const inner = {isDirectory: true, name: 'inner', createReader: () => reader([entry('inner.png')])};
    const reader = (all) => ({readEntries: (done) => done(all.splice(0, 2))});
    const folder = {isDirectory: true, name: 'f', createReader: () => reader([...names.map(entry), inner])};
    const carrier = new DataTransfer();
    carrier.items.add(new File([''], 'f'));
    DataTransferItem.prototype.webkitGetAsEntry = () => folder;
    const options = {dataTransfer: carrier, bubbles: true, cancelable: true};
    document.body.dispatchEvent(new DragEvent('drop', options));
}"""


def test_a_dropped_folder_gives_its_photos(visit: Callable[..., Any], paged: Any, no_face: Path) -> None:
    page = visit(paged.url)
    content = base64.b64encode(no_face.read_bytes()).decode()
    page.page.evaluate(_FOLDER, [content, ["b.png", "notes.txt", "a.JPG", ".hidden.png", "c.heic"]])
    page.page.locator(".photo.done").nth(3).wait_for()
    names = page.page.locator(".photo h3").all_inner_texts()
    assert names == ["inner.png", "c.heic", "b.png", "a.JPG"]
    assert "2 files are no photos or clips by their names" in page.text("#message")


def test_names_cannot_turn_the_text_around(
    visit: Callable[..., Any], paged: Any, no_face: Path, tmp_path: Path
) -> None:
    path = tmp_path / "photo\u202egpj.png"
    path.write_bytes(no_face.read_bytes())
    card = visit(paged.url).add(path)
    assert card.locator("h3").inner_text() == "photogpj.png"
    assert card.locator("h3 bdi").count() == 1
    assert card.get_by_role("button", name="Remove photogpj.png").count() == 1


def test_example_photo(
    visit: Callable[..., Any],
    paged: Any,
    portrait: Path,
    estimator: Any,
    assert_like_python: Callable[..., int],
) -> None:
    page = visit(paged.url)
    page.page.get_by_role("button", name="Try an example").click()
    page.page.locator(".photo.done").wait_for()
    assert assert_like_python(page.page.locator(".photo"), portrait, estimator) == 1


def test_photos_over_the_limits_are_made_smaller(
    visit: Callable[..., Any],
    portrait: Path,
    tmp_path: Path,
    estimator: Any,
    running_service: Callable[..., Any],
) -> None:
    """One has too many bytes, the other too many pixels; both show the face."""
    with Image.open(portrait) as opened:
        picture = opened.convert("RGB")
    noise = np.random.default_rng(0).integers(0, 60, (512, 512, 3), np.uint8)
    heavy, large = tmp_path / "heavy.png", tmp_path / "large.jpg"
    Image.fromarray(np.asarray(picture) // 2 + noise).save(heavy)
    picture.resize((1500, 1500)).save(large)
    with running_service("--max-body", "0.4", "--max-pixels", "1000000") as small:
        page = visit(small.url)
        for path in (heavy, large):
            assert path.stat().st_size > 4e5 or path is large
            card = page.add(path)
            assert card.locator(".face").count() == 1
            assert "Made smaller in this page" in card.locator(".notes").inner_text()
        page.excused.append("422")
        age = float(card.locator(".face").get_attribute("data-age"))
        assert age == pytest.approx(estimator.estimate(portrait)[0].age, abs=3)


def test_a_file_that_cannot_be_made_smaller(
    visit: Callable[..., Any], tmp_path: Path, running_service: Callable[..., Any]
) -> None:
    path = tmp_path / "noise.jpg"
    path.write_bytes(np.random.default_rng(0).bytes(200_000))
    with running_service("--max-body", "0.1") as small:
        card = visit(small.url).add(path)
    assert "0.2 MiB" in card.locator(".error").inner_text()
    assert "cannot make it smaller" in card.locator(".error").inner_text()


def _drawn(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"photo {number}.png" for number in range(1, count + 1)]
    for number, path in enumerate(paths):
        Image.new("RGB", (300, 200), (number * 3, 90, 60)).save(path)
    return paths


@pytest.mark.slow
def test_sixty_photos_are_a_gallery(
    visit: Callable[..., Any], paged: Any, portrait: Path, tmp_path: Path
) -> None:
    page = visit(paged.url)
    page.page.set_input_files("#files", [str(path) for path in (*_drawn(tmp_path, 59), portrait)])
    page.page.locator("[data-part=progress]").wait_for()
    page.page.locator(".photo.done").nth(59).wait_for(timeout=120_000)
    assert page.page.locator("[data-part=progress]").is_hidden()
    assert page.page.evaluate("document.documentElement.scrollHeight") < 6000
    page.page.select_option("[data-part=order]", "name")
    assert page.page.locator(".photo h3").all_inner_texts()[:3] == [
        "astronaut.jpg",
        "photo 1.png",
        "photo 2.png",
    ]
    page.page.select_option("[data-part=order]", "oldest")
    card = page.page.locator(".photo").first
    assert card.locator("h3").inner_text() == "astronaut.jpg"
    assert card.locator(".face").is_hidden()
    assert card.locator(".summary").inner_text() == card.locator(".box b").text_content()
    card.get_by_role("button", name="Details").click()
    assert card.locator(".face").is_visible()
    assert card.get_by_role("button", name="Details").get_attribute("aria-expanded") == "true"


def test_cancel_leaves_the_rest(visit: Callable[..., Any], paged: Any, tmp_path: Path) -> None:
    page = visit(paged.url)
    held: list[Any] = []
    page.page.route("**/v1/estimate*", lambda route: held.append(route))
    page.page.set_input_files("#files", [str(path) for path in _drawn(tmp_path, 3)])
    page.page.get_by_role("button", name="Cancel").click()
    page.page.locator(".photo.failed").nth(1).wait_for()
    held[0].continue_()
    page.page.locator(".photo.done").nth(2).wait_for()
    assert len(held) == 1
    assert page.page.locator(".photo.failed .error").first.inner_text().startswith("Not estimated")
    page.page.unroute("**/v1/estimate*")
    page.page.get_by_role("button", name="Try again: photo 3.png").click()
    page.page.wait_for_function("() => document.querySelectorAll('.photo.failed').length === 1")


def test_many_faces_are_folded_and_boxes_lead_to_them(
    visit: Callable[..., Any], paged: Any, portrait: Path, tmp_path: Path
) -> None:
    with Image.open(portrait) as opened:
        head = opened.convert("RGB").crop((150, 20, 310, 200))
    crowd = Image.new("RGB", (160 * 4, 180 * 2))
    for place in range(8):
        crowd.paste(head, (160 * (place % 4), 180 * (place // 4)))
    path = tmp_path / "crowd.png"
    crowd.save(path)
    card = visit(paged.url).add(path)
    assert card.locator(".box").count() == 8
    assert card.locator(".face:visible").count() == 4
    overlaps = card.locator(".box").evaluate_all(
        "boxes => boxes.flatMap((box) => { const label = box.querySelector('.label').getBoundingClientRect();"
        " return boxes.filter((other) => { const {left, right, top, bottom} = other.getBoundingClientRect();"
        " return other !== box && label.left < right && label.right > left && label.top < bottom"
        " && label.bottom > top; }); }).length"
    )
    assert overlaps == 0
    card.locator(".box").nth(6).focus()
    assert card.locator(".face.lit").count() == 1
    card.page.keyboard.press("Enter")
    assert card.locator(".face:visible").count() == 8
    assert card.locator(".face.lit .badge").inner_text() == "Face 7"
    card.locator(".face.lit .badge").press("Enter")
    assert card.locator(".box:focus .number").inner_text() == "7"
    card.get_by_role("button", name="Show the largest 4 only").click()
    assert card.locator(".face:visible").count() == 4
    card.locator(".box").nth(1).click()
    assert card.locator(".face.lit .badge").inner_text() == "Face 2"


@pytest.mark.slow
def test_avif_is_read_by_the_server_too(
    visit: Callable[..., Any], paged: Any, portrait: Path, tmp_path: Path
) -> None:
    from PIL import features

    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = tmp_path / "photo.avif"
    with Image.open(portrait) as opened:
        opened.convert("RGB").save(path, quality=90)
    assert visit(paged.url).add(path).locator(".face").count() == 1


@pytest.mark.slow
def test_a_wrong_token_is_said_in_words(
    visit: Callable[..., Any], running_service: Callable[..., Any]
) -> None:
    with running_service(AGELENS_TOKEN="open-sesame-0123456789") as guarded:
        page = visit(guarded.url)
        assert page.page.locator("#token-refused").is_hidden()
        page.page.get_by_label("This server asks for a token").fill("wrong")
        page.page.get_by_role("button", name="Use it").click()
        page.page.locator("#token-refused").wait_for()
        assert "did not accept this token" in page.text("#token-form")
        assert "Authorization" not in page.text("main")
        page.excused.append("401")
