"""Protocols are data, checked on load; their folds keep every promise, on real and on drawn-up manifests."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agelens.data.adapt import read_dataset
from agelens.data.datasets import DATASETS
from agelens.data.manifest import read_manifest, write_manifest
from agelens.data.protocol_split import Fold, Leak, ProtocolSplit, apply_protocol, check_folds
from agelens.data.protocols import Protocol, load_protocol, protocol_names
from agelens.data.splits import content_split, group_place, split_digest
from agelens.errors import InputError, SplitError


def digest(text: object) -> str:
    return hashlib.sha256(str(text).encode()).hexdigest()


def people(count: int = 40, photos: int = 4) -> pd.DataFrame:
    """A manifest of people with several photographs each, owner's parts included."""
    rows = [
        {
            "path": f"{person:03d}_{photo}.png",
            "age": float(10 + person % 50 + photo),
            "subject": f"{person:03d}",
            "digest": digest((person, photo)),
            "note": "",
            "official_split": ("train", "train", "val", "test")[photo % 4],
        }
        for person in range(count)
        for photo in range(photos)
    ]
    return pd.DataFrame(rows)


def rows_tested(split: ProtocolSplit) -> list[int]:
    return [int(row) for fold in split.folds for row in fold.rows("test")]


# --- the table


def test_every_protocol_loads_and_names_its_data_set() -> None:
    assert protocol_names() == [
        *("morph-random", "morph-subject", "morph-five-fold", "fgnet-lopo", "megaage", "megaage-asian"),
        *("afad", "imdb-wiki", "guess-the-age", "guess-the-age-whole", "morph-random-whole"),
        *("megaage-asian-whole", "chalearn", "appa-real", "utkface-five-fold", "utkface-60-20-20"),
        *("utkface-21-60", "official-split"),
    ]
    for name in protocol_names():
        protocol = load_protocol(name)
        assert protocol.name == name
        assert protocol.source
        assert protocol.dataset in {*DATASETS, "any"}
        # whether APPA-REAL's ages are real or apparent is its setting
        assert (protocol.labels is None) == (protocol.dataset in ("any", "appa_real"))


@pytest.mark.parametrize(
    "name", ["morph", "", "subject-1-fold", "subject-0-fold", "age-5-fold", "image-x-fold"]
)
def test_no_such_protocol(name: str) -> None:
    with pytest.raises(InputError, match="protocol"):
        load_protocol(name)


@pytest.mark.parametrize("name", ["image-K-fold", "subject-K-fold"])
def test_the_letter_k_stands_for_a_number(name: str) -> None:
    with pytest.raises(InputError, match=name.replace("K", "5")) as refused:
        load_protocol(name)
    assert "unknown" not in str(refused.value)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"kind": "random"}, "holdout"),
        ({"test_share": 1.5}, "less than 1"),
        ({"folds": 1}, "greater than or equal to 2"),
        ({"colour": "red"}, "colour"),
        ({"kind": "listed"}, "test list"),
        ({"kind": "official", "test_part": "train"}, "neither trained"),
        ({"validation": "some"}, "carved"),
        ({"validation": "none", "validation_part": "val"}, "does not go with validation 'none'"),
    ],
)
def test_a_protocol_is_checked(changed: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Protocol.model_validate({"name": "x", "title": "x", "source": "x", "kind": "folds", **changed})


# --- the folds of every kind


@pytest.mark.parametrize(
    "name",
    [
        "morph-random",
        "morph-subject",
        "morph-five-fold",
        "fgnet-lopo",
        "afad",
        "subject-7-fold",
        "image-3-fold",
    ],
)
def test_folds_are_disjoint_covering_and_deterministic(name: str) -> None:
    manifest = people()
    split = apply_protocol(manifest, load_protocol(name))
    for fold in split.folds:
        sides = [set(fold.rows(side)) for side in ("train", "val", "test")]
        assert sum(len(side) for side in sides) == len(set.union(*sides)) == len(manifest)
    if split.protocol.kind != "holdout":
        assert sorted(rows_tested(split)) == list(range(len(manifest)))
    shuffled = manifest.sample(frac=1, random_state=5).reset_index(drop=True)
    again = apply_protocol(shuffled, split.protocol)
    assert again.digest == split.digest
    for fold, other in zip(split.folds, again.folds, strict=True):
        paths = dict(zip(shuffled["path"], other.sides, strict=True))
        assert [paths[path] for path in manifest["path"]] == fold.sides.tolist()


@pytest.mark.parametrize("name", ["morph-subject", "morph-five-fold", "fgnet-lopo", "subject-7-fold"])
def test_nobody_is_on_two_sides(name: str) -> None:
    manifest = people()
    split = apply_protocol(manifest, load_protocol(name))
    for fold in split.folds:
        sides: dict[str, set[str]] = {}
        for subject, side in zip(manifest["subject"], fold.sides, strict=True):
            sides.setdefault(subject, set()).add(side)
        assert all(len(side) == 1 for side in sides.values())
    assert split.leaks == ()
    assert "leak: none" in list(split.lines())


def test_the_leak_of_a_random_split_is_counted_and_printed() -> None:
    manifest = people(200)
    split = apply_protocol(manifest, load_protocol("morph-random"))
    (fold,) = split.folds
    assert len(fold.rows("test")) == pytest.approx(160, abs=35)
    learned = {manifest["subject"][k] for side in ("train", "val") for k in fold.rows(side)}
    hit = [manifest["subject"][k] for k in fold.rows("test") if manifest["subject"][k] in learned]
    (leak,) = split.leaks
    assert (leak.what, leak.groups, leak.test_images) == ("subject", len(set(hit)), len(hit))
    assert len(hit) > 100
    assert any(
        line.startswith(f"leak: {len(set(hit))} people are on both sides, in {len(hit)} of")
        for line in split.lines()
    )


def test_validation_is_carved_from_training_by_person_and_differs_by_fold() -> None:
    split = apply_protocol(people(), load_protocol("fgnet-lopo"))
    assert len(split.folds) == 40
    shares = [len(fold.rows("val")) / 156 for fold in split.folds]
    assert np.mean(shares) == pytest.approx(0.1, abs=0.02)
    validated = Counter(row for fold in split.folds for row in fold.rows("val").tolist())
    assert len(validated) == 160  # everybody validates somewhere: nobody is never learned from
    assert [fold.held_out for fold in split.folds[:2]] == ["person 000", "person 001"]


def test_validation_is_carved_by_the_protocols_own_group() -> None:
    manifest = people(60, 4)
    split = apply_protocol(manifest, load_protocol("morph-random"))
    (fold,) = split.folds
    validated = set(manifest["subject"][fold.rows("val")])
    assert validated & set(manifest["subject"][fold.rows("train")])  # by image, as its test part is
    assert len(fold.rows("val")) == pytest.approx(0.1 * len(fold.sides[fold.sides != "test"]), abs=2)
    (by_person,) = apply_protocol(manifest, load_protocol("morph-subject")).folds
    validated = set(manifest["subject"][by_person.rows("val")])
    assert not validated & set(manifest["subject"][by_person.rows("train")])


@pytest.mark.parametrize(
    ("name", "validation"),
    [("guess-the-age", "judged"), ("imdb-wiki", "judged"), ("morph-random-whole", "none")],
)
def test_protocols_without_a_validation_part_of_their_own(name: str, validation: str) -> None:
    manifest = people(100, 4)
    split = apply_protocol(manifest, load_protocol(name))
    (fold,) = split.folds
    tests, trains = fold.rows("test"), fold.rows("train")
    assert len(tests) + len(trains) == 400
    assert len(tests) == pytest.approx(400 * load_protocol(name).test_share, abs=25)
    for_training = split.fold_manifest(fold)["split"]
    assert set(for_training.iloc[tests]) == {"val" if validation == "judged" else "test"}
    assert set(for_training.iloc[trains]) == {"train"}
    assert load_protocol(name).selection in list(split.lines())


def test_a_submission_is_trained_on_everything(tmp_path: Path) -> None:
    manifest = people(10, 2)
    manifest["note"] = ["copy of another", *[""] * 19]
    split = apply_protocol(manifest, load_protocol("guess-the-age-whole"))
    (fold,) = split.folds
    assert split.fold_manifest(fold)["split"].tolist() == ["", *["train"] * 19]
    assert any("19 train" in line and "0 test" in line for line in split.lines())
    manifest["note"] = "copy of another"
    with pytest.raises(SplitError, match="no row that can be used"):
        apply_protocol(manifest, load_protocol("guess-the-age-whole"))


def test_leaving_one_out_tests_exactly_one_person() -> None:
    manifest = people(5, 3)
    for number, fold in enumerate(apply_protocol(manifest, load_protocol("fgnet-lopo")).folds):
        assert set(manifest["subject"][fold.rows("test")]) == {f"{number:03d}"}


def test_places_are_those_of_content_split_and_a_new_image_moves_none() -> None:
    keys = [digest(k) for k in range(500)]
    places = group_place(keys, "utkface-v1")
    sides = np.where(places < 0.8, "train", np.where(places < 0.9, "val", "test"))
    assert sides.tolist() == content_split(keys)
    before = apply_protocol(people(80), load_protocol("utkface-five-fold"))
    after = apply_protocol(people(90), load_protocol("utkface-five-fold"))
    for one, other in zip(before.folds, after.folds, strict=True):
        tests = set(before.manifest["path"][one.rows("test")])
        assert tests == {path for path in after.manifest["path"][other.rows("test")] if path < "080"}


def test_even_folds_are_of_one_size() -> None:
    split = apply_protocol(people(23, 1), load_protocol("subject-5-fold"))
    assert sorted(len(fold.rows("test")) for fold in split.folds) == [4, 4, 5, 5, 5]


def test_copies_go_to_one_side() -> None:
    manifest = people(40, 4)
    manifest["digest"] = manifest["digest"].where(manifest.index % 4 != 3, manifest["digest"].shift(1))
    split = apply_protocol(manifest, load_protocol("image-4-fold"))
    for fold in split.folds:
        for first, copy in ((4 * k + 2, 4 * k + 3) for k in range(40)):
            assert {fold.sides[first] == "test", fold.sides[copy] == "test"} in ({True}, {False})


def test_official_parts() -> None:
    manifest = people()
    chalearn = apply_protocol(manifest, load_protocol("chalearn")).folds[0]
    assert set(manifest["official_split"][chalearn.rows("test")]) == {"val"}
    trained = [*chalearn.rows("train"), *chalearn.rows("val")]
    assert set(manifest["official_split"][trained]) == {"train"}
    assert len(trained) == 80
    assert (chalearn.sides == "").sum() == 40
    told = apply_protocol(manifest, load_protocol("chalearn"))
    assert told.unused == {"in no part of the protocol": 40}
    assert "not used: 40 in no part of the protocol" in list(told.lines())
    appa = apply_protocol(manifest, load_protocol("appa-real")).folds[0]
    assert appa.sides.tolist() == manifest["official_split"].tolist()
    megaage = apply_protocol(manifest, load_protocol("megaage"))
    assert [leak.what for leak in megaage.leaks] == ["subject"]
    manifest.loc[3, "digest"] = manifest.loc[0, "digest"]
    leaks = apply_protocol(manifest, load_protocol("official-split")).leaks
    assert [(leak.what, leak.test_images) for leak in leaks][1] == ("image", 1)


def test_rows_with_a_note_are_counted_and_left_out() -> None:
    manifest = people(30)
    manifest.loc[0, "note"] = "copy of b.png"
    manifest.loc[1, "note"] = "conflicting ages 3/4 with c.png"
    manifest.loc[2, "note"] = "conflicting ages 30/44 with d.png"
    manifest.loc[4, "note"] = "unreadable: a.png: truncated"
    manifest.loc[8, "official_split"] = ""
    split = apply_protocol(manifest, load_protocol("image-5-fold"))
    assert split.unused == {"conflicting ages": 2, "copy": 1, "unreadable": 1}
    assert "not used: 2 conflicting ages" in list(split.lines())
    assert not {0, 1, 2, 4} & set(rows_tested(split))
    official = apply_protocol(manifest, load_protocol("official-split"))
    # The protocol does not name the owner's val part: 29 rows without a note; row 8 has no part.
    assert official.unused == {**split.unused, "in no part of the protocol": 30}
    table = official.fold_manifest(official.folds[0])
    assert official.folds[0].sides[[0, 4, 8]].tolist() == ["", "", ""]
    assert table["note"][[0, 8]].tolist() == ["copy of b.png", "not in official-split"]


def test_a_published_list_keeps_copies_and_counts_them_as_leaks() -> None:
    listed = resources.files("agelens.data").joinpath("protocol_lists/utkface-21-60-test.txt").read_text()
    tests = listed.split()[:2]
    paths = [*tests, *(f"3{k}_0_0_2017.jpg.chip.jpg" for k in range(6))]
    manifest = pd.DataFrame({"path": paths, "age": 30.0, "note": ""})
    manifest["digest"] = [digest(path) for path in paths]
    manifest.loc[2, ["digest", "note"]] = [manifest["digest"][0], f"copy of {tests[0]}"]
    manifest.loc[3, "note"] = "conflicting ages 33/44 with x.jpg"
    manifest.loc[4, "note"] = "unreadable: truncated"
    split = apply_protocol(manifest, load_protocol("utkface-21-60"))
    (fold,) = split.folds
    assert fold.rows("test").tolist() == [0, 1]
    assert fold.sides[4] == ""
    assert "" not in fold.sides[[2, 3, 5, 6, 7]]
    assert split.leaks == (Leak("image", 1, 1),)
    assert split.unused == {"unreadable": 1}
    table = split.fold_manifest(fold)
    assert table["note"].tolist() == ["", "", "", "", "unreadable: truncated", "", "", ""]


def test_a_fold_becomes_a_manifest(tmp_path: Path) -> None:
    manifest = people(20)
    split = apply_protocol(manifest, load_protocol("subject-4-fold"))
    write_manifest(split.fold_manifest(split.folds[2]), tmp_path / "fold.csv")
    back = read_manifest(tmp_path / "fold.csv")
    assert back["split"].tolist() == split.folds[2].sides.tolist()
    assert len(split_digest(back)) == 64
    assert manifest["note"].eq("").all()


# --- what cannot be split


def without(column: str, **changed: object) -> pd.DataFrame:
    return people().drop(columns=column).assign(**changed)


@pytest.mark.parametrize(
    ("manifest", "name", "told"),
    [
        (without("digest"), "morph-random", "needs the column 'digest' .prepare writes it."),
        (without("subject"), "morph-subject", "needs the column 'subject'"),
        (without("subject", subject=["a"] * 159 + [""]), "fgnet-lopo", r"row 160 has none \(039_3.png\)"),
        (without("official_split"), "megaage", "needs the column 'official_split'"),
        (without("official_split", official_split="train"), "megaage", "no image to test on"),
        (without("subject", subject="one"), "subject-5-fold", "no image to"),
        (without("note", note="copy of a"), "image-5-fold", "no row that can be used"),
        (people(2, 1), "fgnet-lopo", "no image to validate on"),
        (without("age", age=70.0), "utkface-21-60", "no row that can be used"),
        (people(), "utkface-21-60", "no image to test on.*not of this protocol's data set"),
    ],
)
def test_manifests_that_a_protocol_cannot_split(manifest: pd.DataFrame, name: str, told: str) -> None:
    with pytest.raises(SplitError, match=told):
        apply_protocol(manifest, load_protocol(name))


def fold_of(sides: str, name: str = "fold-01") -> Fold:
    """A fold from one letter a row: r train, v val, t test, - nothing."""
    words = {"r": "train", "v": "val", "t": "test", "-": ""}
    return Fold(name, "some", np.array([words[side] for side in sides], dtype=object))


@pytest.mark.parametrize(
    ("folds", "name", "told"),
    [
        (["rrvvtttt", "rrvvtttt"], "subject-2-fold", r"row 5 \(002_0.png\) tests in 2 folds"),
        (["rrvvtt--", "ttrrvv--"], "subject-2-fold", r"row 3 \(001_0.png\) tests in no fold"),
        (["rrvvtrrr"], "morph-subject", r"subject 002 is in both test \(002_0.png\) and train \(002_1.png\)"),
        (["rrvvtvvv"], "morph-subject", r"subject 002 is in both test \(002_0.png\) and val \(002_1.png\)"),
        (["rvrrtttt"], "morph-subject", r"subject 000 is in both val \(000_1.png\) and train \(000_0.png\)"),
        (["rrrrtttt"], "morph-random", "no image to validate on"),
        (["vvvvtttt"], "official-split", "no image to train on"),
    ],
)
def test_the_checker_finds_every_broken_promise(folds: list[str], name: str, told: str) -> None:
    made = [fold_of(sides, f"fold-{k:02d}") for k, sides in enumerate(folds, start=1)]
    with pytest.raises(SplitError, match=told):
        check_folds(made, people(4, 2), load_protocol(name))


def test_the_checker_finds_the_same_bytes_on_two_sides() -> None:
    manifest = people(4, 2)
    manifest.loc[7, "digest"] = manifest.loc[0, "digest"]
    told = rf"digest {manifest['digest'][0]} is in both test \(003_1.png\) and train \(000_0.png\)"
    with pytest.raises(SplitError, match=told):
        check_folds([fold_of("rrvvtttt")], manifest, load_protocol("morph-random"))
    check_folds([fold_of("rrvvtttt")], manifest, load_protocol("official-split"))


# --- on the real sets


def test_real_fgnet_leaves_82_people_out(shared: Path) -> None:
    table = read_dataset("fgnet", shared / "data" / "FG-NET", content=False)
    split = apply_protocol(table, load_protocol("fgnet-lopo"))
    assert len(split.folds) == 82
    assert sorted(rows_tested(split)) == list(range(1002))
    assert "1,002 of the 1,002 of the whole set images used, 1,002 of 1,002 tested in 82 folds" in "\n".join(
        split.lines()
    )


def test_real_utkface_21_to_60_is_the_published_split(shared: Path) -> None:
    table = read_dataset("utkface", shared / "data" / "UTKFace", content=False)
    split = apply_protocol(table, load_protocol("utkface-21-60"))
    listed = {}
    for side in ("train", "test"):
        with open(shared / "data" / "protocols" / f"utkface_21-60_{side}.csv", newline="") as handle:
            listed.update({row["file"]: (side, int(row["age"]) + 21) for row in csv.DictReader(handle)})
    assert len(listed) == 16434
    (fold,) = split.folds
    rows = dict(zip(table["path"], fold.sides, strict=True))
    found = {path for path in rows if path in listed}
    assert {path for path, side in rows.items() if side} == found
    assert len(found) == 14829
    for path in found:
        side, age = listed[path]
        assert (rows[path] == "test") == (side == "test")
        assert int(path.partition("_")[0]) == age
    assert "14,829 of the 16,434 of the whole set images used, 2,981 of 3,287 tested" in "\n".join(
        split.lines()
    )
