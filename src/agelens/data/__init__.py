"""Labelled images: the manifest, splits, data sets, duplicates and the audit."""
