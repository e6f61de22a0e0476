"""The record and the pooled results of a run over folds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agelens.data.manifest import check_manifest
from agelens.data.pooled import pooled_run, rows_tested
from agelens.errors import InputError, RunError, SplitError


class TestPooled:
    def record(self, folder: Path, digest: str, protocol: str = "image-2-fold") -> None:
        facts = {"format": 1, "protocol": {"name": protocol}, "digest": digest}
        (folder / "folds.json").write_text(json.dumps(facts), encoding="utf-8")

    def test_a_run_over_folds(self, tmp_path: Path) -> None:
        assert pooled_run(tmp_path) is None
        self.record(tmp_path, "x")
        with pytest.raises(RunError, match="not pooled yet"):
            pooled_run(tmp_path)
        (tmp_path / "predictions.csv").write_text("path,age\n")
        found = pooled_run(tmp_path)
        assert found is not None
        assert (found.protocol, found.digest) == ("image-2-fold", "x")
        (tmp_path / "folds.json").write_text("{")
        with pytest.raises(RunError, match="cannot be read"):
            pooled_run(tmp_path)
        (tmp_path / "folds.json").write_text("{}")
        with pytest.raises(RunError, match="damaged"):
            pooled_run(tmp_path)

    def test_the_rows_a_protocol_tests(self) -> None:
        labels = check_manifest(
            pd.DataFrame(
                {
                    "path": [f"{index}.png" for index in range(50)],
                    "age": np.arange(50) % 30,
                    "digest": [f"{index:064x}" for index in range(50)],
                    "note": ["copy of x"] * 2 + [""] * 48,
                }
            ),
            "m.csv",
        )
        rows, digest = rows_tested(labels, "image-5-fold")
        assert len(rows) == 48
        assert rows_tested(labels, "image-5-fold", digest)[1] == digest
        with pytest.raises(SplitError, match="other folds"):
            rows_tested(labels, "image-5-fold", "0" * 64)
        with pytest.raises(InputError, match="unknown protocol"):
            rows_tested(labels, "nobody's")
