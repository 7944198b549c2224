"""Recipes from a file, YAML or JSON: a list of them, or a mapping with such a list under `recipes`.

Every mistake is told at once, each with its place. YAML reads 1e-4 as text (it wants 1.0e-4), so numbers may be text here.
"""

import difflib
import json
from pathlib import Path
from typing import Any

import yaml
from afina.v1.fine_tuning_job_pb2 import Recipe
from google.protobuf import json_format

from services.common.errors import InvalidInput, Violation

FIELDS = tuple(field.name for field in Recipe.DESCRIPTOR.fields)
MAX_BYTES = 1 << 20


def read_recipes(path: Path) -> list[Recipe]:
    """Return the recipes in a file. Raises: InvalidInput, with a violation for each mistake."""
    recipes, violations = [], []
    for at, told in enumerate(_entries(path)):
        recipe = Recipe()
        if not isinstance(told, dict):
            violations.append(
                Violation(f"recipes[{at}]", "NOT_A_RECIPE", f"Recipe {at + 1} is no mapping of names to values, as rank: 8.")
            )
            continue
        for name, value in told.items():
            problem = _set(recipe, name, value)
            if problem:
                violations.append(Violation(f"recipes[{at}].{name}", "RECIPE_INVALID", f"Recipe {at + 1}: {problem}"))
        recipes.append(recipe)
    if violations:
        text = f"{path} has {len(violations)} mistakes: " + " ".join(violation.description for violation in violations)
        raise InvalidInput(text, reason="RECIPES_INVALID", violations=violations)
    return recipes


def _entries(path: Path) -> list[Any]:
    if path.stat().st_size > MAX_BYTES:
        raise InvalidInput(
            f"{path} is larger than {MAX_BYTES} bytes; it should hold at most 64 recipes.", reason="FILE_TOO_LARGE"
        )
    try:
        text = path.read_text()
        read = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InvalidInput(f"{path} can't be read: {error}", reason="FILE_INVALID") from error
    entries = read.get("recipes") if isinstance(read, dict) else read
    if not isinstance(entries, list) or not entries:
        raise InvalidInput(f"{path} holds no list of recipes; write one as [{{rank: 8}}, {{rank: 16}}].", reason="FILE_INVALID")
    return entries


def _set(recipe: Recipe, name: Any, value: Any) -> str:
    """Set one field, or return what is wrong."""
    if name not in FIELDS:
        close = difflib.get_close_matches(str(name), FIELDS, 1)
        return f"there is no {name}; " + (f"did you mean {close[0]}?" if close else f"the names are {', '.join(FIELDS)}.")
    if name == "schedule":
        value = f"SCHEDULE_{str(value).upper()}"
    try:
        json_format.ParseDict({name: value}, recipe)
    except (json_format.ParseError, TypeError, ValueError) as error:
        return f"{name} can't be {value!r}: {str(error).rpartition(': ')[2].rstrip('.')}."
    return ""
