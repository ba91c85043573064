"""What a language model goes on to say: sampled, and the same again from the same seeds."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
)

from sae_dist.common.seeds import generator


@torch.no_grad()
def rollouts(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    num_tokens: int,
    temperature: float,
) -> list[list[int]]:
    """Continue each prompt by up to `num_tokens` tokens, to a token that ends a turn if one comes.

    Tokens are drawn from softmax(logits / temperature) over the whole vocabulary; whatever else
    the model's own settings ask for (top-k, top-p, penalties) is left out. Each prompt has a seed
    of its own: what is drawn depends on no other prompt of the batch, but for the rounding of sums.

    Args:
        prompts: token ids, at least one each.
        seeds: one a prompt.
    """
    longest = max(len(prompt) for prompt in prompts)
    ends = _ids(model.generation_config.eos_token_id)
    filler = ends[0] if ends else 0
    padding = [longest - len(prompt) for prompt in prompts]
    rows = [[filler] * n + list(prompt) for n, prompt in zip(padding, prompts, strict=True)]
    ids_NS = torch.tensor(rows, device=model.device)
    seen_NS = torch.arange(longest) >= torch.tensor(padding)[:, None]
    config = GenerationConfig(
        max_new_tokens=num_tokens,
        do_sample=False,  # `_Draw` leaves one token to choose
        eos_token_id=ends or None,
        pad_token_id=filler,
    )
    own, model.generation_config = model.generation_config, config
    try:  # with its own, `generate` would fill in what is not said otherwise
        found_NS: Tensor = model.generate(  # type: ignore[operator]  # typed as a tensor
            ids_NS,
            attention_mask=seen_NS.long().to(model.device),
            logits_processor=LogitsProcessorList([_Draw(seeds, temperature)]),
            use_cache=True,
        )
    finally:
        model.generation_config = own
    return [_until(ends, row) for row in found_NS[:, longest:].tolist()]


class _Draw(LogitsProcessor):
    """Leaves each row one token: the first whose cumulative probability exceeds u, the row's next
    number from [0, 1).
    """

    def __init__(self, seeds: Sequence[int], temperature: float) -> None:
        self._generators = [generator(seed, "rollout") for seed in seeds]
        self._temperature = temperature

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        p_NV = (scores.double() / self._temperature).softmax(1)
        below_NV = p_NV.cumsum(1)
        u_N1 = below_NV.new_tensor([[g.random()] for g in self._generators]) * below_NV[:, -1:]
        drawn_N1 = torch.searchsorted(below_NV, u_N1, right=True).clamp(max=p_NV.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter(1, drawn_N1, 0.0)


def _ids(value: int | list[int] | None) -> list[int]:
    return [] if value is None else [value] if isinstance(value, int) else list(value)


def _until(ends: list[int], ids: list[int]) -> list[int]:
    """Up to the first end, and with it; what follows is filling."""
    last = next((place for place, token in enumerate(ids) if token in ends), len(ids))
    return ids[: last + 1]
