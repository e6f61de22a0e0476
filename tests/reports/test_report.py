"""The report: one page that works offline, escapes what users wrote, and prints no rate of too few people."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas", reason="the report needs the extra report")
pytest.importorskip("matplotlib", reason="the report needs the extra report")
pytest.importorskip("jinja2", reason="the report needs the extra report")

from matplotlib.figure import Figure  # noqa: E402
from PIL import Image  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from agelens import __version__  # noqa: E402
from agelens.apps.cli import app  # noqa: E402
from agelens.data.label_meaning import MEANINGS  # noqa: E402
from agelens.data.manifest import check_manifest, write_manifest  # noqa: E402
from agelens.data.pooled import rows_tested, write_record  # noqa: E402
from agelens.data.predictions import Predictions, check_predictions, write_predictions  # noqa: E402
from agelens.data.splits import split_digest  # noqa: E402
from agelens.errors import InputError, OutputError  # noqa: E402
from agelens.evaluation.assurance import assure  # noqa: E402
from agelens.evaluation.evaluate import Evaluation, evaluate  # noqa: E402
from agelens.evaluation.results import is_rate  # noqa: E402
from agelens.label_distribution import AgeBins, gaussian  # noqa: E402
from agelens.reports.blocks import Gallery, Headlines, Section, Table, Text  # noqa: E402
from agelens.reports.page import drawing, page, plot_style, write_figure  # noqa: E402
from agelens.reports.report import report_groupings, write_report  # noqa: E402
from agelens.reports.stamp import make_stamp  # noqa: E402

BINS = AgeBins(0, 100)
NASTY = '<script>alert("x")</script> & $x^2$'
BY = ("age_band", "gender", "ethnicity", "pose")


class Page(HTMLParser):
    """Reads the tables of a page, its ids and whatever it would load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[dict[str, Any]] = []
        self.ids: list[str] = []
        self.loaded: list[str] = []
        self.tags: list[str] = []
        self._cell: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append(tag)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        for name in ("src", "href", "xlink:href", "action", "data", "poster"):
            if given.get(name):
                self.loaded.append(str(given[name]))
        if tag == "table":
            self.tables.append({"caption": "", "rows": [], "scopes": 0})
        elif tag == "tr":
            self.tables[-1]["rows"].append([])
        elif tag in ("td", "th", "caption"):
            self._cell = []
            if tag == "th":
                self.tables[-1]["scopes"] += given.get("scope") in ("row", "col")

    def handle_data(self, data: str) -> None:
        if self._cell is not None:
            self._cell.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th", "caption") and self._cell is not None:
            text = "".join(self._cell).strip()
            if tag == "caption":
                self.tables[-1]["caption"] = text
            else:
                self.tables[-1]["rows"][-1].append(text)
            self._cell = None

    def table(self, start: str) -> list[list[str]]:
        named = [table for table in self.tables if table["caption"] == start]
        (found,) = named or [table for table in self.tables if table["caption"].startswith(start)]
        rows: list[list[str]] = found["rows"]
        return rows


def drawn(count: int, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    eyes = random.uniform(10, 150, count)
    return pd.DataFrame(
        {
            "path": [f"{k}.png" for k in range(count)],
            "age": np.where(
                np.arange(count) % 3 == 0, random.integers(16, 18, count), random.integers(0, 90, count)
            ),
            "gender": random.choice(["male", "female"], count),
            "ethnicity": np.where(np.arange(count) % 20 == 0, NASTY, "White"),
            "pose": random.normal(0, 20, count),
            "landmarks": [f"0 0 {d:.1f} 0 5 5 0 9 9 9" for d in eyes],
            "split": "test",
            "digest": [f"{k:064x}" for k in range(count)],
        }
    )


def judged(labels: pd.DataFrame, failed: int = 0, spread: float | None = 5.0, **settings: Any) -> Evaluation:
    random = np.random.default_rng(1)
    checked = check_manifest(labels, "m.csv")
    centres = np.clip(checked["age"].to_numpy() + random.normal(1, 6, len(checked)), 0, 100)
    table = pd.DataFrame({"path": checked["path"], "age": centres, "error": ""})
    table.loc[: failed - 1, "age"] = np.nan
    table.loc[: failed - 1, "error"] = f"no face found {NASTY}"
    mass = None if spread is None else gaussian(centres, BINS, spread)
    said = Predictions(check_predictions(table, "p.csv"), mass, None if mass is None else BINS, "p.csv")
    return evaluate(
        said, checked, report_groupings(BY), replicates=50, system=NASTY, digest="d" * 64, **settings
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of 400 images, 12 of them failed."""
    out = tmp_path_factory.mktemp("report") / "deep" / "out"
    labels = drawn(400)
    found = judged(labels, failed=12)
    stamp = make_stamp(replace(found, image_kind="aligned"), check_manifest(labels, "m.csv"), labels="real")
    written = write_report(out, found, [assure(found, BY, wished=(0.05, 0.3))], stamp)
    assert written == out / "report.html"
    return out


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def parsed(text: str) -> Page:
    return Page(text)


@pytest.fixture
def without_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of a report's time; what a test reads in the text needs none."""
    monkeypatch.setattr("agelens.reports.page.write_figure", lambda *_: "<svg></svg>")


class TestPage:
    def test_a_page_is_escaped_and_whole(self) -> None:
        with plot_style():
            figure = Figure(figsize=(2, 1))
            axes = figure.subplots()
            axes.plot([1, 2], label=NASTY)
            axes.legend()
        blocks = (
            Text(NASTY),
            Headlines(((NASTY, "1", ""),)),
            Table(NASTY, (NASTY, "b"), ((NASTY, "1.0 [0.5, 1.5]"),), note=NASTY),
            drawing("a", figure, NASTY),
            drawing("b", figure, "again"),
            Gallery((("data:image/png;base64,AA", NASTY),)),
        )
        made = page(NASTY, {NASTY: NASTY}, [Section(NASTY, blocks), Section("second", ())])
        read = Page(made)
        assert "script" not in read.tags
        assert "alert" in made
        assert len(read.ids) == len(set(read.ids))
        assert read.tables[0]["rows"] == [[NASTY, "b"], [NASTY, "1.0 [0.5, 1.5]"]]
        assert [link for link in read.loaded if not link.startswith(("#", "data:"))] == []

    def test_no_list_of_contents_for_one_section(self) -> None:
        assert "nav" not in Page(page("t", {}, [Section("only", ())])).tags

    def test_a_row_has_as_many_cells_as_the_header(self) -> None:
        with pytest.raises(ValueError, match="1 cells under 2"):
            Table("c", ("a", "b"), (("1",),))

    def test_bytes_of_a_file_name_do_not_stop_it(self) -> None:
        assert "?.png" in page("t", {"file": "\udcff.png"}, [])

    def test_the_same_figure_gives_the_same_files(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            with plot_style():
                figure = Figure(figsize=(2, 1))
                figure.subplots().plot([1, 2], label="年齢")
            write_figure(figure, tmp_path / name, "f")
        for suffix in ("svg", "png"):
            one, two = ((tmp_path / name / f"f.{suffix}").read_bytes() for name in ("one", "two"))
            assert one == two

    def test_an_unwritable_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with plot_style():
            figure = Figure(figsize=(2, 1))
        with pytest.raises(OutputError):
            write_figure(figure, tmp_path / "file", "f")


class TestReport:
    def test_the_files(self, folder: Path) -> None:
        names = {path.name for path in folder.iterdir()}
        assert names == {"report.html", "report.json", "predictions.csv", "distributions.npz", "plots"}
        plots = {path.name for path in (folder / "plots").iterdir()}
        assert {name.rpartition(".")[0] for name in plots if name.endswith(".png")} == {
            *("error-by-age", "cumulative-errors", "predicted-against-true", "error-by-group"),
            *("pit", "coverage", "reliability", "assurance-18-estimate", "assurance-18-probability"),
        }
        assert {name.replace(".png", ".svg") for name in plots} <= plots

    def test_it_needs_nothing_else(self, parsed: Page, text: str) -> None:
        assert {"script", "link", "iframe"} & set(parsed.tags) == {"link"}  # the empty icon
        assert [link for link in parsed.loaded if not link.startswith(("#", "data:"))] == []
        assert not re.search(r"url\((?!#)", text)
        assert "default-src 'none'" in text

    def test_user_text_is_escaped(self, text: str) -> None:
        assert "<script" not in text
        assert "&lt;script&gt;" in text

    def test_ids_are_unique_and_links_lead_somewhere(self, parsed: Page) -> None:
        assert len(parsed.ids) == len(set(parsed.ids))
        assert {link[1:] for link in parsed.loaded if link.startswith("#")} <= set(parsed.ids)

    def test_tables_have_captions_and_headers(self, parsed: Page) -> None:
        assert len(parsed.tables) > 15
        for table in parsed.tables:
            assert table["caption"]
            assert table["scopes"] >= len(table["rows"][0])

    def test_figures_are_those_of_the_evaluation(self, parsed: Page, folder: Path) -> None:
        table = json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
        women = next(row for row in table["results"] if row["group"] == "female")
        shown = {row[0]: row for row in parsed.table("By gender")[1:]}["female"]
        header = parsed.table("By gender")[0]
        assert shown[1] == f"{women['count']:,}"
        mae = women["metrics"]["MAE"]
        assert shown[header.index("MAE")] == f"{mae['value']:.2f} [{mae['low']:.2f}, {mae['high']:.2f}]"
        rate = table["assurance"][0]["challenge_rates"][0]["rate"]
        shown = parsed.table("Challenge-25")[1]
        assert shown[2] == f"{rate['value']:.1%} [{100 * rate['low']:.1f}, {100 * rate['high']:.1f}]"

    def test_no_rate_of_too_few_people(self, parsed: Page) -> None:
        seen = 0
        for table in parsed.tables:
            header, *rows = table["rows"]
            for row in rows:
                if header[0] == "wished" or "people" not in " ".join(header):
                    continue
                stars = [place for place, cell in enumerate(row) if re.fullmatch(r"[\d,]+\*", cell)]
                for place in stars:
                    upto = next(
                        (k for k in range(place + 1, len(row)) if header[k].startswith("people")), len(row)
                    )
                    assert not [cell for cell in row[place + 1 : upto] if "%" in cell], (
                        table["caption"],
                        row,
                    )
                    seen += 1
        assert seen > 10
        small = [row for row in parsed.table("By ethnicity") if row[1].endswith("*")]
        assert small
        header = parsed.table("By ethnicity")[0]
        for row in small:
            assert row[header.index("CA(5)")] == row[header.index("coverage(90%)")] == "too few"
            assert re.match(r"\d", row[header.index("MAE")])

    def test_crossings_and_eye_distances(self, parsed: Page) -> None:
        assert len(parsed.table("By gender × ethnicity")) == 1 + 4
        eyes = parsed.table("Error by distance between the eyes")
        assert len(eyes) == 1 + 6
        assert sum(int(row[1].strip("*")) for row in eyes[1:]) == 388

    def test_the_wished_rate_is_reached(self, parsed: Page) -> None:
        rows = parsed.table("What reaches a wished-for")
        (row,) = [row for row in rows if row[:3] == ["all", "5.0%", "challenge age"]]
        assert float(row[3]) > 18
        assert float(row[4].split("%")[0]) <= 5

    def test_failures_are_told(self, parsed: Page, folder: Path, text: str) -> None:
        assert parsed.table("Images without an estimate")[1] == [f"no face found {NASTY}", "12"]
        assert parsed.table("Failure to estimate")[1][:3] == ["all", "400", "400"]
        table = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        assert len(table["failed"]) == 12
        assert "12 images got no estimate" in text

    def test_the_stamp(self, folder: Path) -> None:
        stamp = json.loads((folder / "report.json").read_text(encoding="utf-8"))["stamp"]
        assert stamp["Model digest"] == "d" * 64
        assert stamp["Labels"] == MEANINGS["real"]
        assert stamp["Split digest"] == split_digest(check_manifest(drawn(400), "m.csv"))
        assert f"agelens {__version__}" in stamp["Software"]

    def test_faces_are_not_shown_unless_asked_for(self, text: str, parsed: Page) -> None:
        assert "data:image/jpeg" not in text
        assert "img" not in parsed.tags

    @pytest.mark.usefixtures("without_figures")
    def test_thumbnails(self, tmp_path: Path) -> None:
        labels = drawn(40).drop(columns=["landmarks", "pose"])
        for path in labels["path"][:39]:
            Image.new("RGB", (300, 200), (90, 30, 20)).save(tmp_path / path)
        labels = check_manifest(labels, "m.csv")
        labels.attrs["root"] = tmp_path
        found = judged(labels)
        write_report(tmp_path / "out", found, [], make_stamp(found, labels), thumbnails=True)
        read = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        assert read.count('src="data:image/jpeg') >= 23
        assert Page(read).tags.count("img") == read.count('src="data:image/jpeg')

    @pytest.mark.usefixtures("without_figures")
    def test_who_is_estimated_wrong_stands_beside_others_of_that_age(self, tmp_path: Path) -> None:
        ages = np.array([60.0, 25, 26, 24, 40, 24, 50])
        estimates = np.array([25.0, 25, 26, 31, 40, 24, 50])  # the first is taken for 25
        paths = [f"{k}.png" for k in range(len(ages))]
        for path in paths:
            Image.new("RGB", (30, 30), (90, 30, 20)).save(tmp_path / path)
        table = pd.DataFrame({"path": paths, "age": ages, "subject": list("abcdeaf")})
        labels = check_manifest(table, "m.csv")
        labels.attrs["root"] = tmp_path
        table = check_predictions(pd.DataFrame({"path": paths, "age": estimates}), "p.csv")
        found = evaluate(Predictions(table, None, None, "p.csv"), labels, report_groupings(()), replicates=5)
        write_report(tmp_path / "out", found, [], make_stamp(found, labels), thumbnails=True)
        read = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        study = read[read.index("Mistaken for</h2>") :]
        first = study[study.index('<div class="gallery">') :]
        captions = re.findall(r"<figcaption>(.*?)</figcaption>", first[: first.index("</div>")])
        # Nearest first by age and estimate; 5.png shows the same person, 4.png and 6.png have other ages.
        assert captions == ["aged 60, taken for 25", "aged 25", "aged 26", "aged 24"]
        (tmp_path / "0.png").unlink()
        write_report(tmp_path / "again", found, [], make_stamp(found, labels), thumbnails=True)
        read = (tmp_path / "again" / "report.html").read_text(encoding="utf-8")
        study = read[read.index("Mistaken for</h2>") :]
        assert "aged 60, taken for 25" not in study
        assert "aged 24, taken for 31" in study

    def test_one_image_without_anything(self, tmp_path: Path) -> None:
        labels = check_manifest(pd.DataFrame({"path": ["a"], "age": [40.0]}), "m.csv")
        table = check_predictions(pd.DataFrame({"path": ["a"], "age": [42.0]}), "p.csv")
        found = evaluate(Predictions(table, None, None, "p.csv"), labels, report_groupings(BY), replicates=5)
        stamp = make_stamp(found, labels)
        write_report(tmp_path, found, [assure(found, BY)], stamp)
        read = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "none: the manifest lacks" in stamp.entries["Split digest"]
        assert stamp.entries["Labels"].startswith("not stated")
        assert "too few" in read
        assert "no values for: gender, ethnicity, pose" in read
        assert not [
            cell for table in Page(read).tables for row in table["rows"] for cell in row if "nan" in cell
        ]

    @pytest.mark.usefixtures("without_figures")
    def test_zero_deviation_of_voters_is_told(self, tmp_path: Path) -> None:
        labels = check_manifest(
            pd.DataFrame({"path": ["a", "b"], "age": [40.0, 20.0], "age_std": [0.0, 2.0]}), "m.csv"
        )
        table = check_predictions(pd.DataFrame({"path": ["a", "b"], "age": [42.0, 20.0]}), "p.csv")
        found = evaluate(Predictions(table, None, None, "p.csv"), labels, report_groupings(()), replicates=5)
        assert found.overall["ε-error"].value == 0.5
        write_report(tmp_path, found, [], make_stamp(found, labels, labels="apparent"))
        read = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "voters of 1 images agreed (σ = 0)" in read
        assert "0.500" in read

    @pytest.mark.usefixtures("without_figures")
    def test_what_one_side_lacks_is_named(self, tmp_path: Path) -> None:
        labels = check_manifest(drawn(40), "m.csv")
        table = check_predictions(
            pd.DataFrame({"path": ["0.png", "1.png", NASTY], "age": [1, 2, 3]}), "p.csv"
        )
        found = evaluate(
            Predictions(table, None, None, "p.csv"), labels, (), allow_missing=True, replicates=5
        )
        found_by_age = evaluate(
            Predictions(table, None, None, "p.csv"),
            labels,
            report_groupings(("gender",)),
            allow_missing=True,
            replicates=5,
        )
        assert len(found.match.missing) == 38
        write_report(tmp_path, found_by_age, [assure(found_by_age, ())], make_stamp(found, labels))
        read = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "38 images of the manifest have no prediction" in read
        assert "1 predictions are for files that the manifest lacks" in read

    @pytest.mark.usefixtures("without_figures")
    def test_an_evaluation_by_any_groups_is_enough(self, tmp_path: Path) -> None:
        for number in range(40):
            (tmp_path / f"{number}.png").touch()
        labels = drawn(40).drop(columns=["landmarks", "pose"])
        write_manifest(labels, tmp_path / "m.csv")
        labels = check_manifest(labels, tmp_path / "m.csv")
        labels.attrs["path"] = tmp_path / "m.csv"
        table = labels[["path", "age"]].copy()
        predictions = Predictions(check_predictions(table, "p.csv"), None, None, "p.csv")
        write_report(tmp_path / "out", evaluate(predictions, labels, ("gender",), replicates=5))
        stamp = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["stamp"]
        assert stamp["Data"].endswith("m.csv")
        read = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
        assert "error-by-age" not in read
        assert "cumulative-errors" in read

    def test_labels_must_be_known(self) -> None:
        labels = check_manifest(drawn(5), "m.csv")
        found = judged(labels)
        with pytest.raises(InputError, match="real, apparent, estimated"):
            make_stamp(found, labels, labels="guessed")
        assert make_stamp(found, labels).entries["Labels"].startswith("not stated")
        told = make_stamp(replace(found, protocol="chalearn"), labels).entries
        assert (told["Labels"], told["Protocol"]) == (MEANINGS["apparent"], "chalearn")
        assert (
            make_stamp(replace(found, protocol="chalearn"), labels, labels="real").entries["Labels"]
            == MEANINGS["real"]
        )
        assert (
            make_stamp(replace(found, protocol="appa-real"), labels)
            .entries["Labels"]
            .startswith("not stated")
        )

    @pytest.mark.usefixtures("without_figures")
    def test_strange_estimates_are_counted(self, tmp_path: Path) -> None:
        labels = check_manifest(drawn(3), "m.csv")
        table = check_predictions(
            pd.DataFrame({"path": labels["path"], "age": [-1.0, 131.0, 130.0]}), "p.csv"
        )
        found = evaluate(Predictions(table, None, None, "p.csv"), labels, report_groupings(()), replicates=5)
        write_report(tmp_path, found, [], make_stamp(found, labels))
        read = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "2 estimates lie outside 0 … 130 years" in read

    def test_the_json_tells_no_rate_of_too_few(self, folder: Path) -> None:
        table = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        small = [row for row in table["results"] if row["small"] and row["count"]]
        assert small
        for row in small:
            rates = [value for name, value in row["metrics"].items() if is_rate(name)]
            assert rates
            assert all(value == {"value": None, "low": None, "high": None} for value in rates)
            assert row["metrics"]["MAE"]["value"] > 0
        assert any(row["people"] < 30 for row in table["reliability"])
        for row in table["reliability"]:
            assert (row["observed"] is None) == (row["people"] < 30)

    @pytest.mark.usefixtures("without_figures")
    def test_people_and_not_images_make_a_group_large(self, tmp_path: Path) -> None:
        labels = drawn(120)
        labels["subject"] = [f"p{index % 20}" for index in range(120)]
        labels = check_manifest(labels, "m.csv")
        found = judged(labels)
        assert (found.images, found.people, found.results[0].small) == (120 - len(found.failures), 20, True)
        assert found.to_dict()["pit_histogram"] == []
        assert {row["observed"] for row in found.to_dict()["reliability"]} == {None}
        write_report(tmp_path, found, [], make_stamp(found, labels))
        read = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert "No cumulative error curve: fewer than 30 people." in read


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """manifest.csv, and what a system says of it: predictions.csv."""
    out = tmp_path_factory.mktemp("files")
    labels = drawn(60)
    write_manifest(labels, out / "manifest.csv")
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {"path": labels["path"], "age": labels["age"] + random.normal(0, 3, 60), "error": ""}
    )
    write_predictions(Predictions(check_predictions(table, "p"), None, None, "p"), out / "predictions.csv")
    return out


class TestCommand:
    def run(self, *arguments: object) -> Any:
        return CliRunner().invoke(app, ["evaluate", *(str(argument) for argument in arguments)])

    def test_a_report(self, files: Path) -> None:
        out = files / "out"
        done = self.run(
            *(files / "predictions.csv", "--data", files / "manifest.csv", "--report", out),
            *("--by", "gender,pose", "--labels", "real", "--threshold", 16, "--threshold", 18),
            *("--challenge", 20, "--challenge", 25, "--false-positive-rate", 0.1, "--certainty", 0.9),
        )
        assert done.exit_code == 0, done.output
        table = json.loads((out / "report.json").read_text(encoding="utf-8"))
        assert [(row["threshold"], row["challenge"]) for row in table["assurance"]] == [(16, 20), (18, 25)]
        assert table["stamp"]["Labels"] == MEANINGS["real"]
        assert "sha256 of the predictions" in table["stamp"]["Model digest"]
        assert {row["grouping"] for row in table["results"]} == {
            *("all", "gender", "pose", "gender:pose", "five_years", "eye_distance")
        }
        printed = {line.split()[0] for line in done.output.splitlines()[3:]}
        assert "gender:pose" not in printed
        assert {"all", "gender", "pose"} <= printed

    def test_few_columns_are_printed_unless_all_are_asked_for(self, files: Path) -> None:
        said = [
            files / "predictions.csv",
            "--data",
            files / "manifest.csv",
            "--split",
            "all",
            "--by",
            "gender",
        ]
        few, every = (self.run(*said, *more).output.splitlines() for more in ((), ("--wide",)))
        (header,) = [line.split() for line in few if line.startswith("grouping")]
        (wide,) = [line.split() for line in every if line.startswith("grouping")]
        assert header == ["grouping", "group", "images", "MAE", "bias", "CA(5)", "AAR"]
        assert wide == [
            "grouping",
            "group",
            "images",
            *("MAE", "RMSE", "bias"),
            "CA(3)",
            "CA(5)",
            "CA(7)",
            "AAR",
        ]

    def test_a_protocol(self, files: Path) -> None:
        table, manifest = files / "predictions.csv", files / "manifest.csv"
        done = self.run(table, "--data", manifest, "--protocol", "image-5-fold", "--json", files / "e.json")
        assert done.exit_code == 0, done.output
        assert "protocol image-5-fold: 60 images" in done.output
        both = self.run(table, "--data", manifest, "--protocol", "image-5-fold", "--split", "test")
        assert both.exit_code == 2
        assert "say both" in both.output

    @pytest.mark.usefixtures("without_figures")
    def test_a_run_over_folds(self, files: Path, tmp_path: Path) -> None:
        from agelens.data.manifest import read_manifest

        shutil.copy(files / "predictions.csv", tmp_path)
        _, digest = rows_tested(read_manifest(files / "manifest.csv"), "image-5-fold")
        write_record(tmp_path, {"protocol": {"name": "image-5-fold"}, "digest": digest})
        done = self.run(
            tmp_path, "--data", files / "manifest.csv", "--report", tmp_path / "out", "--by", "gender"
        )
        assert done.exit_code == 0, done.output
        stamp = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["stamp"]
        assert (stamp["Protocol"], stamp["Split digest"]) == ("image-5-fold", digest)
        write_record(tmp_path, {"protocol": {"name": "image-5-fold"}, "digest": "0" * 64})
        assert "other folds" in self.run(tmp_path, "--data", files / "manifest.csv").output

    @pytest.mark.parametrize(
        ("table", "options", "message"),
        [
            ("path,age\n0.png,old\n", (), "row 1, column 'age': not a finite number (value: 'old')"),
            ("path,age\n0.png,nan\n", (), "row 1, column 'age': not a finite number (value: 'nan')"),
            ("path,age\n0.png,\n", (), "row 1, column 'age': no age and no error (value: '')"),
            ("path,age\n0.png,3\n", (), "59 of 60 images of the manifest have no prediction"),
            ("path,age\nx.png,3\n", ("--allow-missing",), "no image of the manifest has a predicted age"),
            ("path,age\n0.png,3\n", ("--allow-missing", "--by", "genre"), "no such grouping: 'genre'"),
            ("path,age\n0.png,3\n", ("--allow-missing", "--by", "gender,,pose"), "no name"),
            ("path,age\n0.png,3\n", ("--challenge", "20", "--challenge", "21"), "2 challenge ages"),
            ("path,age\n0.png,3\n", ("--protocol", "nobody's"), "unknown protocol"),
        ],
    )
    def test_bad_input_is_told_in_a_line(
        self, files: Path, tmp_path: Path, table: str, options: Sequence[str], message: str
    ) -> None:
        path = tmp_path / "p.csv"
        path.write_text(table, encoding="utf-8")
        done = self.run(path, "--data", files / "manifest.csv", "--report", tmp_path / "out", *options)
        assert done.exit_code == 2, done.output
        assert message in done.output
        assert not (tmp_path / "out").exists()

    def test_a_folder_that_is_no_run(self, files: Path, tmp_path: Path) -> None:
        done = self.run(tmp_path, "--data", files / "manifest.csv")
        assert done.exit_code == 2
        assert "a folder without run.json or folds.json is no run" in done.output

    def test_bad_assurance_settings_write_nothing(self, files: Path, tmp_path: Path) -> None:
        for options in (("--challenge", 10), ("--false-positive-rate", 2), ("--certainty", 0.2)):
            done = self.run(
                *(files / "predictions.csv", "--data", files / "manifest.csv"),
                *("--report", tmp_path / "out", *options),
            )
            assert done.exit_code == 2, done.output
            assert not (tmp_path / "out").exists()

    @pytest.mark.usefixtures("without_figures")
    def test_missing_images_are_counted(self, files: Path, tmp_path: Path) -> None:
        (tmp_path / "p.csv").write_text("path,age\n0.png,3\n1.png,30\n", encoding="utf-8")
        done = self.run(
            *(tmp_path / "p.csv", "--data", files / "manifest.csv", "--allow-missing"),
            *("--report", tmp_path / "out"),
        )
        assert done.exit_code == 0, done.output
        assert "missing: 58 images: 2.png, 3.png, 4.png, 5.png, 6.png, …" in done.output


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync = pytest.importorskip("playwright.sync_api", reason="opening the page needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("opening the page needs chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=flags)
        yield opened
        opened.close()


@pytest.mark.slow
def test_a_browser_finds_its_tables(browser: Any, folder: Path, parsed: Page) -> None:
    context = browser.new_context(offline=True, viewport={"width": 1200, "height": 900})
    tab = context.new_page()
    told: list[str] = []
    tab.on("console", lambda message: told.append(message.text))
    tab.on("pageerror", lambda error: told.append(str(error)))
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((folder / "report.html").as_uri())
    assert tab.locator("table").count() == len(parsed.tables)
    assert tab.get_by_role("heading", level=1).inner_text().startswith("Age estimation")
    for table in tab.locator("table").all():
        assert table.is_visible()
    assert tab.get_by_role("img").count() == 9
    assert tab.evaluate("document.documentElement.scrollWidth") <= 1200
    sizes = [drawn_.bounding_box() for drawn_ in tab.locator("figure svg").all()]
    assert all(size is not None and size["height"] > 50 for size in sizes)
    assert told == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()
