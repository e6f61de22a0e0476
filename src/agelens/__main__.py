"""``python -m agelens``."""

from agelens.apps.cli import main

main()
