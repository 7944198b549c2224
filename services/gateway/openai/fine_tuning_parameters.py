"""What a request for a fine-tuning job may say, and the job it asks for."""

import math
import re
from collections.abc import Mapping
from typing import Any

from afina.v1 import fine_tuning_job_pb2 as pb

from services.gateway.openai.errors import invalid, unknown_parameter
from services.gateway.routing import model_not_found

_KNOWN = frozenset((
    "model", "training_file", "hyperparameters", "method", "suffix", "seed", "metadata", "validation_file", "integrations",
    "evaluation",
))  # fmt: skip
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SUFFIX = re.compile(r"[a-z0-9-]{1,64}")
_RECIPE = {"n_epochs": "epochs", "batch_size": "batch_size", "learning_rate_multiplier": "learning_rate_multiplier"}
PUBLISHED_CHECKPOINTS = 3  # as many of the last epochs as OpenAI keeps
MAX_INT32, MAX_INT64 = 2**31 - 1, 2**63 - 1


def asked_job(body: Mapping[str, Any], project: str) -> pb.FineTuningJob:
    """Return the job that a request asks for. Raises: InvalidInput, naming the parameter; NotFound (no such model)."""
    given = {name: value for name, value in body.items() if value is not None}
    for name in body:
        if name not in _KNOWN:
            raise unknown_parameter(name)
    if given.get("integrations"):
        raise unknown_parameter("integrations", "There are none; metrics are in the job's events.")
    model = _text(given, "model")
    if model.startswith("ft:"):
        told = "A job begins with a base model, not with a fine-tuned one: name its base, and send the data of both."
        raise invalid("model", told, "MODEL_NOT_FINE_TUNABLE")
    if not _ID.fullmatch(model):
        raise model_not_found(model)
    training_file = _file(given, "training_file", project)
    return pb.FineTuningJob(
        base_model=model,
        training_file=training_file,
        validation_file=_file(given, "validation_file", project) if "validation_file" in given else "",
        recipe=_recipe(given),
        suffix=_suffix(given),
        metadata=_metadata(given),
        evaluation_settings=_evaluation(given, project),
    )


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given.get(name, "")
    if not isinstance(value, str) or not value:
        raise invalid(name, f"Missing required parameter: '{name}'.", "MISSING_PARAMETER")
    return value


def _file(given: Mapping[str, Any], name: str, project: str) -> str:
    file = _text(given, name)
    if not _ID.fullmatch(file):
        raise invalid(name, f"Invalid '{name}': {file[:100]!r} is not the id of a file.")
    return f"projects/{project}/files/{file}"


def _suffix(given: Mapping[str, Any]) -> str:
    suffix = given.get("suffix", "")
    if suffix == "":
        return ""
    if not isinstance(suffix, str) or not _SUFFIX.fullmatch(suffix.lower()):
        raise invalid("suffix", f"Invalid 'suffix': {suffix!r:.80}; write up to 64 letters, digits and hyphens.")
    return suffix.lower()


def _metadata(given: Mapping[str, Any]) -> dict[str, str]:
    metadata = given.get("metadata", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise invalid("metadata", "Invalid 'metadata': expected an object whose values are strings.", "INVALID_TYPE")
    return metadata


def _evaluation(given: Mapping[str, Any], project: str) -> pb.JobEvaluation | None:
    """Return how base and candidate are compared at the end: a field of Afina's own, which a client sends as extra_body."""
    asked = given.get("evaluation", "auto")
    if asked == "auto":
        return None
    if asked == "none":
        return pb.JobEvaluation(is_disabled=True)
    if not isinstance(asked, str) or not _ID.fullmatch(asked):
        raise invalid("evaluation", f"Invalid 'evaluation': {asked!r:.80}; write 'auto', 'none', or the id of a suite.")
    return pb.JobEvaluation(suite=f"projects/{project}/suites/{asked}")


def _recipe(given: Mapping[str, Any]) -> pb.Recipe:
    path, parameters = "hyperparameters", given.get("hyperparameters", {})
    if "method" in given:
        method = _object("method", given["method"], {"type", "supervised", "dpo", "reinforcement"})
        if method.get("type") != "supervised":
            raise invalid("method.type", f"Unsupported value: 'method.type' is {method.get('type')!r:.40}; use 'supervised'.")
        if set(method) - {"type", "supervised"}:
            raise unknown_parameter(f"method.{min(set(method) - {'type', 'supervised'})}", "The method is supervised.")
        supervised = _object("method.supervised", method.get("supervised", {}), {"hyperparameters"})
        if parameters and supervised.get("hyperparameters"):
            raise invalid("hyperparameters", "Give 'hyperparameters' or 'method.supervised.hyperparameters', not both.")
        if not parameters:
            path, parameters = "method.supervised.hyperparameters", supervised.get("hyperparameters", {})
    recipe = pb.Recipe(published_checkpoint_count=PUBLISHED_CHECKPOINTS)
    for name, value in _object(path, parameters, set(_RECIPE)).items():
        if value != "auto":
            setattr(recipe, _RECIPE[name], _number(f"{path}.{name}", value, is_whole=name != "learning_rate_multiplier"))
    if "seed" in given:
        recipe.seed = _number("seed", given["seed"], is_whole=True, largest=MAX_INT64)
    return recipe


def _object(path: str, value: Any, known: set[str]) -> dict[str, Any]:
    """Return an object's fields that are not null. Raises: InvalidInput."""
    if not isinstance(value, dict):
        raise invalid(path, f"Invalid type for '{path}': expected an object, but got {value!r:.50}.", "INVALID_TYPE")
    for name in value:
        if name not in known:
            raise unknown_parameter(f"{path}.{name}")
    return {name: field for name, field in value.items() if field is not None}


def _number(path: str, value: Any, *, is_whole: bool, largest: int = MAX_INT32) -> Any:
    is_number = isinstance(value, int if is_whole else int | float) and not isinstance(value, bool)
    if not is_number:
        kind = "a whole number" if is_whole else "a number"
        alternative = " or 'auto'" if path != "seed" else ""
        raise invalid(path, f"Invalid type for '{path}': expected {kind}{alternative}, but got {value!r:.50}.", "INVALID_TYPE")
    if not math.isfinite(value) or abs(value) > largest:
        raise invalid(path, f"Invalid value for '{path}': {value!r:.50} is out of all bounds.")
    return value
