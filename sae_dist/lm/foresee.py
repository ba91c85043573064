"""What is known of a language model before its weights are read: its configuration says it."""

from typing import Any

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from sae_dist.common.errors import UserError
from sae_dist.lm.capture import Capture, site_widths, truncate
from sae_dist.lm.config import LMConfig
from sae_dist.lm.files import read_config, told_in_one_line
from sae_dist.lm.fold import fold_rms_norms
from sae_dist.lm.load import find_auto_class, load_tokenizer
from sae_dist.lm.sites import resolve
from sae_dist.lm.tensor import require_plan, sliced_sites


def foresee(
    config: LMConfig, sites: list[str], sequence_length: int, prefix: str = ""
) -> dict[str, int] | None:
    """Refuse what cannot be harvested before a weight or a text is read; the width of each site.

    None for widths that only a real pass can tell: of a model with code of its own, or one that
    looks at values on its way.

    Args:
        config, sites: the language model's.
        sequence_length: S of what it is to read.
        prefix: what stands before `lm.…` and `text.…` on the command's line.

    Raises:
        UserError: sequences longer than the model knows positions, a tokenizer whose ids its
            embedding has no rows for, sites that are not there, norms that cannot be folded, a
            number of heads that `lm.tensor` does not divide, files that cannot be read.
    """
    key = f"{prefix}lm.name"
    described = read_config(config, key)
    text = described.get_text_config()
    model = None if has_own_code(config, described) else skeleton(config, described, key)
    _check_positions(config, text, sequence_length + _spared(model), prefix)
    _check_ids(config, load_tokenizer(config, key=key), getattr(text, "vocab_size", None))
    if config.tensor > 1:
        require_plan(config, text)
    if model is None:
        return None
    if config.fold_norms:
        fold_rms_norms(model)
    found = [resolve(model, name) for name in sites]
    if config.tensor > 1:
        sliced_sites(model, found)
    truncate(model, found)
    try:
        return site_widths(Capture(model, found), "meta")
    except RuntimeError:  # of an operation that needs values
        return None


def skeleton(
    config: LMConfig, described: PretrainedConfig, key: str = "lm.name"
) -> PreTrainedModel:
    """A model built without memory, on torch's meta device.

    With eager attention and a cache, as other ways look at values, of which there are none.
    """
    auto_class = find_auto_class(config.auto_class)
    with told_in_one_line(config, config.auto_class, key), torch.device("meta"):
        model: PreTrainedModel = auto_class.from_config(
            described, dtype=torch.bfloat16, attn_implementation="eager"
        )
    described.get_text_config().use_cache = True
    return model


def has_own_code(config: LMConfig, described: PretrainedConfig) -> bool:
    """Whether a model runs code that came with it."""
    return config.trust_remote_code and bool(getattr(described, "auto_map", None))


def most_positions(text: PretrainedConfig) -> int | None:
    """The longest sequence that a text model's configuration speaks of; None if of none.

    Rotary positions that are stretched by a factor reach that much further than they were
    trained for; `dynamic` ones adapt to any length. (`rope_parameters` of transformers, where
    layers of several types may each have their own.)
    """
    most = getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None)
    if most is None:
        return None
    for rope in _ropes(text):
        if rope.get("rope_type") == "dynamic":
            return None
        trained = rope.get("original_max_position_embeddings") or most
        most = max(most, int(trained * (rope.get("factor") or 1)))
    return int(most)


def _ropes(text: PretrainedConfig) -> list[dict[str, Any]]:
    found = getattr(text, "rope_parameters", None) or {}
    return [found] if "rope_type" in found else [r for r in found.values() if isinstance(r, dict)]


def _spared(model: nn.Module | None) -> int:
    """The first rows of a table of positions that stand for padding, as RoBERTa has some."""
    tables = [
        module
        for name, module in (model.named_modules() if model is not None else ())
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings")
    ]
    return max((table.padding_idx + 1 for table in tables if table.padding_idx), default=0)


def _check_positions(
    config: LMConfig, text: PretrainedConfig, num_positions: int, prefix: str
) -> None:
    most, can_go_on = most_positions(text), bool(_ropes(text))
    if most is None or num_positions <= most or (config.extrapolate and can_go_on):
        return
    hint = f", or set {prefix}lm.extrapolate=true to go on beyond" if can_go_on else ""
    raise UserError(
        f"{prefix}text.sequence_length needs {num_positions} positions; expected at most {most}, "
        f"all that {config.name} knows; lower it{hint}"
    )


def _check_ids(config: LMConfig, tokenizer: PreTrainedTokenizerBase, num_rows: int | None) -> None:
    """Tokens that were added to a vocabulary may lie beyond: they come up only if written out."""
    special = [i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None]
    highest = max(tokenizer.vocab_size - 1, *special, 0)
    if num_rows is not None and highest >= num_rows:
        raise UserError(
            f"found a tokenizer with ids up to {highest} in {config.name}; expected less than "
            f"{num_rows}, the rows of its embedding; restore the tokenizer or the weights that "
            "belong together"
        )
