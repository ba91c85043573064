import pytest
import torch

from sae_dist.lm import rollouts
from tests.lm.tiny import OPTIONS, tiny_model

PROMPTS = [[5, 6, 7, 8], [9], [10, 11]]


@pytest.mark.parametrize("family", OPTIONS)
def test_a_seed_fixes_a_rollout_in_any_batch(family: str) -> None:
    model = tiny_model(family)
    together = rollouts(model, PROMPTS, [1, 2, 3], 6, 1.0)
    alone = [rollouts(model, [p], [s], 6, 1.0)[0] for p, s in zip(PROMPTS, [1, 2, 3], strict=True)]
    assert together == alone
    assert rollouts(model, PROMPTS, [4, 5, 6], 6, 1.0) != together


def test_tokens_come_as_often_as_temperature_has_it() -> None:
    model, num = tiny_model("llama"), 2000
    logits_V = model(input_ids=torch.tensor([[5, 6]])).logits[0, -1].double()
    drawn = rollouts(model, [[5, 6]] * num, list(range(num)), 1, 0.5)
    share_V = torch.bincount(torch.tensor(drawn)[:, 0], minlength=len(logits_V)) / num
    p_V = (logits_V / 0.5).softmax(0)
    assert p_V.max() < 0.9 and (p_V > 0.02).sum() > 3
    assert ((share_V - p_V).abs() < 4 * (p_V * (1 - p_V) / num).sqrt() + 1 / num).all()


def test_cold_rollouts_follow_the_largest_logits_whatever_the_model_asks_for() -> None:
    model = tiny_model("llama")
    own = model.generation_config
    own.repetition_penalty, own.top_k, own.do_sample = 50.0, 3, True
    (found,) = rollouts(model, [[5, 6]], [0], 5, 1e-6)
    ids = [5, 6]
    for _ in range(5):  # without a cache
        ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert found == ids[2:]
    assert model.generation_config is own and not model.config.use_cache


def test_a_rollout_ends_with_its_turn() -> None:
    model = tiny_model("llama")
    model.generation_config.eos_token_id = None
    (free,) = rollouts(model, [[5, 6]], [3], 8, 1.0)
    assert len(free) == 8
    model.generation_config.eos_token_id = [free[3], 1]
    found = rollouts(model, [[5, 6], [9]], [3, 4], 8, 1.0)
    assert found[0] == free[: free.index(free[3]) + 1]
