"""Recipes: every hyperparameter of a job, with its unit, its bounds, and the rule that chooses it when nobody did."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from services.common.errors import Violation

# What configurations call the width D and the longest sequence.
HIDDEN_SIZE = ("hidden_size", "n_embd", "d_model")
POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len")
SCHEDULES = ("cosine", "linear", "constant")
ATTENTION_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
ALL_LINEAR = "all-linear"  # every linear layer but the output
OWN = "Afina's own choice"
WITHOUT_REGRET = "Schulman et al., LoRA Without Regret, 2025"  # ten times the rate of full fine-tuning, small batches

# Lower and upper bound, both allowed, and the range beyond which a warning is due.
BOUNDS: dict[str, tuple[float, float]] = {
    "learning_rate": (1e-8, 1.0),
    "learning_rate_multiplier": (1e-4, 100.0),
    "epochs": (1, 50),
    "batch_size": (1, 1024),
    "rank": (1, 256),
    "alpha": (1e-3, 1024.0),
    "dropout": (0.0, 0.99),
    "warmup_fraction": (0.0, 0.99),
    "weight_decay": (0.0, 0.99),
    "max_gradient_norm": (1e-3, 1000.0),
    "max_length": (16, 131072),
    "validation_interval_steps": (1, 100_000),
    "seed": (0, 2**31 - 1),
    "early_stopping_patience": (1, 1000),
    "published_checkpoint_count": (0, 10),
}
USUAL: dict[str, tuple[float, float]] = {"learning_rate": (1e-5, 1e-3), "epochs": (1, 10), "rank": (4, 64)}


@dataclass(frozen=True)
class Recipe:
    """A complete recipe. Units: learning_rate per AdamW step; batch_size rows per step; lengths tokens."""

    learning_rate: float
    epochs: int
    batch_size: int
    rank: int
    alpha: float
    dropout: float
    target_modules: tuple[str, ...]
    warmup_fraction: float
    schedule: str
    weight_decay: float
    max_gradient_norm: float
    max_length: int
    validation_interval_steps: int
    seed: int
    early_stopping_patience: int | None = None  # validations without a lower loss; None: to the end
    published_checkpoint_count: int = 0  # of the last epochs' adapters

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {**asdict(self), "target_modules": list(self.target_modules)}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> "Recipe":
        """Read it from JSON."""
        return cls(**{**document, "target_modules": tuple(document["target_modules"])})


@dataclass(frozen=True)
class Choice:
    """What was chosen for a hyperparameter that nobody gave, by which rule, and where the rule comes from."""

    name: str
    value: Any
    rule: str
    source: str


def check(asked: Mapping[str, Any]) -> list[Violation]:
    """Return every mistake in the hyperparameters that were given."""
    violations = []
    for name, (low, high) in BOUNDS.items():
        value = asked.get(name)
        if value is not None and not low <= value <= high:  # also refuses NaN
            violations.append(
                Violation(f"recipe.{name}", "OUT_OF_BOUNDS", f"{name} is {value}; choose a value from {low:g} to {high:g}.")
            )
    if asked.get("learning_rate") is not None and asked.get("learning_rate_multiplier") is not None:
        violations.append(
            Violation(
                "recipe.learning_rate_multiplier",
                "EXCLUSIVE",
                "Give learning_rate or learning_rate_multiplier, not both.",
            )
        )
    if asked.get("schedule") not in (None, *SCHEDULES):
        violations.append(Violation("recipe.schedule", "UNKNOWN", f"schedule is one of {', '.join(SCHEDULES)}."))
    return violations


def warnings(recipe: Recipe, *, has_validation: bool = True) -> list[str]:
    """Return a sentence for each value outside what is usual for LoRA, and for what will have no effect."""
    told = []
    for name, (low, high) in USUAL.items():
        value = getattr(recipe, name)
        if not low <= value <= high:
            told.append(f"{name} is {value:g}; usual for LoRA is {low:g} to {high:g}.")
    if recipe.early_stopping_patience is not None and not has_validation:
        told.append("early_stopping_patience has no effect: there are no validation rows to tell when to stop.")
    return told


def resolve(asked: Mapping[str, Any], *, train_rows: int, base_config: Mapping[str, Any]) -> tuple[Recipe, list[Choice]]:
    """Complete a recipe for a dataset and a base; `base_config` is the base's config.json.

    Source: the automatic learning rate is 10 × 5e-5 × (2000 / hidden size) ** 0.781, the rule that tinker-cookbook's
    `hyperparam_utils.py` gives for Llama, capped at the upper end of the usual range.
    """
    choices: list[Choice] = []

    def take(name: str, value: Any, rule: str, source: str = OWN) -> Any:
        if asked.get(name) is not None:
            return asked[name]
        choices.append(Choice(name, value, rule, source))
        return value

    batch_size = take(
        "batch_size", max(1, min(16, train_rows // 8)), "16, or an eighth of the rows where that is less", WITHOUT_REGRET
    )
    epochs = take("epochs", max(1, min(10, round(1000 / max(train_rows, 1)))), "about 1000 rows in all, 1 to 10 passes")
    steps = epochs * -(-train_rows // batch_size)
    rank = take("rank", 16, "16", "small ranks are enough: Hu et al., LoRA, 2021, section 7.2")
    targets, targets_rule, targets_source = _targets(base_config)
    recipe = Recipe(
        learning_rate=_rate(asked, base_config, choices),
        epochs=epochs,
        batch_size=batch_size,
        rank=rank,
        alpha=take("alpha", 2.0 * rank, "twice the rank", "Raschka, Practical Tips for Finetuning LLMs Using LoRA, 2023"),
        dropout=take("dropout", 0.0, "0: few passes need none", "default of peft's LoraConfig"),
        target_modules=tuple(take("target_modules", targets, targets_rule, targets_source)),
        warmup_fraction=take("warmup_fraction", 0.05, "5% of the steps"),
        schedule=take("schedule", "cosine", "cosine", "Loshchilov and Hutter, SGDR, 2016, without restarts"),
        weight_decay=take("weight_decay", 0.0, "0: the adapter is small", "default of transformers' TrainingArguments"),
        max_gradient_norm=take("max_gradient_norm", 1.0, "1", "default of transformers' TrainingArguments"),
        max_length=_max_length(asked, base_config, choices),
        validation_interval_steps=take("validation_interval_steps", max(1, steps // 5), "five times in a job"),
        seed=take("seed", 0, "0"),
        early_stopping_patience=asked.get("early_stopping_patience"),
        published_checkpoint_count=asked.get("published_checkpoint_count") or 0,
    )
    return recipe, choices


def _rate(asked: Mapping[str, Any], base_config: Mapping[str, Any], choices: list[Choice]) -> float:
    """Return the learning rate: as asked, or the automatic one, multiplied where that was asked for."""
    if asked.get("learning_rate") is not None:
        return float(asked["learning_rate"])
    automatic = min(1e-3, 10 * 5e-5 * (2000 / _size(base_config, HIDDEN_SIZE, 2000)) ** 0.781)
    multiplier = asked.get("learning_rate_multiplier")
    rate = automatic if multiplier is None else automatic * multiplier
    rule = "5e-4 × (2000 / hidden size)^0.781, at most 1e-3"
    if multiplier is not None:
        rule = f"{multiplier:g} × the automatic rate {automatic:.2g}, which is {rule}"
    choices.append(Choice("learning_rate", rate, rule, f"tinker-cookbook, hyperparam_utils.py; {WITHOUT_REGRET}"))
    return float(rate)


def _max_length(asked: Mapping[str, Any], base_config: Mapping[str, Any], choices: list[Choice]) -> int:
    """Return the longest row that is taken; never more than the base can read."""
    limit = _size(base_config, POSITIONS, int(BOUNDS["max_length"][1]))
    wanted = asked.get("max_length")
    if wanted is not None and wanted <= limit:
        return int(wanted)
    length = min(limit, 2048 if wanted is None else wanted)
    rule = "2048, or the base's own limit where that is less"
    if wanted is not None:
        rule = f"the base's own limit; {wanted} was asked for"
    choices.append(Choice("max_length", length, rule, OWN if wanted is None else "the base's config.json"))
    return length


def _size(base_config: Mapping[str, Any], names: tuple[str, ...], otherwise: int) -> int:
    """Return a size by whichever of its names a configuration uses."""
    return next((int(base_config[name]) for name in names if base_config.get(name)), otherwise)


def _targets(base_config: Mapping[str, Any]) -> tuple[list[str], str, str]:
    """Return the layers to adapt where nobody said, with the rule and its source."""
    known = ("Llama", "Qwen2", "Qwen3", "Mistral", "Gemma", "Olmo2")
    architecture = (base_config.get("architectures") or [""])[0]
    if architecture.startswith(known):
        return list(ATTENTION_PROJECTIONS), "the attention projections", "Hu et al., LoRA, 2021"
    rule = "every linear layer: the attention projections have other names here"
    return [ALL_LINEAR], rule, "Dettmers et al., QLoRA, 2023, section 4"
