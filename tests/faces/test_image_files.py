"""Images in folders and patterns, and what is passed over."""

from __future__ import annotations

import os

import pytest

from agelens.errors import InputError
from agelens.faces.image_files import find_images


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.jpg",
        "a.PNG",
        "notes.txt",
        ".hidden.jpg",
        "deep/er/c.webp",
        "deep/d.tiff",
        "empty/readme",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(folder, *paths):
    return [path.relative_to(folder).as_posix() for path in find_images([folder / path for path in paths])]


def test_folders_are_searched_in_order(folder):
    assert names(folder, "") == ["a.PNG", "b.jpg", "deep/d.tiff", "deep/er/c.webp"]


def test_files_are_passed_on_whatever_their_name(folder):
    assert names(folder, "notes.txt", "gone.jpg", "b.jpg", "a.jpg") == [
        "notes.txt",
        "gone.jpg",
        "b.jpg",
        "a.jpg",
    ]


def test_patterns(folder):
    assert names(folder, "*.jpg") == ["b.jpg"]
    assert names(folder, "d*") == ["deep/d.tiff", "deep/er/c.webp"]
    assert names(folder, "**/*.webp", "[ab].*") == ["deep/er/c.webp", "a.PNG", "b.jpg"]


def test_a_file_whose_name_looks_like_a_pattern(folder):
    (folder / "odd[1].jpg").touch()
    assert names(folder, "odd[1].jpg") == ["odd[1].jpg"]


@pytest.mark.parametrize(
    ("path", "reason"), [("empty", "no images in this folder"), ("*.gif", "matches no file")]
)
def test_nothing_found(folder, path, reason):
    with pytest.raises(InputError, match=reason):
        names(folder, path)


def passed(folder):
    """The names of the images, and what was passed over: name, whether it failed, reason."""
    over = []
    found = [path.relative_to(folder).as_posix() for path in find_images([folder], over.append)]
    return found, {entry.path.relative_to(folder).as_posix(): (entry.failed, entry.reason) for entry in over}


def test_hidden_folders_and_thumbnails_are_left_out(folder):
    for name in (".thumbnails/t.jpg", "@eaDir/b.jpg/SYNO.jpg", "deep/.hidden/h.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert names(folder, "") == ["a.PNG", "b.jpg", "deep/d.tiff", "deep/er/c.webp"]


def test_files_of_other_endings_are_reported(folder):
    found, over = passed(folder)
    assert found == ["a.PNG", "b.jpg", "deep/d.tiff", "deep/er/c.webp"]
    assert over == {
        "notes.txt": (False, "is not known as an image by its ending"),
        "empty/readme": (False, "is not known as an image by its ending"),
    }


def test_heic_and_avif_are_images(folder):
    (folder / "phone.HEIC").touch()
    (folder / "web.avif").touch()
    assert {"phone.HEIC", "web.avif"} <= set(names(folder, ""))


def test_linked_folders_are_followed_once(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "e.jpg").touch()
    (elsewhere / "back").symlink_to(folder)
    (folder / "linked").symlink_to(elsewhere)
    (folder / "same").symlink_to(elsewhere)
    assert names(folder, "") == ["a.PNG", "b.jpg", "deep/d.tiff", "deep/er/c.webp", "linked/e.jpg"]


@pytest.mark.timeout(20)
def test_only_regular_files_of_a_folder_are_read(folder):
    os.mkfifo(folder / "pipe.jpg")
    found, over = passed(folder)
    assert "pipe.jpg" not in found
    assert over["pipe.jpg"] == (True, "is no regular file")
    assert names(folder, "pipe.jpg") == ["pipe.jpg"]  # named itself, it is passed on


def test_a_folder_that_cannot_be_listed_does_not_end_the_search(open_folder, unprivileged):
    for name in ("a/1.jpg", "c/3.jpg"):
        (open_folder / name).parent.mkdir()
        (open_folder / name).touch()
    (open_folder / "b").mkdir(mode=0)
    with unprivileged():
        found, over = passed(open_folder)
    assert found == ["a/1.jpg", "c/3.jpg"]
    assert over == {"b": (True, "cannot list the folder: Permission denied")}
    (open_folder / "b").rmdir()


def test_an_empty_folder_is_reported_and_the_others_go_on(folder, tmp_path_factory):
    empty = tmp_path_factory.mktemp("nothing")
    over = []
    found = list(find_images([empty, folder / "b.jpg"], over.append))
    assert found == [folder / "b.jpg"]
    assert [(entry.path, entry.failed) for entry in over] == [(empty, True)]
    assert over[0].reason.startswith("no images in this folder (")


def test_addresses_and_patterns_without_a_match_do_not_end_the_search(folder):
    passed = []
    picture = "data:image/png;base64," + "A" * 90_000
    arguments = ["https://example.org/a.jpg?size=1", picture, "*.gif", folder / "b.jpg"]
    assert list(find_images(arguments, passed.append)) == [folder / "b.jpg"]
    assert all(entry.failed for entry in passed)
    address, text, pattern = passed
    assert address.path == "https://example.org/a.jpg?size=1"
    assert "curl -s ADDRESS | agelens predict -" in address.reason
    assert (len(text.path), "base64 -d | agelens predict -" in text.reason) == (61, True)
    assert pattern[:2] == ("*.gif", "matches no file")
    with pytest.raises(InputError, match="is an address"):
        list(find_images(arguments))


def test_a_file_whose_name_is_an_address_is_a_file(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "data:1.jpg").touch()
    assert [path.name for path in find_images(["data:1.jpg"])] == ["data:1.jpg"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("path", ["", "*.jpg", "**/*.jpg"])
def test_a_pipe_that_nobody_named(folder, path):
    os.mkfifo(folder / "pipe.jpg")
    passed_over = []
    found = [image.name for image in find_images([folder / path], passed_over.append)]
    assert "b.jpg" in found
    assert "pipe.jpg" not in found
    assert [os.path.basename(entry.path) for entry in passed_over if entry.failed] == ["pipe.jpg"]
