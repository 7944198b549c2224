"""A prompt's text with variables, as data: `{{question}}` is put in by one pass over the text, and nothing is executed.

What is put in is not searched for variables again, so a question that contains `{{labels}}` stays what it is.
"""

import re
from collections.abc import Mapping

VARIABLES = ("question", "system", "labels")
_VARIABLE = re.compile(r"\{\{\s*(\w+)\s*\}\}")


def variables_of(text: str) -> list[str]:
    """Return the variables that a text names, each once, known or not."""
    return list(dict.fromkeys(_VARIABLE.findall(text)))


def fill(text: str, values: Mapping[str, str]) -> str:
    """Return a text with its variables put in. Raises: KeyError (a variable without a value)."""
    return _VARIABLE.sub(lambda found: values[found.group(1)], text)
