"""Photos of a fleet: estimated by workers of a Ray cluster, into partitions that are done once."""

from agelens.fleet.run import FleetResult, predict_fleet

__all__ = ["FleetResult", "predict_fleet"]
