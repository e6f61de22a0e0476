"""Frames a second of moving pictures in the page, in a browser, against frame by frame in the same worker.

The example portrait moves over a grey picture of 640 x 360, once and more often. Slices of both take turns:

tracked          as the camera's view works: faces are followed, the whole picture is searched now and then;
frame by frame   every frame is searched whole, and every face in it is estimated, as if it were a photo.

The frames are a fifteenth of a second apart by their times, however long they take, so that both do the work
of 15 frames a second. On a machine with other work the ratio tells more than the rates. Needs Chromium,
playwright and the page's engine.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
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


def main() -> None:
    """Measure with one, two and five people."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--frames", type=int, default=15, help="of a slice")
    options = parser.parse_args()
    command = [sys.executable, "-m", "agelens", "serve", "--port", "0", "--workers", "1"]
    service = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert service.stdout is not None
    try:
        url = next(line for line in service.stdout if "http://" in line).split()[2]
        with sync_playwright() as started:
            browser = started.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
            )
            page = browser.new_page()
            page.goto(url)
            for people in (1, 2, 5):
                print(measure(page, people, options.rounds, options.frames), flush=True)
            browser.close()
    finally:
        service.kill()
        service.wait()


if __name__ == "__main__":
    main()
