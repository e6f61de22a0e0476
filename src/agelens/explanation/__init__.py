"""Activation maps and age distributions of models and runs."""
