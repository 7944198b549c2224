"""Recipes: bounds, warnings, and the rules for what nobody gave."""

import math

import pytest

from services.trainer.recipe import check, resolve, warnings

LLAMA = {"hidden_size": 4096, "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 8192}


def test_the_automatic_rate_follows_its_source() -> None:
    recipe, _ = resolve({}, train_rows=10_000, base_config=LLAMA)
    # tinker-cookbook: 5e-5 (full fine-tuning) x 10 (LoRA) x (2000 / hidden size) ** 0.781 for Llama.
    assert recipe.learning_rate == pytest.approx(5e-5 * 10 * math.exp(0.781 * math.log(2000 / 4096)))


def test_a_multiplier_multiplies_the_automatic_rate_and_says_so() -> None:
    plain, _ = resolve({}, train_rows=100, base_config=LLAMA)
    doubled, choices = resolve({"learning_rate_multiplier": 2.0}, train_rows=100, base_config=LLAMA)
    assert doubled.learning_rate == pytest.approx(2 * plain.learning_rate)
    assert any(choice.name == "learning_rate" and "2 ×" in choice.rule for choice in choices)


def test_what_was_given_is_taken_as_it_is_even_where_it_is_zero() -> None:
    recipe, choices = resolve({"warmup_fraction": 0.0, "seed": 0, "dropout": 0.0}, train_rows=100, base_config=LLAMA)
    assert (recipe.warmup_fraction, recipe.seed, recipe.dropout) == (0.0, 0, 0.0)
    assert {"warmup_fraction", "seed", "dropout"} & {choice.name for choice in choices} == set()


@pytest.mark.parametrize("rows", [10, 79, 800, 100_000])
def test_any_number_of_rows_gives_at_least_a_step(rows: int) -> None:
    recipe, _ = resolve({}, train_rows=rows, base_config=LLAMA)
    assert recipe.batch_size >= 1
    assert recipe.epochs >= 1
    assert recipe.validation_interval_steps >= 1


def test_an_unknown_architecture_gets_adapters_on_every_linear_layer() -> None:
    recipe, _ = resolve({}, train_rows=100, base_config={"architectures": ["GPT2LMHeadModel"], "n_embd": 768})
    assert recipe.target_modules == ("all-linear",)


def test_a_base_that_has_other_names_for_its_sizes_is_read_too() -> None:
    recipe, _ = resolve({}, train_rows=100, base_config={"n_embd": 4096, "n_positions": 512})
    assert recipe.learning_rate == pytest.approx(5e-4 * (2000 / 4096) ** 0.781)
    assert recipe.max_length == 512


def test_a_base_with_a_short_window_limits_the_length() -> None:
    recipe, _ = resolve({}, train_rows=100, base_config={**LLAMA, "max_position_embeddings": 512})
    assert recipe.max_length == 512


def test_a_length_beyond_what_the_base_reads_is_lowered_and_said_so() -> None:
    recipe, choices = resolve({"max_length": 4096}, train_rows=100, base_config={**LLAMA, "max_position_embeddings": 512})
    assert recipe.max_length == 512
    assert any(choice.name == "max_length" and "4096 was asked for" in choice.rule for choice in choices)


def test_every_choice_has_its_rule_and_where_the_rule_comes_from() -> None:
    _, choices = resolve({}, train_rows=100, base_config=LLAMA)
    assert {choice.name for choice in choices} == {
        "learning_rate", "epochs", "batch_size", "rank", "alpha", "dropout", "target_modules", "warmup_fraction", "schedule",
        "weight_decay", "max_gradient_norm", "max_length", "validation_interval_steps", "seed",
    }  # fmt: skip
    assert all(choice.rule and choice.source for choice in choices)


@pytest.mark.parametrize(("name", "low", "high"), [("learning_rate", 1e-5, 1e-3), ("epochs", 1, 10), ("rank", 4, 64)])
def test_the_ends_of_the_usual_range_are_usual(name: str, low: float, high: float) -> None:
    for value in (low, high):
        assert warnings(resolve({name: value}, train_rows=100, base_config=LLAMA)[0]) == []
    assert len(warnings(resolve({name: high * 2}, train_rows=100, base_config=LLAMA)[0])) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", 2.0),
        ("epochs", 0),
        ("rank", 257),
        ("dropout", 1.0),
        ("seed", -1),
        ("max_length", 8),
    ],
)
def test_a_value_out_of_bounds_is_a_violation_of_its_field(name: str, value: float) -> None:
    assert [(v.field, v.reason) for v in check({name: value})] == [(f"recipe.{name}", "OUT_OF_BOUNDS")]


def test_unusual_values_are_warned_about_but_taken() -> None:
    recipe, _ = resolve({"learning_rate": 5e-3, "epochs": 20, "rank": 128}, train_rows=100, base_config=LLAMA)
    assert len(warnings(recipe)) == 3
