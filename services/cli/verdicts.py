"""The verdict on a model in a person's words, as jobs and models show it."""

from typing import Any

from afina.v1 import model_pb2

from services.cli.output import short


def answer_of(holder: Any) -> str:
    """Return the verdict's word of a job or a model; empty where there is none."""
    return short(model_pb2.Verdict.Answer.Name(holder.verdict.answer)) if holder.HasField("verdict") else ""


def verdict_of(holder: Any) -> str:
    """Return the verdict with its reason, of a job or a model; empty where there is none."""
    if not holder.HasField("verdict"):
        return ""
    answer, sentence = answer_of(holder), holder.verdict.sentence
    begins_so, _, rest = sentence.partition(": ")  # the gate's sentence may begin with the word itself
    return f"{answer}: {rest if begins_so.upper().replace(' ', '_') == answer else sentence}"
