"""Clips: speed against the frame-by-frame estimator, and ages of people in clips made of stills of known age.

``speed CLIP…``: frames a second of `People` and of ``AgeEstimator.estimate`` on every frame, both with
decoding, in turn, in this process; the ratio is what counts. Seconds of processor time are printed beside
those of the clock, for machines that others use too. ``--height 1080`` cuts a clip to 16:9 and enlarges it
first.

``stills MANIFEST``: each still moves over a frame of 320×240 for three seconds at 15 frames/s: pan, zoom,
tilt, light, blur, noise; in every fourth clip a hand passes (``--plain``: pan, zoom and tilt alone). Printed:
errors of the stills, of single frames and of tracks; deviations; coverage; how far the shown age is after a
second from the last one.

``memory CLIP``: resident memory while the clip, joined to itself to so many minutes, is estimated, with rows
of frames and a timeline.

``photos FOLDER``: a table of frames for ``agelens video-report`` of photographs of the same people, a folder
each, as LFW has them: how ages depend on the yaw, where clips have too few faces that turn.
"""

from __future__ import annotations

import argparse
import csv
import re
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from agelens import AgeEstimator
from agelens.errors import AgelensError
from agelens.faces.default_detector import DEFAULT_DETECTOR
from agelens.faces.image import read_image
from agelens.video.clips import ClipTask
from agelens.video.estimate import People
from agelens.video.fusion import mean_absolute_deviation
from agelens.video.reader import Frame, VideoReader

RATE, SECONDS, SIZE = 15, 3, (320, 240)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model")
    parser.add_argument("--detector", default=DEFAULT_DETECTOR)
    commands = parser.add_subparsers(dest="command", required=True)
    speed_of = commands.add_parser("speed")
    speed_of.add_argument("clips", nargs="+", type=Path)
    speed_of.add_argument("--height", type=int)
    speed_of.add_argument("--frames", type=int, default=90)
    speed_of.add_argument("--repeats", type=int, default=3)
    of_stills = commands.add_parser("stills")
    of_stills.add_argument("manifest", type=Path, help="of agelens prepare, or the folder of FG-NET")
    of_stills.add_argument("--split", default="test")
    of_stills.add_argument("--clips", type=int, default=400)
    of_stills.add_argument("--plain", action="store_true", help="pan, zoom and tilt alone")
    memory_of = commands.add_parser("memory")
    memory_of.add_argument("clip", type=Path)
    memory_of.add_argument("--minutes", type=float, default=30)
    of_photos = commands.add_parser("photos")
    of_photos.add_argument("folder", type=Path, help="with a folder of photographs for each person")
    arguments = parser.parse_args()
    estimator = AgeEstimator(arguments.model, detector=arguments.detector)
    if arguments.command == "speed":
        for clip in arguments.clips:
            speed(clip, estimator, arguments.height, arguments.frames, arguments.repeats)
    elif arguments.command == "memory":
        memory(arguments.clip, arguments.minutes, estimator)
    elif arguments.command == "photos":
        photos(arguments.folder, estimator)
    else:
        stills(arguments.manifest, arguments.split, arguments.clips, estimator, plain=arguments.plain)


def speed(clip: Path, estimator: AgeEstimator, height: int | None, frames: int, repeats: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        copy = cut(clip, Path(folder) / "clip.mp4", height, frames)
        ratios, rows = [], {"tracks": [], "frame by frame": []}
        for _ in range(repeats):
            times = {}
            for name, work in (("tracks", by_tracks), ("frame by frame", by_frames)):
                clock, processor = time.perf_counter(), time.process_time()
                count, shape = work(copy, estimator)
                elapsed = time.perf_counter() - clock
                times[name] = elapsed
                rows[name].append((count / elapsed, 1000 * (time.process_time() - processor) / count))
            ratios.append(times["frame by frame"] / times["tracks"])
    print(f"{clip.name}, {shape[1]}x{shape[0]}, {count} frames")
    for name, values in rows.items():
        rate, used = np.median(values, axis=0)
        print(f"  {name}: {rate:.1f} frames/s, {used:.1f} ms of processor a frame")
    print(f"  ratio {np.median(ratios):.2f} (of rounds {min(ratios):.2f} to {max(ratios):.2f})")


def by_tracks(clip: Path, estimator: AgeEstimator) -> tuple[int, tuple[int, ...]]:
    count, shape = 0, (0,)
    with VideoReader(clip) as reader:
        for frame in People(reader, estimator, depth=reader.depth):
            count, shape = count + 1, frame.pixels.shape
    return count, shape


def by_frames(clip: Path, estimator: AgeEstimator) -> tuple[int, tuple[int, ...]]:
    count, shape = 0, (0,)
    with VideoReader(clip) as reader:
        for frame in reader:
            estimator.estimate(frame.pixels)
            count, shape = count + 1, frame.pixels.shape
    return count, shape


def cut(clip: Path, copy: Path, height: int | None, frames: int) -> Path:
    """The first frames, upright; if wished cut to 16:9 and brought to another height."""
    import av

    with VideoReader(clip) as reader, av.open(str(copy), "w") as output:
        stream = output.add_stream("libx264", rate=Fraction(reader.facts.rate).limit_denominator(1001))
        for frame in reader:
            if frame.number == frames:
                break
            picture = Image.fromarray(frame.pixels)
            if height is not None:
                picture = ImageOps.fit(picture, (round(height * 8 / 9) * 2, height))
            if frame.number == 0:
                (stream.width, stream.height), stream.pix_fmt = picture.size, "yuv420p"
            output.mux(stream.encode(av.VideoFrame.from_image(picture)))
        output.mux(stream.encode(None))
    return copy


def memory(clip: Path, minutes: float, estimator: AgeEstimator) -> None:
    def told(done: int, total: int | None) -> None:
        if done in (150, 1500) or done % 9000 == 0:
            resident = re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())
            print(f"  {done} of {total} frames: {int(resident[1]) / 1024:.0f} MB", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        joined = again_and_again(clip, Path(folder) / "clip.mp4", 60 * minutes)
        found = ClipTask(estimator, out=Path(folder), frames="csv", timeline=True).run(joined, told)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{found.frames} frames, {len(found.people)} people, at most {most:.0f} MB {found.error}")


def again_and_again(clip: Path, path: Path, seconds: float) -> Path:
    """A clip joined to itself, as it is encoded."""
    import av

    with av.open(str(path), "w") as output:
        stream, end, joined = None, 0, 0.0
        while joined < seconds:
            with av.open(str(clip)) as opened:
                source = opened.streams.video[0]
                stream = stream or output.add_stream_from_template(source)
                begin = end
                for packet in opened.demux(source):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts, packet.stream = packet.pts + begin, packet.dts + begin, stream
                    end = max(end, packet.pts + packet.duration)
                    output.mux(packet)
                joined = float(end * source.time_base)
    return path


def stills(manifest: Path, split: str, clips: int, estimator: AgeEstimator, *, plain: bool) -> None:
    rows = []
    for number, (path, low, high, chip) in enumerate(ages_of(manifest, split, clips)):
        still = read_image(path)
        try:
            alone = estimator.estimate(still, crops=chip)[0]
        except (AgelensError, IndexError):
            continue
        frames = moving(still, number, chip=chip, hand=number % 4 == 0 and not plain, plain=plain)
        people = People((Frame(n, n / RATE, frame) for n, frame in enumerate(frames)), estimator)
        courses: dict[int, list[tuple[float, float, float]]] = {}
        for frame in people:
            for person in frame.people:
                course = courses.setdefault(person.person, [])
                course.append((frame.time, person.face.age, person.shown.age))
        if not people.finished:
            rows.append((alone.age, low, high, alone.interval(), None))
            continue
        main_person = max(people.finished, key=lambda person: person.frames)
        course = np.array(courses[main_person.person])
        found = (main_person.age, main_person.interval(), course, len(people.finished))
        rows.append((alone.age, low, high, alone.interval(), found))
        if number % 50 == 49:
            told(rows)
    told(rows)


def told(rows: list) -> None:
    def error(age: float, low: float, high: float) -> float:
        return max(low - age, age - (high + (0 if low == high else 1)), 0.0)

    def covered(interval: tuple[float, float], low: float, high: float) -> float:
        """The share of the label that lies in the interval; a band may in part."""
        if low == high:
            return float(interval[0] <= low <= interval[1])
        inside = min(interval[1], high + 1) - max(interval[0], low)
        return min(max(inside / (high + 1 - low), 0.0), 1.0)

    def mean(values: list[float]) -> str:
        centre, spread = np.mean(values), 1.96 * np.std(values) / np.sqrt(len(values))
        return f"{centre:.2f} ± {spread:.2f}"

    tracked = [row for row in rows if row[4] is not None]
    print(f"{len(rows)} clips, {len(tracked)} with a person, {sum(r[4][3] > 1 for r in tracked)} with more")
    still = [error(row[0], *row[1:3]) for row in tracked]
    single = [float(np.mean([error(a, *row[1:3]) for a in row[4][2][:, 1]])) for row in tracked]
    track = [error(row[4][0], *row[1:3]) for row in tracked]
    print(f"  error: still {mean(still)}, its frames each alone {mean(single)}, track {mean(track)}")
    print(f"  track less frames alone {mean([a - b for a, b in zip(track, single, strict=True)])}")
    print(f"  track less still {mean([a - b for a, b in zip(track, still, strict=True)])}")
    for name, intervals in (("still", [r[3] for r in tracked]), ("track", [r[4][1] for r in tracked])):
        inside = [covered(i, *row[1:3]) for i, row in zip(intervals, tracked, strict=True)]
        width = np.mean([high - low for low, high in intervals])
        print(f"  90 % interval of the {name}: covers {100 * np.mean(inside):.1f} %, {width:.1f} years wide")
    frames = [mean_absolute_deviation(row[4][2][:, 1]) for row in tracked]
    shown = [mean_absolute_deviation(row[4][2][:, 2]) for row in tracked]
    ratio = np.mean(shown) / np.mean(frames)
    print(f"  deviation: frame by frame {mean(frames)}, shown {mean(shown)}, ratio {ratio:.3f}")
    late = [np.abs(row[4][2][row[4][2][:, 0] >= 1, 2][:1] - row[4][2][-1, 2]).sum() for row in tracked]
    far = np.quantile(late, 0.9)
    print(f"  shown after 1 s from the last: median {np.median(late):.2f} years, 90 % below {far:.2f}")


def ages_of(manifest: Path, split: str, most: int) -> Iterator[tuple[Path, float, float, bool]]:
    """Stills with both ends of their label, and whether they are chips."""
    if manifest.is_dir():
        paths = sorted((manifest / "images").glob("*.JPG"))
        for index in np.random.default_rng(0).permutation(len(paths))[:most]:
            age = float(re.search(r"A(\d\d)", paths[index].name)[1])
            yield paths[index], age, age, False
        return
    import pandas as pd

    table = pd.read_csv(manifest, low_memory=False)
    table = table[table["split"] == split].sample(frac=1, random_state=0)[:most]
    for row in table.to_dict("records"):
        low, high = row.get("age_low", row["age"]), row.get("age_high", row["age"])
        if not np.isnan(row["age"]):
            low = high = row["age"]
        yield Path(row["source"]), low, min(high, 100) if high == high else 100, True


def photos(folder: Path, estimator: AgeEstimator) -> None:
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(("path", "frame", "age", "yaw", "eye_distance"))
    for path in sorted(folder.glob("*/*.jpg")):
        picture = read_image(path)
        middle = np.array(picture.shape[1::-1]) / 2
        faces = [face for face in estimator.estimate(picture) if face.box and face.quality]
        if not faces:
            continue
        face = min(faces, key=lambda face: np.hypot(*(np.reshape(face.box, (2, 2)).mean(axis=0) - middle)))
        if face.quality.yaw is not None:
            figures = (face.age, face.quality.yaw, face.quality.eye_distance)
            table.writerow((path.parent.name, path.stem, *(f"{figure:.2f}" for figure in figures)))


def waves(random: np.random.Generator, count: int) -> np.ndarray:
    """(count,) two slow waves, -1 to 1."""
    seconds = np.arange(count) / RATE
    phases = [seconds / random.uniform(1.2, 4.0) + random.uniform() for _ in range(2)]
    return 0.6 * np.sin(2 * np.pi * phases[0]) + 0.4 * np.sin(2 * np.pi * phases[1])


def moving(still: np.ndarray, seed: int, *, chip: bool, hand: bool, plain: bool) -> list[np.ndarray]:
    """The frames of a clip made of a still."""
    random, count = np.random.default_rng(seed), RATE * SECONDS
    picture, (width, height) = Image.fromarray(still), SIZE
    if chip:
        padding = round(0.5 * max(picture.size))
        around = np.pad(still, ((padding, padding), (padding, padding), (0, 0)), mode="edge")
        blurred = Image.fromarray(around).filter(ImageFilter.GaussianBlur(max(picture.size) / 10))
        blurred.paste(picture, (padding, padding))
        picture, scale = blurred, random.uniform(0.45, 0.8) * height * 2 / blurred.height
    else:
        scale = random.uniform(0.9, 1.2) * height / picture.height
    x, y, zoom, tilt, light, blur, noise = (waves(random, count) for _ in range(7))
    if plain:
        light, blur, noise = np.zeros((3, count))
    frames = []
    for n in range(count):
        factor, angle = scale * (1 + 0.25 * zoom[n]), np.deg2rad(10 * tilt[n])
        cos, sin = np.cos(angle) / factor, np.sin(angle) / factor
        across, down = width * (0.5 + 0.18 * x[n]), height * (0.5 + 0.12 * y[n])
        matrix = np.array(
            [
                *(cos, sin, picture.width / 2 - cos * across - sin * down),
                *(-sin, cos, picture.height / 2 + sin * across - cos * down),
            ]
        )
        source = picture
        if (shrink := 1.5 * factor) < 1:
            size = tuple(max(1, round(side * shrink)) for side in picture.size)
            source, matrix = picture.resize(size, Image.Resampling.BILINEAR), matrix * shrink
        view = source.transform(SIZE, Image.Transform.AFFINE, tuple(matrix), Image.Resampling.BILINEAR)
        if blur[n] > 0.06:
            view = view.filter(ImageFilter.GaussianBlur(float(1.6 * blur[n])))
        grain = 0 if plain else random.normal(0, max(0.5, 6 * abs(noise[n])), (height, width, 3))
        frames.append(np.clip(np.asarray(view) * (1 + 0.3 * light[n]) + grain, 0, 255).astype(np.uint8))
    if hand:
        middle, rows, columns = random.uniform(0.3, 0.6) * count, *np.mgrid[:height, :width]
        for n in range(count):
            away = (n - middle) / (0.4 * RATE)
            if abs(away) < 1:
                side, up = (columns - width * (0.5 + 0.6 * away)) / (0.16 * width), rows - 0.5 * height
                frames[n][side**2 + (up / (0.45 * height)) ** 2 < 1] = (150, 110, 90)
    return frames


if __name__ == "__main__":
    main()
