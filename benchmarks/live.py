"""Frames a second of moving pictures in the page, in a browser, against frame by frame in the same worker.

The example portrait moves over a grey picture of 640 x 360, once and more often. Slices of both take turns:

tracked          as the camera's view works: faces are followed, the whole picture is searched now and then;
frame by frame   every frame is searched whole, and every face in it is estimated, as if it were a photo.

The frames are a fifteenth of a second apart by their times, however long they take, so that both do the work
of 15 frames a second. On a machine with other work the ratio tells more than the rates.

With ``--camera CLIP…`` each clip is instead what Chromium's own camera shows, over and over, and the page is
used as people use it: Use the camera, Start the camera, Show ages live. Counted are the frames that it tells
the ages of, by the clock.

Needs Chromium, playwright and the page's engine; ``--camera`` PyAV, too.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

_FRAMES = """async ([people, count, tracked]) => {
    const { Device } = await import('/device.js');
    if (!window.bench) {
        const offer = await (await fetch('/v1/models')).json();
        const model = offer.models.find(({ name }) => name === offer.default);
        const [minimum, maximum] = model.age_bins.split('-').map(Number);
        model.bins = { minimum, maximum };
        const device = new Device(() => {});
        await device.load({ model, detector: offer.detector, engineBytes: 1, token: '' }, () => {});
        const photo = await createImageBitmap(await (await fetch('/example.jpg')).blob());
        const canvas = Object.assign(document.createElement('canvas'), { width: 640, height: 360 });
        window.bench = { device, model, photo, canvas, context: canvas.getContext('2d'), number: 0 };
    }
    const { device, model, photo, canvas, context } = bench;
    const share = photo.width / 512;
    const begin = performance.now();
    for (let frame = 0; frame < count; frame++) {
        const number = ++bench.number;
        context.fillStyle = 'grey';
        context.fillRect(0, 0, 640, 360);
        for (let person = 0; person < people; person++) {
            const x = (person * 125 + 12 * Math.sin(number / 10)) % 640;
            const head = [150, 20, 160, 180].map((side) => side * share);
            context.drawImage(photo, ...head, x, 60 + 40 * (person % 2), 120, 135);
        }
        const bitmap = await createImageBitmap(canvas);
        const stream = tracked ? `${people} people` : `frame ${number}`;
        const rest = tracked ? 0.25 : 0;
        await device.follow({ stream, model, bitmap, time: number / 15, rest });
        if (!tracked) await device.finish(stream);
    }
    return (1000 * count) / (performance.now() - begin);
}"""


def measure(page: Any, people: int, rounds: int, frames: int) -> str:
    """Take turns, and tell the medians."""
    rates: dict[bool, list[float]] = {True: [], False: []}
    page.evaluate(_FRAMES, [people, 20, True])  # until the ages have settled, and the engine is warm
    page.evaluate(_FRAMES, [people, 5, False])
    for _ in range(rounds):
        for tracked in (True, False):
            rates[tracked].append(page.evaluate(_FRAMES, [people, frames, tracked]))
    ratios = [one / other for one, other in zip(rates[True], rates[False], strict=True)]
    tracked, single = (statistics.median(rates[way]) for way in (True, False))
    return (
        f"{people} people: tracked {tracked:.1f} frames/s, frame by frame {single:.1f}, ratio "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


# Counts the frames of some seconds: [frames a second, how many people were marked after each].
_LIVE = """async (seconds) => {
    const state = document.querySelector('[data-part=live-state]');
    const marks = document.querySelector('#camera [data-part=marks]');
    const people = [];
    const count = () => Number(state.dataset.frames);
    const observer = new MutationObserver(() => people.push(marks.children.length));
    observer.observe(state, { attributes: true, attributeFilter: ['data-frames'] });
    const [begin, first] = [performance.now(), count()];
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
    const rate = (1000 * (count() - first)) / (performance.now() - begin);
    observer.disconnect();
    return [rate, people];
}"""


def measure_camera(page: Any, url: str, seconds: float) -> str:
    """Look at the camera as a user does, and tell how many frames a second have ages."""
    page.goto(url)
    page.set_default_timeout(120_000)
    page.get_by_role("button", name="Use the camera").click()
    page.get_by_role("button", name="Start the camera").click()
    page.get_by_label("Show ages live").check()
    page.locator("[data-part=live-state]", has_text="a second, estimated in this page").wait_for()
    page.wait_for_timeout(3000)
    rate, people = page.evaluate(_LIVE, seconds)
    size = page.locator("#camera video").evaluate("video => `${video.videoWidth} x ${video.videoHeight}`")
    counts = ", ".join(f"{n} in {k}" for n, k in sorted(collections.Counter(people).items()))
    return f"{size}: {rate:.1f} frames/s; people marked: {counts} frames"


def camera_file(clip: Path, folder: Path, height: int | None) -> Path:
    """A clip, upright, as the file that Chromium's camera shows; if wished 16:9 and of another height."""
    import av
    import numpy as np
    from PIL import Image, ImageOps

    from agelens.video.reader import VideoReader

    path = folder / "camera.y4m"
    with VideoReader(clip) as frames, path.open("wb") as out:
        rate = Fraction(frames.facts.rate).limit_denominator(1001)
        for frame in frames:
            pixels = frame.pixels
            if height is not None:
                pixels = np.asarray(
                    ImageOps.fit(Image.fromarray(pixels), (round(height * 8 / 9) * 2, height))
                )
            picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").to_ndarray(format="yuv420p")
            if frame.number == 0:
                height, width = pixels.shape[:2]
                head = f"YUV4MPEG2 W{width} H{height} F{rate.numerator}:{rate.denominator} Ip A1:1 C420jpeg\n"
                out.write(head.encode())
            out.write(b"FRAME\n" + np.ascontiguousarray(picture).tobytes())
    return path


@contextlib.contextmanager
def browser_page(*arguments: str) -> Iterator[Any]:
    """A page of Chromium."""
    with sync_playwright() as started:
        browser = started.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu", *arguments]
        )
        yield browser.new_page()
        browser.close()


def main() -> None:
    """Measure with one, two and five people, or with clips before the camera."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=15, help="of a slice")
    parser.add_argument("--camera", nargs="+", type=Path, default=[], help="clips that the camera shows")
    parser.add_argument("--height", type=int, help="of the camera's picture, 16:9; else the clip's own")
    parser.add_argument("--seconds", type=float, default=20, help="for which the camera is looked at")
    options = parser.parse_args()
    command = [sys.executable, "-m", "agelens", "serve", "--port", "0", "--workers", "1"]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert service.stdout is not None
    try:
        url = next(line for line in service.stdout if "http://" in line).split()[2]
        for clip in options.camera:
            with tempfile.TemporaryDirectory() as folder:
                shown = f"--use-file-for-fake-video-capture={camera_file(clip, Path(folder), options.height)}"
                flags = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", shown)
                with browser_page(*flags) as page:
                    print(f"{clip.name}, {measure_camera(page, url, options.seconds)}", flush=True)
        if not options.camera:
            with browser_page() as page:
                page.goto(url)
                for people in (1, 2, 5):
                    print(measure(page, people, options.rounds, options.frames), flush=True)
    finally:
        service.kill()
        service.wait()


if __name__ == "__main__":
    main()
