"""Miniatures of the owners' data sets, drawn faces in the true layouts: what ``docs/reproduce.md`` reads."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.io import savemat

DrawFace = Callable[..., NDArray[np.uint8]]


class Owners:
    """Writes the data sets below ``folder``; every face is drawn once and is another one.

    Args:
        folder: Where to.
        draw_face: The fixture.
    """

    def __init__(self, folder: Path, draw_face: DrawFace) -> None:
        self.folder, self.draw_face = folder, draw_face
        self.numbers = itertools.count()

    def face(self, path: str, age: float, margin: int = 20, size: int = 100) -> None:
        """Save one face; its age shows, and ``margin`` pixels of background lie about it."""
        number = next(self.numbers)
        face = self.draw_face(age, size=size, seed=number)
        random = np.random.default_rng(number)
        side = size + 2 * margin
        photo = random.integers(40, 216, (6, 6, 3), dtype=np.uint8)
        photo = np.array(Image.fromarray(photo).resize((side, side), Image.Resampling.BICUBIC))
        photo[margin : margin + size, margin : margin + size] = face
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(photo).save(target, "JPEG", quality=92)

    def write(self, path: str, text: str) -> None:
        """Save a text file."""
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def imdb_wiki(self, count: int) -> None:
        """``imdb_crop/imdb.mat`` and its photographs."""
        paths, births, years, people = [], [], [], []
        for number in range(count):
            age, person = 12 + number % 68, number // 2
            born, taken = date(1985 - age, 3, 1), 1985
            paths.append(f"{number % 10:02}/nm{person:07}_rm{number}_{born.isoformat()}_{taken}.jpg")
            births.append(born.toordinal() + 366)
            years.append(taken)
            people.append(person)
            self.face(f"IMDB-WIKI/imdb_crop/{paths[-1]}", age)
        record = {
            "dob": np.array([births], dtype=np.int32),
            "photo_taken": np.array([years], dtype=np.uint16),
            "full_path": _cells(paths),
            "gender": np.array([[number % 2 for number in range(count)]], dtype=float),
            "name": _cells([f"Name {person}" for person in people]),
            "face_location": _cells([np.array([[21.0, 21.0, 120.0, 120.0]])] * count),
            "face_score": np.full((1, count), 3.0),
            "second_face_score": np.full((1, count), np.nan),
            "celeb_id": np.array([people], dtype=float),
        }
        savemat(self.folder / "IMDB-WIKI/imdb_crop/imdb.mat", {"imdb": record}, oned_as="row")

    def morph(self, people: int) -> None:
        """``morph_2008_nonCommercial.csv`` and ``Album2``."""
        lines = ["id_num,picture_num,dob,doa,race,gender,facial_hair,age,age_diff,glasses,photo"]
        for person in range(people):
            race, gender = "WB"[person % 2], "MF"[person // 2 % 2]
            for picture in range(3):
                age = 16 + (person * 61 // people) + picture
                photo = f"Album2/{person:06}_{picture}{gender}{age}.JPG"
                born = date(2005 - age, 1, 2)
                lines.append(
                    f"{person:06},{picture},{born},2005-06-01,{race},{gender},,{age},{picture},,{photo}"
                )
                self.face(f"MORPH/{photo}", age)
        self.write("MORPH/morph_2008_nonCommercial.csv", "\n".join(lines) + "\n")

    def megaage(self, name: str, train: Sequence[int], test: Sequence[int]) -> None:
        """Lists of names and ages, and the chips."""
        for part, ages in (("train", train), ("test", test)):
            for number, age in enumerate(ages, start=1):
                self.face(f"{name}/{part}/{number}.jpg", age)
            names = "".join(f"{number}.jpg\n" for number in range(1, len(ages) + 1))
            self.write(f"{name}/list/{part}_name.txt", names)
            self.write(f"{name}/list/{part}_age.txt", "".join(f"{age}\n" for age in ages))

    def afad(self, count: int) -> None:
        """A folder an age, in it one of each gender."""
        for number in range(count):
            age = 15 + number % 26
            self.face(f"AFAD-Full/{age}/{111 + number % 2}/{number}-0.jpg", age)

    def chalearn(self, train: int, validation: int) -> None:
        """The form of 2015: a list and a folder a part."""
        for part, count, first in (("Train", train, 0), ("Validation", validation, train)):
            lines = []
            for number in range(first, first + count):
                age = 5 + (number * 7) % 70 + 0.25
                lines.append(f"image_{number}.jpg;{age};{2 + number % 4}.5")
                self.face(f"ChaLearn/{part}/image_{number}.jpg", age)
            self.write(f"ChaLearn/{part}.csv", "\n".join(lines) + "\n")

    def fgnet(self, people: int) -> None:
        """Photographs, and 68 points each."""
        for person in range(1, people + 1):
            for age in range(person, 69, 6):
                name = f"{person:03}A{age:02}"
                self.face(f"FG-NET/images/{name}.JPG", age)
                points = np.full((68, 2), 70.0)
                for at, place in zip(
                    (31, 36, 67, 48, 54), ((57, 64), (83, 64), (70, 80), (60, 90), (80, 90)), strict=True
                ):
                    points[at] = place
                text = "\n".join(f"{x} {y}" for x, y in points)
                self.write(f"FG-NET/points/{name.lower()}.pts", f"version: 1\nn_points: 68\n{{\n{text}\n}}\n")

    def guess_the_age(self, count: int) -> None:
        """``training_caip_contest.csv`` and its faces, few of them young or old."""
        lines = []
        for number in range(count):
            age = (1 + 81 * number // count) if number % 3 == 0 else 21 + number % 20
            lines.append(f"{number}.jpg,{age}.3")
            self.face(f"MIVIA/training_caip_contest/{number}.jpg", age)
        self.write("MIVIA/training_caip_contest.csv", "\n".join(lines) + "\n")

    def people(self, people: int, photographs: int) -> None:
        """A folder a person, for identity."""
        for person, number in itertools.product(range(people), range(photographs)):
            self.face(f"MS-Celeb-1M/m.{person:05}/{number}.jpg", 20 + 3 * person)


def _cells(texts: list[Any]) -> NDArray[np.object_]:
    """A MATLAB cell array, 1 x N."""
    array = np.empty((1, len(texts)), dtype=object)
    array[0] = texts
    return array


@pytest.fixture(scope="session")
def owners_sets(tmp_path_factory: pytest.TempPathFactory, draw_face: DrawFace) -> Path:
    """The folder of all data sets of the page, some 500 faces."""
    folder = tmp_path_factory.mktemp("owners")
    owners = Owners(folder, draw_face)
    owners.imdb_wiki(60)
    owners.morph(26)
    owners.megaage("MegaAge", [*range(71), *range(0, 71, 3)], range(2, 68, 4))
    owners.megaage("MegaAge-Asian", range(70), [*range(3), *range(3), *range(3, 70, 2)])
    owners.afad(96)
    owners.chalearn(70, 30)
    owners.fgnet(5)
    owners.guess_the_age(81)
    owners.people(16, 5)
    return folder
