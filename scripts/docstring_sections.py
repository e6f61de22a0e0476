"""Extension of mkdocstrings: docstring sections may follow each other without a blank line."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

SECTION = re.compile(
    r"(?<!\n)\n(?=(?P<indent> *)(Args|Attributes|Raises|Returns|Yields):\n(?P=indent) +\S)", re.MULTILINE
)


class DocstringSections(Extension):
    """Puts a blank line above each section, as griffe's parser expects it."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rewrite the docstring of an object that was collected."""
        if obj.docstring is not None:
            obj.docstring.value = SECTION.sub("\n\n", obj.docstring.value)
