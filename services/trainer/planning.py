"""What is known before a job starts: its rows, its tokens, what a maximum length would cut, and what was chosen for it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from services.common import errors
from services.common.ports.database import NewEvent
from services.trainer import recipe, token_counts
from services.trainer.token_count import TokenCount
from services.trainer.use_cases import Trainer

TOLD_VIOLATIONS = 50  # as many as a status carries; the count is told in full


async def refusal(trainer: Trainer, count: TokenCount, max_length: int) -> errors.InvalidInput | errors.WrongState | None:
    """Return why a job can't be trained as it was asked for; None where it can."""
    if count.state == "FAILED":
        told = count.error
        kind = errors.WrongState if told["kind"] == "WrongState" else errors.InvalidInput
        return kind(
            told["message"],
            reason=told["reason"],
            metadata=told["metadata"],
            violations=[errors.Violation(**violation) for violation in told["violations"]],
            violation_count=told["violation_count"],
        )
    rows, tokens = count.cut(max_length)
    if not rows:
        return None
    longest = max(part.longest for part in count.counts.values())
    return errors.InvalidInput(
        f"{rows} rows are longer than {max_length} tokens and would lose {tokens}; shorten them, or raise max_length to "
        f"{longest} where the base reads as many.",
        reason="ROWS_INVALID",
        violations=await token_counts.too_long(trainer, count, max_length, TOLD_VIOLATIONS),
        violation_count=rows,
    )


def events(
    dataset: Mapping[str, Any], count: TokenCount, chosen: recipe.Recipe, choices: Sequence[recipe.Choice]
) -> list[NewEvent]:
    """Return a job's first events: rows, tokens, choices and warnings."""
    rows = {part: (dataset[part] or {}).get("row_count", 0) for part in ("train", "validation", "test")}
    text = "The data are valid: {train} rows to train, {validation} to validate, {test} held out.".format(**rows)
    warnings = [*recipe.warnings(chosen, has_validation=bool(dataset["validation"])), *dataset["warnings"]]
    return [
        NewEvent("DATASET_READY", text, data={"dataset": dataset["name"], **rows}),
        *([_counted(count, chosen)] if count.state == "SUCCEEDED" else []),
        *(NewEvent("HYPERPARAMETER", f"{c.name} = {c.value} ({c.rule}). Source: {c.source}.", data=asdict(c)) for c in choices),
        *(NewEvent("WARNING", text, "WARNING") for text in warnings),
    ]


def _counted(count: TokenCount, chosen: recipe.Recipe) -> NewEvent:
    train, (rows, tokens) = count.counts["train"], count.cut(chosen.max_length)
    what = f"{rows} rows by {tokens} tokens" if rows else "nothing"
    data = {
        "token_count": count.name,
        "tokens_per_epoch": train.token_count,
        "trained_tokens_per_epoch": train.trained_token_count,
        "longest_row": train.longest,
        "epochs": chosen.epochs,
        "max_length": chosen.max_length,
        "cut_row_count": rows,
        "cut_token_count": tokens,
    }
    text = (
        f"An epoch has {train.token_count} tokens, {train.trained_token_count} of them answers; {chosen.epochs} of them will be "
        f"trained. The longest row has {train.longest}; a max_length of {chosen.max_length} cuts {what}."
    )
    return NewEvent("TOKENS_COUNTED", text, "WARNING" if rows else "INFO", data)
