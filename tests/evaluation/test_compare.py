"""Comparison of systems: paired differences, verdicts by group, cost, quoted rows; the published results."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from agelens import metrics
from agelens.apps.cli import app
from agelens.data.manifest import check_manifest
from agelens.data.predictions import Predictions, check_predictions, write_predictions
from agelens.errors import InputError, ModelFileError, PredictionsError, PublishedResultsError
from agelens.evaluation.compare import Comparison, compare
from agelens.evaluation.cost import measure_latency, pareto_front, stored_weights
from agelens.evaluation.published import PUBLISHED, quoted_systems, read_published
from agelens.evaluation.systems import Answers, open_system, over_seeds
from agelens.label_distribution import AgeBins, gaussian
from agelens.reports.comparison import write_comparison
from agelens.reports.tables import difference_rows, group_rows, system_rows

BINS = AgeBins(0, 100)
COUNT = 200


# --- the published results


FIGURES = {
    ("LRN", "1"): 7,
    ("LRN", "2"): 4,
    ("LRN", "3"): 13,
    ("LRN", "4"): 11,
    ("LRN", "5"): 24,
    ("LRN", "6"): 2,
    ("LRN", "7"): 24,
    ("LRN", "8"): 64,
    ("LRN", "9"): 13,
    ("LRN", "10"): 6,
    ("LRN", "11"): 4,
    ("CEN", "1"): 20,
    ("CEN", "2"): 13,
    ("CEN", "3"): 11,
    ("CEN", "4"): 24,
    ("CEN", "5"): 64,
    ("CEN", "6"): 13,
    ("CEN", "7"): 4,
    ("LAE", "2"): 39,
    ("ordinal-dark KD", "I"): 39,
    ("ordinal-dark KD", "II"): 25,
    ("ordinal-dark KD", "III"): 18,
    ("ordinal-dark KD", "IV"): 24,
    ("ordinal-dark KD", "V"): 17,
    ("ordinal-dark KD", "VI"): 18,
    ("ordinal-dark KD", "VII"): 18,
    ("ordinal-dark KD", "VIII"): 12,
    ("ordinal-dark KD", "IX"): 12,
}
"""Number of figures that each table of the four papers prints."""

# Where each table stands in the texts: file, a pattern of its first line and of the line after it.
PLACES = {
    ("LRN", "1"): ("lrn-2020.txt", r"^Table 1$", r"^3\.5\."),
    ("LRN", "3"): ("lrn-2020.txt", r"^Table 3$", r"^\* Using"),
    ("LRN", "4"): ("lrn-2020.txt", r"^Table 4$", r"^\* Using"),
    ("LRN", "5"): ("lrn-2020.txt", r"^Table 5$", r"^Table 6$"),
    ("LRN", "6"): ("lrn-2020.txt", r"^Table 6$", r"^Table 7$"),
    ("LRN", "7"): ("lrn-2020.txt", r"^Table 7$", r"^4\.5\. Comparisons"),
    ("LRN", "8"): ("lrn-2020.txt", r"^Table 8$", r"^90\.52% to"),
    ("LRN", "9"): ("lrn-2020.txt", r"^Table 9$", r"^bel distribution refinery"),
    ("LRN", "10"): ("lrn-2020.txt", r"^Table 10$", r"^Table 11$"),
    ("LRN", "11"): ("lrn-2020.txt", r"^Table 11$", r"^discriminative regions"),
    ("CEN", "1"): ("cen-2018.txt", r"^Table 1:", r"^Obviously"),
    ("CEN", "2"): ("cen-2018.txt", r"^Table 2:", r"^In addition to real age"),
    ("CEN", "3"): ("cen-2018.txt", r"^Table 3:", r"^Besides"),
    ("CEN", "4"): ("cen-2018.txt", r"^Table 4:", r"^The Superiority"),
    ("CEN", "5"): ("cen-2018.txt", r"^Table 5:", r"^In addition, we show"),
    ("CEN", "6"): ("cen-2018.txt", r"^Table 6:", r"^Influence of"),
    ("LAE", "2"): ("lae-2021.txt", r"^\*\*Table 2\.", r"^## 4 Conclusions"),
    ("ordinal-dark KD", "II"): ("ordinal-dark-kd-2020.txt", r"^TABLE II ", r"^In Table II,"),
    ("ordinal-dark KD", "III"): ("ordinal-dark-kd-2020.txt", r"^TABLE III ", r"^In Table III,"),
    ("ordinal-dark KD", "V"): ("ordinal-dark-kd-2020.txt", r"^TABLE V ", r"^In Table V,"),
    ("ordinal-dark KD", "VI"): ("ordinal-dark-kd-2020.txt", r"^TABLE VI ", r"^The experiments are"),
    ("ordinal-dark KD", "VII"): ("ordinal-dark-kd-2020.txt", r"^TABLE VII ", r"^In order to"),
    ("ordinal-dark KD", "VIII"): ("ordinal-dark-kd-2020.txt", r"^ TABLE VIII", r"^To further"),
    ("ordinal-dark KD", "IX"): ("ordinal-dark-kd-2020.txt", r"^TABLE IX ", r"^Sequence length"),
}


class TestPublishedResults:
    def test_every_table_is_whole(self) -> None:
        found = Counter((row.paper, row.table) for row in read_published())
        assert {key: found[key] for key in FIGURES} == FIGURES
        papers = {paper for paper, _ in FIGURES}
        assert {key for key in found if key[0] in papers} == set(FIGURES)

    @pytest.mark.parametrize("place", PLACES, ids=" ".join)
    def test_figures_are_those_of_the_text(self, shared: Path, place: tuple[str, str]) -> None:
        file, first, after = PLACES[place]
        lines = (shared / "papers" / file).read_text(encoding="utf-8").splitlines()
        start = next(at for at, line in enumerate(lines) if re.search(first, line))
        end = next(at for at, line in enumerate(lines[start:], start) if re.search(after, line))
        if place[1] in ("9", "6") and place[0] in ("LRN", "CEN") and place != ("LRN", "6"):
            figure = r"\d\.\d{3}\b"  # not the settings beside them
        else:
            figure = r"(?<![\d.])\d+\.\d+(?![\d.]*M\b)"  # not the numbers of parameters
        # The formulas of a web page are told twice, once as TeX.
        text = "\n".join(re.sub(r".*\}", "", line) for line in lines[start + 1 : end])
        printed = Counter(re.findall(figure, text))
        rows = [row for row in read_published() if (row.paper, row.table) == place]
        assert Counter(row.value for row in rows) == printed

    def test_spot_values(self) -> None:
        rows = read_published()

        def value(paper: str, table: str, method: str, metric: str, **more: str) -> list[str]:
            return [
                row.value
                for row in rows
                if (row.paper, row.table, row.method, row.metric) == (paper, table, method, metric)
                and all(getattr(row, name) == text for name, text in more.items())
            ]

        assert value("LRN", "3", "LRN (ResNet-18)", "MAE") == ["1.905"]
        assert value("LRN", "4", "LRN (ResNet-10-Tiny)", "ε-error", parameters="1.2M") == ["0.274"]
        assert value("LRN", "7", "LDL+Reg, ancestor (ResNet-18)", "MAE") == ["2.298"]
        assert value("LRN", "8", "LRN (ResNet-18), t=3", "CA(7)") == ["92.28"]
        assert value("LRN", "11", "LRN", "MAE", group="gender=female") == ["2.57"]
        assert value("CEN", "1", "LDL+Reg (ŷ_reg), ancestor (ResNet18)", "CA(3)") == ["60.57"]
        assert value("LAE", "2", "Submission", "AAR") == ["7.94"]
        assert value("LAE", "2", "Classification", "MAE", group="age=1-10") == ["2.69"]
        assert value("ordinal-dark KD", "II", "KD (normal)", "MAE", data_set="FG-NET") == ["2.06"]
        assert value("ordinal-dark KD", "IV", "KD (small)", "size (MB)") == ["0.44"]
        # The tables are right where the running text is wrong (LRN Sec. 4.4).
        assert value("LRN", "5", "LRN (ResNet-18-Tiny)", "CA(3)") == ["64.45"]
        assert value("LRN", "5", "Posterior", "CA(3)", pre_training="MS-Celeb-1M") == ["64.23"]

    def test_the_same_network_has_the_same_figures_in_both_papers(self) -> None:
        told = {
            paper: [(row.metric, row.value) for row in read_published() if (row.paper, row.table) == place]
            for paper, place in (("LRN", ("LRN", "8")), ("CEN", ("CEN", "5")))
        }
        assert told["LRN"] == told["CEN"]

    def test_later_results_are_there(self) -> None:
        quoted = quoted_systems(read_published(), "utkface", "all ages")
        assert "4.77 ± 0.12" in [row.metrics["MAE"] for row in quoted]
        assert min(float(row.metrics["MAE"].split()[0]) for row in quoted) == 3.87
        (mobile,) = [row for row in quoted_systems(read_published(), "UTKFace") if "Mobile" in row.name]
        assert mobile.parameters == pytest.approx(3.23e6)

    def test_a_quoted_row_gathers_the_figures_of_a_system(self) -> None:
        quoted = quoted_systems(read_published(), "MORPH Album 2")
        (small,) = [row for row in quoted if row.source.endswith("KD 2020, Table IV") and "KD" in row.name]
        assert small.metrics["MAE"] == "2.73"
        assert small.size == pytest.approx(0.44 * 2**20)
        (ranking,) = [row for row in quoted if row.source.endswith("KD 2020, Table I") and "Rank" in row.name]
        assert ranking.size == pytest.approx(2.2 * 2**30)
        assert not any("2.57" in row.metrics.values() for row in quoted)  # women's MAE is not everybody's

    def test_refusals_name_what_there_is(self) -> None:
        rows = read_published()
        with pytest.raises(InputError, match="'IMDB'; there are results on AFAD, ChaLearn"):
            quoted_systems(rows, "IMDB")
        with pytest.raises(InputError, match="by protocol 'folds'; there are: random 80/20"):
            quoted_systems(rows, "AFAD", "folds")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"value": "4,5"}, "row 2, column 'value': is no number"),
            ({"value": "nan"}, "row 2, column 'value': is no number"),
            ({"value": ""}, "row 2, column 'value': is empty"),
            ({"method": " "}, "row 2, column 'method': is empty"),
            ({"year": "20"}, "row 2, column 'year': is no year"),
            ({"parameters": "many"}, "row 2, column 'parameters': is no number"),
            ({"deviation": "±1"}, "row 2, column 'deviation': is no number"),
        ],
    )
    def test_a_broken_row_is_refused(self, tmp_path: Path, change: dict[str, str], message: str) -> None:
        with open(PUBLISHED, encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))[:3]
        rows[1] |= change
        with open(tmp_path / "p.csv", "w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        with pytest.raises(PublishedResultsError, match=re.escape(message)):
            read_published(tmp_path / "p.csv")

    @pytest.mark.parametrize("damage", ["twice", "short", "long", "column", "bytes", "missing"])
    def test_a_broken_file_is_refused(self, tmp_path: Path, damage: str) -> None:
        lines = PUBLISHED.read_text(encoding="utf-8").splitlines()[:4]
        if damage == "twice":
            lines.append(lines[-1])
        elif damage == "short":
            lines[2] = lines[2].rsplit(",", 2)[0]
        elif damage == "long":
            lines[2] += ",more"
        elif damage == "column":
            lines = [line.partition(",")[2] for line in lines]
        path = tmp_path / "p.csv"
        if damage != "missing":
            path.write_bytes(
                b"\xff\xfe\x00" if damage == "bytes" else ("\n".join(lines) + "\n").encode("utf-8")
            )
        with pytest.raises(PublishedResultsError, match=re.escape(str(path))):
            read_published(path)


# --- comparing


def labels(seed: int = 0, **columns: object) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return check_manifest(
        pd.DataFrame(
            {
                "path": [f"{index}.png" for index in range(COUNT)],
                "age": random.integers(0, 95, COUNT),
                "gender": random.choice(["male", "female"], COUNT),
                "ethnicity": np.where(np.arange(COUNT) < 12, "Other", "White"),
                "split": "test",
                **columns,
            }
        ),
        "m.csv",
    )


def says(
    name: str,
    manifest: pd.DataFrame,
    noise: float | NDArray[np.float64],
    seed: int = 1,
    distributions: bool = True,
    failed: int | None = None,
) -> Answers:
    random = np.random.default_rng(seed)
    ages = np.clip(manifest["age"].to_numpy() + random.normal(0, 1, len(manifest)) * noise, 0, 100)
    frame = pd.DataFrame({"path": manifest["path"], "age": ages, "error": ""})
    distribution = gaussian(ages, BINS, 5.0) if distributions else None
    if failed is not None:
        frame.loc[failed, ["age", "error"]] = [np.nan, "no face found"]
        if distribution is not None:
            distribution[failed] = np.nan
    told = Predictions(
        check_predictions(frame, f"{name}.csv"), distribution, BINS if distributions else None, name
    )
    return Answers(name, "predictions", f"{name}.csv", told)


@pytest.fixture(scope="module")
def manifest() -> pd.DataFrame:
    return labels()


@pytest.fixture(scope="module")
def comparison(manifest: pd.DataFrame) -> Comparison:
    quoted = quoted_systems(read_published(), "UTKFace")
    systems = [says("good", manifest, 2.0), says("bad", manifest, 12.0, 2), says("alike", manifest, 2.0, 4)]
    return compare(systems, manifest, quoted=quoted, replicates=400)


class TestCompare:
    def test_differences_are_the_paired_bootstrap(
        self, manifest: pd.DataFrame, comparison: Comparison
    ) -> None:
        ages = manifest["age"].to_numpy()
        a, b = (
            says(name, manifest, noise, seed).predictions for name, noise, seed in (("g", 2, 1), ("b", 12, 2))
        )
        errors = [np.abs(said.frame["age"].to_numpy() - ages) for said in (a, b)]
        scores = {
            "MAE": errors,
            "CA(5)": [100.0 * (error < 5) for error in errors],
            "CRPS": [metrics.crps_scores(said.distribution, BINS, ages) for said in (a, b)],
        }
        for metric, (first, second) in scores.items():
            expected = metrics.paired_bootstrap(first, second, 400)
            (row,) = [
                row for row in comparison.differences if (row.metric, row.a, row.b) == (metric, "good", "bad")
            ]
            assert row.paired.difference == pytest.approx(expected.difference, abs=1e-9)
            assert (row.paired.low, row.paired.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
            assert row.paired.p == expected.p

    def test_metrics_are_those_of_the_evaluation(
        self, manifest: pd.DataFrame, comparison: Comparison
    ) -> None:
        said = says("good", manifest, 2.0).predictions.frame["age"].to_numpy()
        assert comparison.systems[0].metrics["MAE"].value == pytest.approx(
            metrics.mae(said, manifest["age"].to_numpy())
        )
        assert comparison.images == COUNT
        assert comparison.left_out == 0

    def test_seeds_of_a_system_are_averaged_image_by_image(self, manifest: pd.DataFrame) -> None:
        ours = [says("ours", manifest, 2.0, seed) for seed in (1, 4, 5)]
        ours = [replace(system, source=f"{number}.csv") for number, system in enumerate(ours)]
        rival = says("rival", manifest, 12.0, 2)
        found = compare([over_seeds(ours), rival], manifest, ("gender",), replicates=400)
        ages = manifest["age"].to_numpy()
        errors = [np.abs(said.predictions.frame["age"].to_numpy() - ages) for said in (*ours, rival)]
        mean = np.mean(errors[:3], axis=0)
        expected = metrics.paired_bootstrap(mean, errors[3], 400)
        (row,) = [row for row in found.differences if row.metric == "MAE"]
        assert row.paired.difference == pytest.approx(expected.difference, abs=1e-9)
        assert (row.paired.low, row.paired.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        told, other = found.systems
        assert told.error_by_seed == pytest.approx([error.mean() for error in errors[:3]])
        interval = metrics.bootstrap_interval(mean, replicates=400)
        of_mean = told.metrics["MAE"]
        assert (of_mean.value, of_mean.low, of_mean.high) == pytest.approx(
            (interval.value, interval.low, interval.high), abs=1e-9
        )
        assert set(told.metrics) == {"MAE", "CA(3)", "CA(5)", "CA(7)", "CRPS"}
        assert not other.error_by_seed
        assert "RMSE" in other.metrics
        assert [verdict.winner for verdict in found.groups] == ["ours", "ours"]
        first = system_rows(found)[0]
        deviation = np.std([error.mean() for error in errors[:3]], ddof=1)
        assert first["MAE by seed"].endswith(f"(sd {deviation:.3f})")
        assert first["source"] == "0.csv, 1.csv, 2.csv"

    def test_seeds_that_cannot_be_of_one_system(self, manifest: pd.DataFrame) -> None:
        one = says("one", manifest, 2.0)
        with pytest.raises(InputError, match=r"'one': source one\.csv is there twice"):
            over_seeds([one, one])
        with pytest.raises(InputError, match="'one' and 'two' are two systems"):
            over_seeds([one, says("two", manifest, 2.0)])
        with pytest.raises(InputError, match="'one' is a predictions and a model"):
            over_seeds([one, replace(one, kind="model", source="1.onnx")])
        with pytest.raises(InputError, match="one training or more"):
            over_seeds([])

    def test_images_that_one_seed_did_not_answer_are_left_out(self, manifest: pd.DataFrame) -> None:
        whole, failed = says("ours", manifest, 2.0), says("ours", manifest, 2.0, 3, failed=7)
        ours = over_seeds([whole, replace(failed, source="b.csv")])
        found = compare([ours, says("rival", manifest, 9.0, 2)], manifest, ())
        assert found.images == COUNT - 1
        assert found.left_out == 1
        assert found.systems[0].answered == COUNT - 1
        assert found.systems[0].failed == (("7.png", "no face found"),)

    def test_a_winner_beats_every_other_system(self, manifest: pd.DataFrame, comparison: Comparison) -> None:
        # Two equally good ones: neither is called best, though one of them has the smallest MAE.
        overall = [verdict for verdict in comparison.groups if verdict.grouping == "gender"]
        assert {verdict.verdict for verdict in overall} == {"no difference shown"}
        assert {verdict.lowest for verdict in overall} <= {"good", "alike"}
        pair = compare([says("bad", manifest, 12.0, 2), says("good", manifest, 2.0)], manifest, ("gender",))
        assert [verdict.verdict for verdict in pair.groups] == ["good", "good"]
        for verdict in pair.groups:
            assert verdict.against["bad"].high < 0
            assert verdict.errors["good"] == min(verdict.errors.values())

    def test_verdicts_follow_the_intervals(self, comparison: Comparison) -> None:
        for verdict in comparison.groups:
            if verdict.errors:
                clear = all(found.high < 0 for found in verdict.against.values())
                assert (verdict.winner is not None) == clear
        for row in comparison.differences:
            assert row.shown == (row.paired.low > 0 or row.paired.high < 0)

    @pytest.mark.parametrize(("count", "verdict"), [(1, "too few"), (29, "too few"), (30, "good is better")])
    def test_few_images_show_no_difference(self, manifest: pd.DataFrame, count: int, verdict: str) -> None:
        rows = manifest.iloc[:count]
        systems = [says("good", rows, 1.0), says("bad", rows, 30.0, 2)]
        found = compare(systems, rows, (), replicates=200)
        (told,) = [row for row in difference_rows(found) if row["metric"] == "MAE"]
        assert found.differences[0].paired.high < 0
        assert told["verdict"] == verdict
        assert found.differences[0].shown == (count >= 30)

    def test_no_rate_of_few_people(self, tmp_path: Path) -> None:
        rows = labels(subject=[f"p{index % 29}" for index in range(COUNT)])
        found = compare([says("a", rows, 1.0), says("b", rows, 30.0, 2)], rows, replicates=50)
        assert (found.images, found.people) == (COUNT, 29)
        row = system_rows(found)[0]
        assert {row[name] for name in row if name.startswith(("CA", "coverage"))} == {"too few"}
        assert row["MAE"].startswith("0.")
        told = {row["metric"]: (row["difference"], row["p"]) for row in difference_rows(found)}
        assert told["CA(5)"] == ("too few", "")
        assert told["MAE"][0].startswith("-")
        table = found.to_dict()
        assert not [name for name in table["systems"][0]["metrics"] if name.startswith(("CA", "coverage"))]
        assert [row["paired"] is None for row in table["differences"]] == [
            row["metric"].startswith("CA") for row in table["differences"]
        ]
        write_comparison(found, tmp_path)
        assert "CA(5),a,b,too few,,too few" in (tmp_path / "differences.csv").read_text(encoding="utf-8")

    def test_groupings_without_values_are_told(self, tmp_path: Path) -> None:
        rows = labels(gender="")
        found = compare(
            [says("a", rows, 1.0), says("b", rows, 3.0, 2)],
            rows,
            ("gender", "pose", "ethnicity"),
            replicates=20,
            meaning="apparent",
        )
        assert found.absent == ("gender", "pose")
        write_comparison(found, tmp_path)
        read = (tmp_path / "comparison.html").read_text(encoding="utf-8")
        assert "The manifest has no values for: gender, pose." in read
        assert "apparent age: how old voters" in read

    def test_the_same_system_twice_shows_no_difference(self, manifest: pd.DataFrame) -> None:
        found = compare([says("a", manifest, 3.0), says("b", manifest, 3.0)], manifest)
        assert not any(row.shown for row in found.differences)
        assert {row.paired.difference for row in found.differences} == {0.0}
        assert {verdict.verdict for verdict in found.groups} <= {"no difference shown", "too few"}

    def test_swapping_the_systems_swaps_the_sign(self, manifest: pd.DataFrame) -> None:
        a, b = says("a", manifest, 2.0), says("b", manifest, 4.0, 2)
        one, other = compare([a, b], manifest, ()), compare([b, a], manifest, ())
        for row, turned in zip(one.differences, other.differences, strict=True):
            assert row.paired.difference == pytest.approx(-turned.paired.difference)
            ends = (-turned.paired.high, -turned.paired.low)
            assert (row.paired.low, row.paired.high) == pytest.approx(ends)

    def test_small_groups_have_no_figure(self, comparison: Comparison, tmp_path: Path) -> None:
        (other,) = [verdict for verdict in comparison.groups if verdict.group == "Other"]
        assert (other.count, other.people, other.verdict) == (12, 12, "too few")
        assert other.errors == {}
        (row,) = [row for row in group_rows(comparison) if row["group"] == "Other"]
        assert row["MAE of good"] == row["best by MAE"] == "too few"
        told = [group for group in comparison.to_dict()["groups"] if group["group"] == "Other"]
        assert told[0]["errors"] == {}
        assert told[0]["against"] == {}

    def test_people_are_drawn_not_images(self) -> None:
        # Ten images a person with one error: as many independent errors as people.
        random = np.random.default_rng(5)
        subjects = [f"p{index // 10}" for index in range(COUNT)]
        noise = np.repeat(random.normal(0, 8, COUNT // 10), 10)
        manifest, plain = labels(subject=subjects), labels()
        systems = [says("a", plain, 0.0), says("b", plain, 0.0)]
        ages = systems[1].predictions.frame["age"] + noise
        systems[1].predictions.frame["age"] = ages.clip(0, 100)
        widths = []
        for table in (plain, manifest):
            found = compare(systems, table, ()).differences[0].paired
            widths.append(found.high - found.low)
        assert widths[1] > 2 * widths[0]

    def test_images_that_one_system_failed_on_are_left_out_of_all(self, manifest: pd.DataFrame) -> None:
        found = compare([says("a", manifest, 2.0), says("b", manifest, 2.0, 2, failed=7)], manifest)
        assert (found.images, found.left_out) == (COUNT - 1, 1)
        assert [system.answered for system in found.systems] == [COUNT, COUNT - 1]
        assert found.systems[1].failed == (("7.png", "no face found"),)
        said = says("a", manifest, 2.0).predictions.frame["age"].drop(7)
        expected = metrics.mae(said, manifest["age"].drop(7))
        assert found.systems[0].metrics["MAE"].value == pytest.approx(expected)

    def test_systems_without_distributions_are_compared_by_their_ages(self, manifest: pd.DataFrame) -> None:
        found = compare(
            [says("a", manifest, 2.0), says("b", manifest, 3.0, distributions=False)], manifest, ()
        )
        assert {row.metric for row in found.differences} == {"MAE", "CA(3)", "CA(5)", "CA(7)"}
        assert "CRPS" in found.systems[0].metrics
        assert [row["CRPS"] for row in system_rows(found)][1] == ""

    def test_quoted_rows_are_marked_and_enter_no_difference(self, comparison: Comparison) -> None:
        rows = system_rows(comparison)
        quoted = [row for row in rows if row["kind"] == "quoted"]
        assert len(quoted) == len(comparison.quoted) > 5
        names = {"good", "bad", "alike"}
        assert {row.a for row in comparison.differences} | {row.b for row in comparison.differences} == names
        assert all(set(verdict.errors) <= names for verdict in comparison.groups)
        assert not any("[" in row["MAE"] for row in quoted)
        assert all("UTKFace, " in row["source"] for row in quoted)

    def test_refusals(self, manifest: pd.DataFrame) -> None:
        a, b = says("a", manifest, 2.0), says("b", manifest, 2.0, 2)
        with pytest.raises(InputError, match="two systems or more, not 1"):
            compare([a], manifest)
        with pytest.raises(InputError, match="two systems are called 'a'"):
            compare([a, says("a", manifest, 3.0)], manifest)
        with pytest.raises(InputError, match="no rows with split 'val'"):
            compare([a, b], manifest, split="val")
        with pytest.raises(InputError, match="no such grouping: 'height'"):
            compare([a, b], manifest, ("height",))
        few = says("few", manifest.iloc[:150], 2.0)
        with pytest.raises(PredictionsError, match="50 of 200 images of the manifest have no prediction"):
            compare([a, few], manifest)
        found = compare([a, few], manifest, (), allow_missing=True)
        assert (found.images, found.left_out, len(found.systems[1].missing)) == (150, 50, 50)
        halves = [says("low", manifest.iloc[:100], 2.0), says("high", manifest.iloc[100:], 2.0)]
        with pytest.raises(InputError, match="no image that all systems gave an age for"):
            compare(halves, manifest, allow_missing=True)


class TestCost:
    def test_the_weights_of_a_file_are_counted(self, tmp_path: Path) -> None:
        onnx = pytest.importorskip("onnx", reason="counting weights needs onnx")
        helper, numpy_helper = onnx.helper, onnx.numpy_helper
        values = {
            "weight": np.zeros((3, 4), np.float32),
            "half": np.zeros(5, np.float16),
            "scalar": np.float32(1),
            "shape": np.array([1, 2, 3], np.int64),
        }
        graph = helper.make_graph(
            [helper.make_node("Identity", ["weight"], ["out"])],
            "g",
            [],
            [helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, [3, 4])],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
        )
        onnx.save(helper.make_model(graph), tmp_path / "m.onnx")
        assert stored_weights(tmp_path / "m.onnx") == 12 + 5 + 1

    def test_without_onnx_they_are_not_known(
        self, small_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(__import__("sys").modules, "onnx", None)
        assert stored_weights(small_model) is None

    def test_latency_is_of_every_model(self, small_model: Path, make_model: Callable[..., Path]) -> None:
        large = make_model(size=512)
        found = measure_latency({"small": small_model, "large": large}, repeats=30)
        assert found["small"].processor < found["large"].processor
        for latency in found.values():
            assert 0 < latency.low <= latency.median <= latency.high
            assert latency.repeats == 30
        with pytest.raises(ModelFileError):
            measure_latency({"none": small_model.with_name("none.onnx")})

    def test_the_front_is_what_nothing_beats(self) -> None:
        random = np.random.default_rng(0)
        for _ in range(50):
            points = {str(at): tuple(random.integers(0, 6, 2).astype(float)) for at in range(8)}
            expected = {
                name
                for name, (cost, error) in points.items()
                if not any((c <= cost and e <= error) and (c < cost or e < error) for c, e in points.values())
            }
            front = pareto_front(points)
            assert set(front) == expected
            assert [points[name] for name in front] == sorted(points[name] for name in front)


class TestReport:
    def test_files_hold_what_was_found(self, comparison: Comparison, tmp_path: Path) -> None:
        write_comparison(comparison, tmp_path / "report")
        told = json.loads((tmp_path / "report" / "comparison.json").read_text())
        assert told["images"] == COUNT
        assert [system["name"] for system in told["systems"]] == ["good", "bad", "alike"]
        assert told["differences"][0]["shown"] is True
        page = (tmp_path / "report" / "comparison.html").read_text()
        assert "<script" not in page
        assert "http://" not in re.sub(r'xmlns(:\w+)?="[^"]*"', "", page).replace("http://www.w3.org", "")
        assert "CORAL 2020: UTKFace, ages 21-60" in page
        for name in ("systems.csv", "differences.csv", "groups.csv"):
            with open(tmp_path / "report" / name, newline="") as handle:
                assert len(list(csv.DictReader(handle))) > 2

    def test_names_are_escaped_and_plots_need_a_model(
        self, manifest: pd.DataFrame, small_model: Path, tmp_path: Path
    ) -> None:
        model = says("<b>one</b> & $x$", manifest, 2.0)
        found = compare(
            [Answers(model.name, "model", "m", model.predictions, small_model), says("two", manifest, 3.0)],
            manifest,
            (),
            quoted=quoted_systems(read_published(), "ChaLearn LAP 2015"),
        )
        write_comparison(found, tmp_path)
        page = (tmp_path / "comparison.html").read_text()
        assert "<b>one</b>" not in page
        assert "&lt;b&gt;one&lt;/b&gt; &amp; $x$" in page
        assert "MAE against processor time" in page
        assert "Hollow: quoted" in page
        assert not (tmp_path / "groups.csv").exists()
        cost = found.systems[0].cost
        assert cost is not None
        assert cost.size == small_model.stat().st_size
        assert found.systems[1].cost is None


@pytest.fixture(scope="module")
def bright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of crops whose brightness is nearly their age, and a rival's table of predictions."""
    folder = tmp_path_factory.mktemp("bright")
    random = np.random.default_rng(0)
    ages = random.integers(5, 90, 40)
    for number, age in enumerate(ages):
        Image.new("RGB", (16, 16), (round(age * 2.55),) * 3).save(folder / f"{number}.png")
    table = pd.DataFrame({"path": [f"{at}.png" for at in range(40)], "age": ages, "split": "test"})
    table.to_csv(folder / "manifest.csv", index=False)
    table["age"] = ages + random.normal(0, 5, 40)
    table[["path", "age"]].to_csv(folder / "rival.csv", index=False)
    return folder


class TestCommand:
    def run(self, *arguments: str | Path) -> tuple[int, str]:
        done = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.output

    def test_a_model_against_a_foreign_table(self, small_model: Path, bright: Path, tmp_path: Path) -> None:
        code, text = self.run(
            *("compare", f"ours={small_model}", bright / "rival.csv", "--data", bright / "manifest.csv"),
            *("--quote", "UTKFace:all ages", "--report", tmp_path / "report"),
        )
        assert code == 0, text
        assert "ours is better" in text
        assert "Paplhám and Franc 2024: UTKFace, all ages" in text
        assert (tmp_path / "report" / "comparison.html").is_file()

    def test_one_name_of_several_is_one_system_of_several_seeds(self, bright: Path, tmp_path: Path) -> None:
        rival = pd.read_csv(bright / "rival.csv")
        rival.assign(age=rival["age"] + 1).to_csv(tmp_path / "b.csv", index=False)
        truth = pd.read_csv(bright / "manifest.csv")[["path", "age"]]
        truth.to_csv(tmp_path / "truth.csv", index=False)
        code, text = self.run(
            *("compare", f"rival={bright / 'rival.csv'}", f"rival={tmp_path / 'b.csv'}"),
            *(tmp_path / "truth.csv", "--data", bright / "manifest.csv", "--report", tmp_path / "report"),
        )
        assert code == 0, text
        assert "MAE by seed" in text
        told = json.loads((tmp_path / "report" / "comparison.json").read_text())["systems"][0]
        assert len(told["error_by_seed"]) == 2
        assert told["metrics"]["MAE"]["value"] == pytest.approx(np.mean(told["error_by_seed"]))
        assert "MAE by seed" in (tmp_path / "report" / "comparison.html").read_text()

    def test_our_own_predictions_are_compared_with_the_model(
        self, small_model: Path, bright: Path, tmp_path: Path
    ) -> None:
        from agelens.data.manifest import read_manifest

        rows = read_manifest(bright / "manifest.csv")
        system = open_system(small_model, "m").answer(rows)
        write_predictions(system.predictions, tmp_path / "predictions.csv")
        again = open_system(tmp_path / "predictions.csv", "p").answer(rows)
        found = compare([system, again], rows, ())
        assert {row.metric for row in found.differences} >= {"MAE", "CRPS"}
        assert max(abs(row.paired.difference) for row in found.differences) < 1e-4

    def test_a_run_over_folds_is_compared_by_its_pooled_predictions(
        self, bright: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "ours").mkdir()
        record = {"protocol": {"name": "image-5-fold"}, "digest": "0"}
        (tmp_path / "ours" / "folds.json").write_text(json.dumps(record))
        table = pd.read_csv(bright / "manifest.csv")[["path", "age"]]
        table.to_csv(tmp_path / "ours" / "predictions.csv", index=False)
        arguments = ("compare", tmp_path / "ours", bright / "rival.csv", "--data", bright / "manifest.csv")
        code, text = self.run(*arguments)
        assert code == 0, text
        assert "ours is better" in text

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["rival.csv"], "two systems or more"),
            (["rival.csv", "rival.csv"], "two systems are called 'rival'"),
            (["a=rival.csv", "a=rival.csv", "b=rival.csv"], "'a': source rival.csv is there twice"),
            (["rival.csv", "none.csv"], "none.csv: cannot be read"),
            (["rival.csv", "none.onnx"], "none.onnx: no such file"),
            (["rival.csv", "=x.csv"], "NAME=SYSTEM needs both"),
            (["rival.csv", "text.csv"], "row 2, column 'age': not a finite number (value: 'old')"),
            (["rival.csv", "b=rival.csv", "--by", "height"], "no such grouping: 'height'"),
            (["rival.csv", "b=rival.csv", "--split", "val"], "no rows with split 'val'"),
            (["rival.csv", "b=rival.csv", "--quote", "IMDB"], "no published result on 'IMDB'"),
            (["rival.csv", "b=rival.csv", "--quote", ":21-60"], "--quote ':21-60' must name a data set"),
            (["rival.csv", "unpooled"], "unpooled: its folds are not pooled yet"),
            (["rival.csv", "few.csv"], "39 of 40 images of the manifest have no prediction"),
            (["rival.csv", "unknown.csv"], "1 predicted paths are not in the manifest: 99.png"),
        ],
    )
    def test_bad_input(
        self, bright: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
    ) -> None:
        monkeypatch.chdir(bright)
        Path("text.csv").write_text("path,age\n0.png,1\n1.png,old\n")
        Path("unpooled").mkdir(exist_ok=True)
        Path("unpooled/folds.json").write_text('{"protocol": {"name": "image-5-fold"}, "digest": "0"}')
        Path("few.csv").write_text("path,age\n0.png,1\n")
        Path("unknown.csv").write_text(Path("rival.csv").read_text() + "99.png,1\n")
        code, text = self.run("compare", *arguments, "--data", "manifest.csv")
        assert code == 2
        assert message in text

    def test_published_results_are_listed(self, tmp_path: Path) -> None:
        code, text = self.run("published", "fg-net")
        assert code == 0
        assert "BridgeNet" in text
        assert "MORPH" not in text
        code, _ = self.run("published", "--out", tmp_path / "p.csv")
        with open(tmp_path / "p.csv", newline="") as handle:
            assert len(list(csv.DictReader(handle))) > 150
