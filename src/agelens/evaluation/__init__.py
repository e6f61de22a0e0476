"""Evaluation: from predictions and labels to metrics, by group, with intervals. Nothing is drawn here."""
