"""The proof's rule: what passes, what does not, and what passes without being promotable."""

import json
import math

import pytest

from services.common.errors import InvalidInput
from services.common.ports.model_server import GoldenChat, Probe
from services.inference.proof import Measured, Proof, decide, parse_golden

BASE = "b" * 64


def golden(adapter: float, base: float, count: int = 8) -> list[GoldenChat]:
    """Chats whose references are the same number everywhere, so that each mean is that number's difference."""
    probe = Probe((1, 2, 3), (7, 8), (adapter, adapter), (base, base))
    return [GoldenChat(({"role": "user", "content": str(i)},), (1, 2, 3), (probe,)) for i in range(count)]


def said(chats: list[GoldenChat], value: float, token_ids: tuple[int, ...] = (1, 2, 3)) -> list[Measured]:
    return [Measured(token_ids, ((value, value),)) for _ in chats]


def proof(adapter: float, base: float, server: float) -> Proof:
    chats = golden(adapter, base)
    return decide(chats, said(chats, server))


def test_a_server_near_its_own_references_and_far_from_the_bases_is_proven() -> None:
    proven = proof(adapter=-1.0, base=-3.0, server=-1.06)
    assert proven.is_proven
    assert proven.is_distinguishable
    assert (proven.golden_count, proven.token_count) == (8, 16)
    assert proven.mean_difference == pytest.approx(0.06)
    assert proven.base_difference == pytest.approx(1.94)


def test_the_limit_itself_is_a_failure_and_just_below_it_is_not() -> None:
    assert proof(adapter=0.0, base=-3.0, server=-0.15).reason == "LOGPROBS_DIFFER"
    assert proof(adapter=0.0, base=-3.0, server=-0.1499).is_proven


def test_a_server_that_answers_as_the_base_is_refused_even_where_the_two_are_near() -> None:
    assert proof(adapter=-1.0, base=-2.0, server=-2.0).reason == "LOGPROBS_DIFFER"
    assert proof(adapter=-1.0, base=-1.1, server=-1.1).reason == "ANSWERS_AS_BASE"


def test_references_that_cannot_tell_the_adapter_from_its_base_are_proven_but_not_distinguishable() -> None:
    proven = proof(adapter=-1.0, base=-1.04, server=-1.04)
    assert proven.is_proven
    assert not proven.is_distinguishable
    assert proof(adapter=-1.0, base=-1.05, server=-1.0).is_distinguishable


def test_one_chat_with_other_token_ids_fails_the_whole_proof() -> None:
    chats = golden(-1.0, -3.0)
    measured = said(chats, -1.0)
    measured[5] = Measured((1, 2, 4), measured[5].logprobs)
    refused = decide(chats, measured)
    assert refused.reason == "TEMPLATE_MISMATCH"
    assert "[5]" in refused.message


def test_a_number_that_is_missing_or_not_finite_fails_the_proof_and_becomes_null() -> None:
    chats = golden(-1.0, -3.0)
    measured = said(chats, -1.0)
    measured[0] = Measured((1, 2, 3), ((-1.0, math.nan),))
    refused = decide(chats, measured)
    assert refused.reason == "LOGPROBS_MISSING"
    assert refused.to_json()["mean_difference"] is None


def test_a_single_large_difference_does_not_fail_a_proof_whose_mean_is_small() -> None:
    chats = golden(-1.0, -3.0)  # sixteen numbers: one of 0.8 is 0.05 on average
    measured = said(chats, -1.0)
    measured[0] = Measured((1, 2, 3), ((-1.8, -1.0),))
    assert decide(chats, measured).is_proven


def document(**changes: object) -> bytes:
    probe = {"prefix_token_ids": [1], "token_ids": [2], "adapter_logprobs": [-1.0], "base_logprobs": [-2.0]}
    chat = {"messages": [{"role": "user", "content": "hi"}], "prompt_token_ids": [1], "probes": [{**probe, **changes}]}
    return json.dumps({"base_digest": BASE, "chats": [chat]}).encode()


def test_golden_answers_are_read_as_they_were_written() -> None:
    (chat,) = parse_golden(document(), BASE)
    assert chat.messages[0]["content"] == "hi"
    assert chat.probes[0] == Probe((1,), (2,), (-1.0,), (-2.0,))


@pytest.mark.parametrize(
    ("golden", "reason"),
    [
        (b"{}", "GOLDEN_INVALID"),
        (b"not json", "GOLDEN_INVALID"),
        (json.dumps({"base_digest": BASE, "chats": []}).encode(), "GOLDEN_INVALID"),
        (document(token_ids=[2, 3]), "GOLDEN_INVALID"),
        (document(token_ids=list(range(17)), adapter_logprobs=[0.0] * 17, base_logprobs=[0.0] * 17), "GOLDEN_INVALID"),
        (document(adapter_logprobs=[math.nan]), "GOLDEN_INVALID"),
        (document(prefix_token_ids=[]), "GOLDEN_INVALID"),
    ],
)
def test_golden_answers_that_prove_nothing_are_refused(golden: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_golden(golden, BASE)
    assert refused.value.reason == reason


def test_golden_answers_of_another_base_are_refused() -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_golden(document(), "c" * 64)
    assert refused.value.reason == "WRONG_BASE"


def full_document(**changes: object) -> bytes:
    probe = {"prefix_token_ids": [1], "token_ids": [2], "adapter_logprobs": [-1.0]}
    chat = {"messages": [{"role": "user", "content": "hi"}], "prompt_token_ids": [1], "probes": [probe], **changes}
    return json.dumps({"chats": [chat]}).encode()


def test_full_weights_need_no_base_and_are_held_against_their_own_references_alone() -> None:
    chats = parse_golden(full_document(), "")
    assert decide(chats, [Measured((1,), ((-1.1,),))]).message == "1 log-probabilities differ by 0.100 on average."
    assert decide(chats, [Measured((1,), ((-1.2,),))]).reason == "LOGPROBS_DIFFER"
    with pytest.raises(InvalidInput):
        parse_golden(full_document(), BASE)


def test_a_proof_of_full_weights_says_how_little_was_shown() -> None:
    chats = parse_golden(full_document(probes=[]), "")
    assert decide(chats, [Measured((2,), ())]).reason == "TEMPLATE_MISMATCH"
    for proven, words in ((decide(chats, [Measured((1,), ())]), "1 chats get"), (decide([], []), "no references")):
        assert proven.is_proven
        assert words in proven.to_json()["message"]
        assert proven.to_json()["mean_difference"] is None
