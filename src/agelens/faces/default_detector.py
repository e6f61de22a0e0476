"""The name of the detector that is used where none is named; reading it imports nothing."""

from typing import Final

__all__ = ["DEFAULT_DETECTOR"]

DEFAULT_DETECTOR: Final = "yunet-onet"
