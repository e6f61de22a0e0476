"""All images that a system was shown: those with an estimate and those it failed on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from agelens import label_distribution
from agelens.evaluation.band_measures import require_ages
from agelens.evaluation.evaluate import Evaluation
from agelens.evaluation.groups import BY_AGE, Grouping, group, people
from agelens.evaluation.rates import Rate, rate_of

__all__ = ["PresentedImages"]

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PresentedImages:
    """All images the system was shown, also those it failed on.

    Attributes:
        labels: N rows of the manifest.
        ages: (N,) true ages, years.
        estimates: (N,) years; NaN where the system failed.
        probability: (N,) P(age >= threshold), NaN where the system failed; None without distributions.
        persons: (N,) number of the person on each image.
        distinct: Whether every image shows another person.
        threshold: Years.
    """

    labels: pd.DataFrame
    ages: FloatArray
    estimates: FloatArray
    probability: FloatArray | None
    persons: IntArray
    distinct: bool
    threshold: float

    @classmethod
    def of(cls, evaluation: Evaluation, threshold: float) -> PresentedImages:
        """Collect the images of an evaluation; ``threshold`` in years.

        Raises:
            InputError: The labels are bands, which lie on both sides of a threshold.
        """
        require_ages(evaluation.labels, "age assurance")
        tables = [table for table in (evaluation.labels, evaluation.failures) if len(table)]
        labels = pd.concat(tables, ignore_index=True)
        failed = np.full(len(evaluation.failures), math.nan)
        probability = None
        distribution, bins = evaluation.distribution, evaluation.predictions.bins
        if distribution is not None and bins is not None:
            answered = label_distribution.probability_at_least(distribution, bins, threshold)
            probability = np.concatenate([answered, failed])
        persons = people(labels)
        return cls(
            labels=labels,
            ages=labels["age"].to_numpy(dtype=np.float64),
            estimates=np.concatenate([evaluation.estimates, failed]),
            probability=probability,
            persons=persons,
            distinct=int(persons.max()) + 1 == len(persons),
            threshold=threshold,
        )

    @property
    def just_under(self) -> BoolArray:
        """The last year before the threshold: the 17-year-olds of 18."""
        return np.asarray((self.ages >= math.ceil(self.threshold) - 1) & (self.ages < self.threshold))

    def sides(self) -> dict[str, BoolArray]:
        """Select each side of the threshold: ``under age``, ``just under``, ``adult``; (N,) each."""
        adult = np.asarray(self.ages >= self.threshold)
        return {"under age": ~adult, "just under": self.just_under, "adult": adult}

    def individuals(self, members: BoolArray) -> int:
        """Count the people on the images of a group, (N,) mask."""
        if self.distinct:
            return int(members.sum())
        return len(np.unique(self.persons[members]))

    def rate(self, hits: BoolArray, members: BoolArray) -> Rate:
        """Compute the rate of an outcome, (N,), within a group, (N,) mask."""
        return rate_of(hits[members], self.individuals(members))

    def groupings(self, by: Sequence[str]) -> tuple[list[Grouping], list[str]]:
        """Group all images as one, then by each grouping but those of the true age; and name the absent."""
        present, absent = [Grouping("all", ("all",), np.zeros(len(self.ages), dtype=np.int64))], []
        for name in by:
            if not set(name.split(":")) & set(BY_AGE):
                grouping = group(name, self.labels)
                if grouping is None:
                    absent.append(name)
                else:
                    present.append(grouping)
        return present, absent
