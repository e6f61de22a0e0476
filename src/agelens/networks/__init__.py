"""Backbones, and the age network built on them (needs PyTorch)."""
