"""Metrics of age estimation, by group, with bootstrap intervals.

Each metric is one function of per-image arrays and pools all images: sums, never averages of averages.
Their names print as the papers print them: ``MAE``, ``CA(5)``. Ages are in years; accuracies are in per cent,
shares and probabilities in 0 … 1. Arrays that are empty, disagree in shape or hold NaN raise ``ValueError``.
"""

from __future__ import annotations

from agelens.metrics.ages import (
    absolute_errors,
    bias,
    cumulative_accuracy,
    epsilon_error,
    epsilon_scores,
    mae,
    rmse,
)
from agelens.metrics.bands import (
    CensoredCoverage,
    band_accuracy,
    band_distance,
    band_distances,
    band_hits,
    band_masses,
    censored_coverage,
    most_probable_band,
)
from agelens.metrics.bootstrap import (
    BootstrapInterval,
    PairedComparison,
    Partition,
    bootstrap_group_means,
    bootstrap_interval,
    bootstrap_means,
    paired_bootstrap,
)
from agelens.metrics.constant import uselessness
from agelens.metrics.groups import (
    AAR,
    AAR_GROUPS,
    GroupValue,
    aar,
    aar_columns,
    aar_from_means,
    by_group,
)
from agelens.metrics.intervals import (
    coverage,
    crps,
    crps_scores,
    interval_width,
    log_scores,
    negative_log_likelihood,
    pit,
)

__all__ = [
    "AAR",
    "AAR_GROUPS",
    "BootstrapInterval",
    "CensoredCoverage",
    "GroupValue",
    "PairedComparison",
    "Partition",
    "aar",
    "aar_columns",
    "aar_from_means",
    "absolute_errors",
    "band_accuracy",
    "band_distance",
    "band_distances",
    "band_hits",
    "band_masses",
    "bias",
    "bootstrap_group_means",
    "bootstrap_interval",
    "bootstrap_means",
    "by_group",
    "censored_coverage",
    "coverage",
    "crps",
    "crps_scores",
    "cumulative_accuracy",
    "epsilon_error",
    "epsilon_scores",
    "interval_width",
    "log_scores",
    "mae",
    "most_probable_band",
    "negative_log_likelihood",
    "paired_bootstrap",
    "pit",
    "rmse",
    "uselessness",
]
