#!/usr/bin/env python3
"""Send damaged images of every format through Python, the command line and the service.

Each image is a small photograph in one of the formats, damaged by a generator that its seed and number
determine: flipped bits, a cut, a splice of two files, or edits of the header (checksums of PNG are mended, so
that decoders look further). Every image must get exactly one answer, ages or an error of ours, within ten
seconds, not counting those when other processes have the processor; nothing may raise, be logged as a failure
or complain on stderr, and no process may need more memory than ``--memory``.

    python scripts/check_mutations.py                         # 500 images through each door
    python scripts/check_mutations.py --number 10000 --done parts.jsonl        # goes on where it was stopped
    python scripts/check_mutations.py --seed 3 --first 1234 --number 1 --keep damaged   # one again, as a file

The outcomes are counted by door. HEIC takes part where pillow-heif is installed, AVIF where Pillow reads it.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features

PROJECT = Path(__file__).parents[1]
PORTRAIT = PROJECT / "examples" / "astronaut.jpg"
LONGEST = 10.0  # seconds that an image may take, without those when others have the processor
_PATIENCE = 60.0  # seconds after which a process hangs, on a busy machine
_START = 120.0  # seconds that a process may take to begin, on a busy machine
_FOLDER = 300  # images that one call of the command line gets
_SIDE = 200  # pixels of the pictures that are damaged


# --- pictures


@dataclass(frozen=True)
class Damaged:
    """A damaged image.

    Attributes:
        number: With the seed, what determines it.
        form: Name of the picture it was made from: a key of `pictures`.
        kind: What was done to it: a key of `KINDS`.
        content: The bytes of the file.
    """

    number: int
    form: str
    kind: str
    content: bytes

    @property
    def name(self) -> str:
        """A file name, of the form's usual ending."""
        return f"{self.number:06d}-{self.kind}-{self.form}.{self.form.partition('-')[0]}"


def pictures(portrait: Path = PORTRAIT) -> dict[str, bytes]:
    """Encode a photograph, made smaller, in every format and variants of it; names begin with the ending."""
    with Image.open(portrait) as opened:
        rgb = opened.convert("RGB").resize((_SIDE, _SIDE))
    grey, alpha = rgb.convert("L"), rgb.copy()
    alpha.putalpha(grey.point(lambda value: min(255, 2 * value)))
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = {"save_all": True, "append_images": [rgb.rotate(9).quantize(64)]}
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    floats = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    wanted: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "jpg": (rgb, "JPEG", {"quality": 88}),
        "jpg-turned": (rgb, "JPEG", {"exif": turned, "icc_profile": _profile()}),
        "jpg-progressive": (rgb, "JPEG", {"progressive": True}),
        "jpg-cmyk": (rgb.convert("CMYK"), "JPEG", {}),
        "jpg-grey": (grey, "JPEG", {"restart_marker_rows": 2}),
        "png": (rgb, "PNG", {}),
        "png-palette": (rgb.quantize(100), "PNG", {"transparency": 3}),
        "png-alpha": (alpha, "PNG", {"exif": turned, "icc_profile": _profile()}),
        "png-deep": (deep, "PNG", {}),
        "webp": (rgb, "WEBP", {"exif": turned}),
        "webp-lossless": (alpha, "WEBP", {"lossless": True}),
        "tif": (rgb, "TIFF", {}),
        "tif-lzw": (rgb, "TIFF", {"compression": "tiff_lzw"}),
        "tif-deflate": (alpha, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "tif-jpeg": (rgb, "TIFF", {"compression": "jpeg"}),
        "tif-float": (floats, "TIFF", {}),
        "tif-bits": (grey.convert("1"), "TIFF", {"compression": "group4"}),
        "gif": (rgb.quantize(128), "GIF", {}),
        "gif-moving": (rgb.quantize(64), "GIF", frames),
        "bmp": (rgb, "BMP", {}),
        "bmp-palette": (rgb.quantize(256), "BMP", {}),
    }
    if features.check("avif"):
        wanted["avif"] = (rgb, "AVIF", {"speed": 10, "exif": turned})
        wanted["avif-alpha"] = (alpha, "AVIF", {"speed": 10})
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        pillow_heif.register_heif_opener()
        wanted["heic"] = (rgb, "HEIF", {"quality": 70})
    return {name: _encoded(*picture) for name, picture in wanted.items()}


def _encoded(picture: Image.Image, form: str, options: Mapping[str, Any]) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form, **options)
    return stream.getvalue()


def _profile() -> bytes:
    """A colour profile that is the same whenever it is made: its date is left out (ISO 15076-1, 7.2.8)."""
    from PIL import ImageCms

    content = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    return content[:24] + bytes(12) + content[36:]


# --- damage


def damaged(number: int, seed: int, from_: Mapping[str, bytes]) -> Damaged:
    """Make one damaged image; the same for the same number, seed and pictures."""
    random = np.random.default_rng((seed, number))
    form, kind = str(random.choice(sorted(from_))), str(random.choice(sorted(KINDS)))
    return Damaged(number, form, kind, KINDS[kind](random, form, from_))


def _flips(random: np.random.Generator, form: str, from_: Mapping[str, bytes]) -> bytes:
    """1 to 64 bits, half of the time near the beginning."""
    content = bytearray(from_[form])
    within = min(len(content), 512) if random.random() < 0.5 else len(content)
    for place in random.integers(0, within, int(2 ** random.uniform(0, 6))):
        content[place] ^= 1 << int(random.integers(8))
    return bytes(content)


def _cut(random: np.random.Generator, form: str, from_: Mapping[str, bytes]) -> bytes:
    """The end, some bytes at the end, a part of the middle, or the beginning is missing."""
    content = from_[form]
    start, end = sorted(int(place) for place in random.integers(0, len(content) + 1, 2))
    which = random.integers(4)
    if which == 0:
        return content[:end]
    if which == 1:
        return content[: -int(random.integers(1, 64))]
    return content[:start] + content[end:] if which == 2 else content[start:]


def _splice(random: np.random.Generator, form: str, from_: Mapping[str, bytes]) -> bytes:
    """The beginning of one file and the end of another, half of the time of the same format."""
    ending = form.partition("-")[0]
    same = [name for name in sorted(from_) if name.partition("-")[0] == ending]
    first, second = from_[form], from_[str(random.choice(same if random.random() < 0.5 else sorted(from_)))]
    start = int(random.integers(0, len(first) + 1))
    return first[:start] + second[int(random.integers(0, len(second) + 1)) :]


_FIELDS = (0, 1, 2, 3, 8, 127, 128, 255, 256, 4096, 32767, 32768, 65535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)


def _header(random: np.random.Generator, form: str, from_: Mapping[str, bytes]) -> bytes:
    """1 to 4 fields of 1, 2 or 4 bytes of the header, of either byte order, have extreme or other values."""
    content = bytearray(from_[form])
    places = _header_places(form, content)
    for _ in range(int(random.integers(1, 5))):
        size, order = int(random.choice([1, 2, 4])), str(random.choice(["big", "little"]))
        value = int(random.choice(_FIELDS) if random.random() < 0.7 else random.integers(2**32))
        place = int(random.choice(places))
        content[place : place + size] = (value % 256**size).to_bytes(
            size, "big" if order == "big" else "little"
        )
    return _with_checksums(bytes(content)) if form.startswith("png") else bytes(content)


def _header_places(form: str, content: bytes) -> range:
    """Places of the header of a file: all before its pixels, or its directory."""
    if form.startswith("tif"):
        directory = int.from_bytes(content[4:8], "little")
        return range(directory, min(directory + 200, len(content) - 4))
    if form.startswith("jpg"):
        return range(2, content.index(b"\xff\xda") + 12)
    if form.startswith("png"):
        return range(8, content.index(b"IDAT"))
    return range(min(400 if form[:4] in {"avif", "heic"} else 64, len(content) - 4))


def _with_checksums(content: bytes) -> bytes:
    """A PNG file whose chunks have the checksums of what they hold (ISO/IEC 15948, 5.3)."""
    mended, place = bytearray(content[:8]), 8
    while place + 12 <= len(content):
        end = place + 8 + int.from_bytes(content[place : place + 4], "big")
        if end + 4 > len(content):
            break
        mended += content[place:end] + zlib.crc32(content[place + 4 : end]).to_bytes(4, "big")
        place = end + 4
    return bytes(mended) + content[place:]


KINDS: dict[str, Callable[[np.random.Generator, str, Mapping[str, bytes]], bytes]] = {
    "flips": _flips,
    "cut": _cut,
    "splice": _splice,
    "header": _header,
}


class Images:
    """Damaged images by their numbers, each made when it is asked for.

    Args:
        seed: With an image's number, what determines it.
        first: The first number.
        number: How many.
    """

    def __init__(self, seed: int, first: int, number: int) -> None:
        self.seed, self.numbers = seed, range(first, first + number)
        self._pictures = pictures()

    def __iter__(self) -> Iterator[Damaged]:
        return map(self.__getitem__, self.numbers)

    def __getitem__(self, number: int) -> Damaged:
        return damaged(number, self.seed, self._pictures)


# --- doors


@dataclass
class Found:
    """Outcomes of the images of one door."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: tuple[float, float, str] = (0.0, 0.0, "")
    peak: int = 0
    problems: list[str] = field(default_factory=list)

    def timed(self, name: str, seconds: float, waited: float) -> None:
        """Note how long an image took, or those until it; and how much of that it waited: `Clock`."""
        self.slowest = max(self.slowest, (seconds - waited, seconds, name))
        if seconds - waited > LONGEST:
            self.problems.append(f"{name}: took {seconds:.1f} s, {waited:.1f} s of them waiting")

    def add(self, other: Found) -> None:
        """Add what came of further images."""
        self.outcomes += other.outcomes
        self.slowest, self.peak = max(self.slowest, other.slowest), max(self.peak, other.peak)
        self.problems += other.problems


class Clock:
    """Seconds since it was made, and how many of them a process was ready and others had the processor.

    Args:
        process: Its number. Where the system does not tell (it is not Linux), it never waits.
    """

    def __init__(self, process: int) -> None:
        self.process = process
        self.started, self.waited = time.perf_counter(), self._waited()

    def read(self) -> tuple[float, float]:
        """Both, at most the seconds."""
        seconds = time.perf_counter() - self.started
        return seconds, min(seconds, max(0.0, self._waited() - self.waited))

    def _waited(self) -> float:
        nanoseconds = 0
        for path in Path(f"/proc/{self.process}/task").glob("*/schedstat"):
            with contextlib.suppress(OSError):
                nanoseconds += int(path.read_text().split()[1])
        return nanoseconds / 1e9


class Child:
    """A process whose lines are read with patience, and whose memory and complaints are known at its end."""

    def __init__(self, *command: str) -> None:
        self._said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  closed at the end
        self.process = subprocess.Popen(
            [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._said
        )
        assert self.process.stdout is not None
        self._stdout = self.process.stdout

    def lines(self) -> Iterator[str]:
        """Yield what it writes to stdout; TimeoutError if nothing comes for too long."""
        patience, unread = _START, b""
        while select.select([self._stdout], [], [], patience)[0]:
            if not (read := os.read(self._stdout.fileno(), 2**20)):
                return
            *whole, unread = (unread + read).split(b"\n")
            yield from (line.decode() for line in whole)
            patience = _PATIENCE
        raise TimeoutError(f"nothing came for {patience:.0f} s")

    def end(self, by: signal.Signals | None = None) -> tuple[int, int, list[str]]:
        """Wait for its end: exit code, most bytes resident (also of its children), and its stderr."""
        if by is not None:
            os.kill(self.process.pid, by)
        self._stdout.close()
        _, status, usage = os.wait4(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        with self._said as stream:
            stream.seek(0)
            said = stream.read().splitlines()
        return self.process.returncode, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024), said


def through_api(images: Images, detector: str) -> Found:
    """`AgeEstimator.estimate_many` in a process of its own; another goes on after a hang or a crash."""
    found, left = Found(), list(images.numbers)
    while left:
        child = Child(str(Path(__file__).resolve()), "--inside", str(images.seed), detector, *map(str, left))
        begun, answered, problem = left[0], [], ""
        try:
            for line in child.lines():
                told = json.loads(line)
                if "begun" in told:
                    begun = told["begun"]
                    continue
                answered.append(told["number"])
                found.outcomes[told["outcome"]] += 1
                found.timed(images[told["number"]].name, *told["seconds"])
        except TimeoutError as error:
            problem = str(error)
        code, peak, said = child.end(signal.SIGKILL if problem else None)
        found.peak = max(found.peak, peak)
        if answered != left[: len(answered)]:
            found.problems.append(f"answers to other images than {left[0]} …: {answered[:10]} …")
        if not problem and code:
            problem = f"exit code {code}: " + " | ".join(said[-12:])
        elif not problem and (said or len(answered) != len(left)):
            found.problems.append(f"{len(answered)} answers to {len(left)} images; {' | '.join(said[-12:])}")
        if not problem:
            break
        found.problems.append(f"{images[begun].name}: {problem}")
        left = [number for number in left if number not in {*answered, begun}]
    return found


def _inside(seed: int, detector: str, numbers: list[int]) -> None:
    """Estimate images by number, and write a line as each is begun and as each is answered."""
    from agelens import AgeEstimator

    images, begun, ended = Images(seed, 0, 0), {}, {}

    def tell(**facts: object) -> None:
        print(json.dumps(facts), flush=True)

    def sources() -> Iterator[bytes]:
        for number in numbers:
            content = images[number].content
            tell(begun=number)
            begun[number] = Clock(os.getpid())
            yield content
            ended[number] = begun[number].read()

    estimator = AgeEstimator(detector=detector)
    for number, photo in zip(numbers, estimator.estimate_many(sources()), strict=True):
        seconds = ended.get(number) or begun[number].read()  # the last includes its batch
        tell(number=number, outcome=outcome_of(photo), seconds=seconds)


def outcome_of(photo: Any) -> str:
    """Name what came of a photo; a ValueError if its answer cannot be."""
    if photo.error is not None:
        return type(photo.error).__name__
    for face in photo.faces:
        if not (0 <= face.age <= 130 and face.interval(0.9)[0] <= face.interval(0.9)[1]):
            raise ValueError(f"an age of {face.age}, {face.interval(0.9)}")
    return _faces(len(photo.faces), photo.remarks)


def _faces(number: int, remarks: Iterable[str]) -> str:
    return ("ages" if number else "no face") + (", with a remark" if list(remarks) else "")


def through_cli(images: Images, detector: str) -> Found:
    """``agelens predict FOLDER`` on folders of some hundred files; on halves of what a hang leaves."""
    found, numbers = Found(), list(images.numbers)
    folders = [numbers[start : start + _FOLDER] for start in range(0, len(numbers), _FOLDER)]
    while folders:
        with tempfile.TemporaryDirectory() as folder:
            named = {images[number].name: number for number in folders.pop(0)}
            for name, number in named.items():
                (Path(folder) / name).write_bytes(images[number].content)
            left = [named[name] for name in _predict(Path(folder), list(named), detector, found)]
        half = -(-len(left) // 2)
        folders[:0] = [part for part in (left[:half], left[half:]) if part]
    return found


def _predict(folder: Path, names: list[str], detector: str, found: Found) -> list[str]:
    """Count the rows of a folder's files; give the files without one after a hang, unless it was the only."""
    child = Child("-m", "agelens", "predict", str(folder), "--format", "jsonl", "--detector", detector)
    rows, problem, clock = [], "", None
    try:
        for line in child.lines():
            rows.append(json.loads(line))
            if clock is not None:  # the first row's time is the start's too
                found.timed(Path(rows[-1]["path"]).name, *clock.read())
            clock = Clock(child.process.pid)
    except (TimeoutError, ValueError) as error:
        problem = repr(error)
    code, peak, said = child.end(signal.SIGKILL if problem else None)
    found.peak = max(found.peak, peak)
    failed = 0
    for row in rows:
        failed += (error := row["error"] is not None and not row["error"].startswith("no face"))
        found.outcomes["error" if error else _faces(len(row["faces"]), row["remarks"])] += 1
    got = [Path(row["path"]).name for row in rows]
    left = [name for name in names if name not in set(got)] if problem else []
    found.problems += rows_wrong(got, [name for name in names if name not in left])
    if problem:
        if len(names) == 1 or not left:
            found.problems.append(f"{names[0]}: {problem}")
            return []
        return left
    expected = [r"\d+ photos?: .*"] + [r"\d+ of \d+ images could not be used"] * bool(failed)
    if code != bool(failed) or len(said) != len(expected) or not all(map(re.fullmatch, expected, said)):
        found.problems.append(f"{names[0]} …: exit code {code}, stderr: {' | '.join(said[-12:])}")
    return []


def rows_wrong(got: list[str], wanted: list[str]) -> list[str]:
    """Files without exactly one row."""
    counts = Counter(got)
    return [
        f"{name}: {counts[name]} rows"
        for name in sorted({*got, *wanted})
        if counts[name] != wanted.count(name)
    ]


def through_service(images: Images, detector: str) -> Found:
    """``POST /v1/estimate`` of one running service, another after a hang or an end."""
    found, left = Found(), list(images.numbers)
    while left:
        child = Child("-m", "agelens", "serve", "--port", "0", "--workers", "1", "--detector", detector)
        port = int(next(child.lines()).rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE)
        while left:
            image = images[left.pop(0)]
            clock = Clock(child.process.pid)
            try:
                connection.request(
                    "POST", "/v1/estimate", image.content, {"Content-Type": "application/octet-stream"}
                )
                response = connection.getresponse()
                outcome = response_outcome(response.status, response.headers["Content-Type"], response.read())
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                found.problems.append(f"{image.name}: {error!r}")
                if isinstance(error, OSError | http.client.HTTPException):
                    break
                continue
            found.outcomes[outcome] += 1
            found.timed(image.name, *clock.read())
        connection.close()
        code, peak, said = child.end(signal.SIGTERM)
        found.peak = max(found.peak, peak)
        found.problems += [f"log: {line}" for line in said if log_wrong(line)]
        if code not in (0, -signal.SIGTERM):
            found.problems.append(f"the service ended with {code}")
    return found


def response_outcome(status: int, kind: str | None, body: bytes) -> str:
    """Name what the service answered; a ValueError if it is neither ages nor a whole problem document."""
    told = json.loads(body)
    if status == 200:
        (image,) = told["images"]
        return f"200, {_faces(len(image['faces']), ())}"
    if not 400 <= status < 500 or kind != "application/problem+json" or told["status"] != status:
        raise ValueError(f"status {status}, {kind}: {body[:300]!r}")
    return f"{status}, {told['type'].rpartition(':')[2]}"


def log_wrong(line: str) -> bool:
    """Whether a line of the service's log is no JSON, or tells of a failure."""
    try:
        told = json.loads(line)
    except ValueError:
        return True
    return str(told.get("level", "")).lower() in {"error", "critical"} or "Traceback" in line


DOORS: dict[str, Callable[[Images, str], Found]] = {
    "api": through_api,
    "cli": through_cli,
    "service": through_service,
}


def main() -> int:
    """Send the images through the doors; every problem is a line, and the exit code 1."""
    if sys.argv[1:2] == ["--inside"]:
        _inside(int(sys.argv[2]), sys.argv[3], [int(number) for number in sys.argv[4:]])
        return 0
    from agelens.faces.default_detector import DEFAULT_DETECTOR

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--number", type=int, default=500, help="of images, each through every door")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first image")
    parser.add_argument("--doors", default=",".join(DOORS), help="default: %(default)s")
    parser.add_argument("--detector", default=DEFAULT_DETECTOR, help="default: %(default)s")
    parser.add_argument("--memory", type=float, default=600, help="MB that a process may need")
    parser.add_argument("--part", type=int, default=1000, help="images after which processes begin anew")
    parser.add_argument("--done", type=Path, help="file of the parts that are done, which it goes on from")
    parser.add_argument("--keep", type=Path, help="only write the images to this folder")
    options = parser.parse_args()
    if unknown := set(options.doors.split(",")) - set(DOORS):
        parser.error(f"no door {', '.join(sorted(unknown))}")
    if options.keep is not None:
        options.keep.mkdir(parents=True, exist_ok=True)
        for image in Images(options.seed, options.first, options.number):
            (options.keep / image.name).write_bytes(image.content)
        return 0
    problems = 0
    for door in options.doors.split(","):
        started = time.monotonic()
        found = Found()
        for first in range(options.first, options.first + options.number, options.part):
            number = min(options.part, options.first + options.number - first)
            found.add(part(door, Images(options.seed, first, number), options.detector, options.done))
        if found.peak > options.memory * 1e6:
            found.problems.append(f"{found.peak / 1e6:.0f} MB of memory")
        if found.outcomes.total() != options.number:
            found.problems.append(f"{found.outcomes.total()} answers to {options.number} images")
        for problem in found.problems:
            print(f"  PROBLEM {door}, seed {options.seed}: {problem}", flush=True)
        counts = ", ".join(f"{outcome}: {count}" for outcome, count in found.outcomes.most_common())
        took, all_in_all, name = found.slowest
        print(
            f"{door}: {options.number} images in {time.monotonic() - started:.0f} s; {counts}; slowest "
            f"{took:.2f} s ({name}; {all_in_all:.2f} s with waiting); {found.peak / 1e6:.0f} MB",
            flush=True,
        )
        problems += len(found.problems)
    print(f"{problems} problems", flush=True)
    return bool(problems)


def part(door: str, images: Images, detector: str, done: Path | None) -> Found:
    """Outcomes of images of one door: noted already, or measured now and noted.

    Args:
        door: A key of `DOORS`.
        images: The images.
        detector: Name of the detector.
        done: A file that has a line for each part, if there is one.
    """
    key = [door, detector, images.seed, images.numbers.start, images.numbers.stop]
    for line in done.read_text().splitlines() if done is not None and done.exists() else ():
        told = json.loads(line)
        if told.pop("part") == key:
            return Found(Counter(told["outcomes"]), tuple(told["slowest"]), told["peak"], told["problems"])
    found = DOORS[door](images, detector)
    if done is not None:
        with done.open("a") as stream:
            stream.write(json.dumps({"part": key, **vars(found)}) + "\n")
    return found


if __name__ == "__main__":
    sys.exit(main())
