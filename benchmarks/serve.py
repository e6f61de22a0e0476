"""The service under load: throughput against the in-process estimator, latency, memory.

Every request is one 640 x 480 JPEG, detection included. Three parts:

ratio    service and in-process estimator each on the same one core, in turn, the load client on another core;
latency  requests at a steady rate of half the throughput, all cores;
load     64 clients, each sending its next photo when it has its answer, all cores.

The load client is one process that writes prepared requests to sockets and reads little of the answers; its
own processor time is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from agelens.faces.image import read_image
from agelens.faces.image_files import find_images

SIZE = (640, 480)


def jpegs(folder: Path) -> list[bytes]:
    """The folder's photographs, each fitted into 640 x 480 on grey."""
    made = []
    for path in find_images([folder]):
        picture = Image.fromarray(read_image(path))
        picture.thumbnail(SIZE)
        scale = min(SIZE[0] / picture.width, SIZE[1] / picture.height)
        picture = picture.resize((round(picture.width * scale), round(picture.height * scale)))
        canvas = Image.new("RGB", SIZE, "grey")
        canvas.paste(picture, ((SIZE[0] - picture.width) // 2, (SIZE[1] - picture.height) // 2))
        stream = io.BytesIO()
        canvas.save(stream, "JPEG", quality=90)
        made.append(stream.getvalue())
    return made


@dataclass
class Tally:
    """Answers that the clients got."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wall: float = 0.0
    own: float = 0.0

    @property
    def per_second(self) -> float:
        return self.statuses[200] / self.wall

    def quantile(self, q: float) -> float:
        return float(np.quantile(self.seconds, q)) * 1e3


class Clients:
    """Sends photographs over kept-alive connections."""

    def __init__(self, port: int, photos: list[bytes]) -> None:
        self.port = port
        self.requests = [
            b"POST /v1/estimate?distribution=false HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(photo) + photo
            for photo in photos
        ]

    async def exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, tally: Tally
    ) -> int:
        started = time.perf_counter()
        writer.write(self.requests[number % len(self.requests)])
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        status = int(head[9:12])
        tally.statuses[status] += 1
        if status == 200:
            tally.seconds.append(time.perf_counter() - started)
        return status

    async def closed_loop(self, clients: int, seconds: float) -> Tally:
        """Every client sends on as soon as it has its answer; on 503 it waits a moment."""
        tally = Tally()
        end = time.perf_counter() + seconds

        async def client(number: int) -> None:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
            while time.perf_counter() < end:
                if await self.exchange(reader, writer, number, tally) == 503:
                    await asyncio.sleep(0.2)
                number += clients + 1
            writer.close()

        await self._timed(tally, *(client(number) for number in range(clients)))
        return tally

    async def open_loop(self, rate: float, seconds: float) -> Tally:
        """Requests start at a steady rate, whatever the answers do; latency counts from the start."""
        tally = Tally()
        idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

        async def one(number: int) -> None:
            await asyncio.sleep(number / rate)
            if not idle:
                idle.append(await asyncio.open_connection("127.0.0.1", self.port, limit=2**20))
            connection = idle.pop()
            await self.exchange(*connection, number, tally)
            idle.append(connection)

        await self._timed(tally, *(one(number) for number in range(int(rate * seconds))))
        for _, writer in idle:
            writer.close()
        return tally

    async def _timed(self, tally: Tally, *work) -> None:
        wall, own = time.perf_counter(), time.process_time()
        await asyncio.gather(*work)
        tally.wall, tally.own = time.perf_counter() - wall, time.process_time() - own


@contextmanager
def pinned(cores: set[int]) -> Iterator[None]:
    """Run on some cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def served(cores: set[int], *options: str) -> Iterator[tuple[int, int]]:
    """Run ``agelens serve`` on some cores: its port and process id."""
    command = [sys.executable, "-m", "agelens", "serve", "--port", "0", "--no-page", *options]
    started = time.perf_counter()
    with pinned(cores):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        line = process.stdout.readline()
        print(f"  start to ready: {time.perf_counter() - started:.2f} s", flush=True)
        yield int(line.rpartition(":")[2]), process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def in_process(folder: Path, seconds: float, cores: set[int]) -> float:
    """Photographs a second of ``AgeEstimator.estimate`` in a process of its own."""
    command = [sys.executable, __file__, str(folder), "--in-process", str(seconds)]
    with pinned(cores):
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def estimate_for(photos: list[bytes], seconds: float) -> float:
    from agelens import AgeEstimator

    estimator = AgeEstimator()
    for photo in photos:
        estimator.estimate(photo)
    started, count = time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        estimator.estimate(photos[count % len(photos)])
        count += 1
    return count / (time.perf_counter() - started)


def resident(process: int) -> float:
    """Resident memory in MB."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError("no VmRSS")


def ratio(folder: Path, photos: list[bytes], seconds: float, rounds: int) -> None:
    cores = sorted(os.sched_getaffinity(0))
    one, other = {cores[0]}, {cores[-1]}
    print(f"ratio: one core each, {rounds} rounds of {seconds:g} s")
    pairs = []
    for _ in range(rounds):
        alone = in_process(folder, seconds, one)
        with served(one, "--workers", "1") as (port, _), pinned(other):
            asyncio.run(Clients(port, photos).closed_loop(4, 2))
            tally = asyncio.run(Clients(port, photos).closed_loop(8, seconds))
        pairs.append(tally.per_second / alone)
        print(
            f"  service {tally.per_second:.1f}/s, in-process estimator {alone:.1f}/s, ratio {pairs[-1]:.3f}; "
            f"{dict(tally.statuses)}; client {tally.own / tally.wall:.0%} of its core",
            flush=True,
        )
    print(f"  median ratio {statistics.median(pairs):.3f}")


async def loaded(clients: Clients, number: int, seconds: float, process: int) -> tuple[Tally, list[float]]:
    sizes = []

    async def watch() -> None:
        while True:
            await asyncio.sleep(1)
            sizes.append(resident(process))

    watching = asyncio.create_task(watch())
    tally = await clients.closed_loop(number, seconds)
    watching.cancel()
    return tally, sizes


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="folder of photographs")
    parser.add_argument("--seconds", type=float, default=60, help="of the load; the other parts take shorter")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="of the ratio")
    parser.add_argument("--in-process", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    photos = jpegs(arguments.photos)
    if arguments.in_process:
        print(estimate_for(photos, arguments.in_process))
        return
    sizes = [len(photo) for photo in photos]
    print(f"{len(photos)} photographs, {SIZE[0]} x {SIZE[1]}, {min(sizes)} to {max(sizes)} bytes")
    ratio(arguments.photos, photos, arguments.seconds / 6, arguments.rounds)
    everywhere = os.sched_getaffinity(0)
    with served(everywhere) as (port, process):
        clients = Clients(port, photos)
        warm = asyncio.run(clients.closed_loop(8, max(3, arguments.seconds / 12)))
        rate = warm.per_second / 2
        tally = asyncio.run(clients.open_loop(rate, arguments.seconds / 2))
        p50, p99 = tally.quantile(0.5), tally.quantile(0.99)
        print(f"latency at {rate:.1f} of {warm.per_second:.1f} requests/s: {dict(tally.statuses)}")
        print(f"  p50 {p50:.1f} ms, p99 {p99:.1f} ms, {p99 / p50:.1f} x p50")
    with served(everywhere) as (port, process):
        tally, sizes = asyncio.run(
            loaded(Clients(port, photos), arguments.clients, arguments.seconds, process)
        )
    settled = max(sizes[: max(1, len(sizes) // 6)])
    print(f"load: {arguments.clients} clients, {arguments.seconds:g} s: {json.dumps(tally.statuses)}")
    print(f"  {tally.per_second:.1f}/s, p50 {tally.quantile(0.5):.0f} ms, p99 {tally.quantile(0.99):.0f} ms")
    print(f"  client: {tally.own / tally.wall:.0%} of a core")
    print(
        f"  memory: {settled:.0f} MB in the first sixth, then at most {max(sizes):.0f} MB "
        f"({max(sizes) / settled - 1:+.1%}), {sizes[-1]:.0f} MB at the end"
    )


if __name__ == "__main__":
    main()
