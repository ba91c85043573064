"""The prompts of a file."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from sae_dist.common.errors import UserError
from sae_dist.text.template import Template, special_ids


def read_prompts(path: str | Path) -> list[str]:
    """The prompts of a file in its order: of .jsonl a row's `prompt`, else its `text`; of any other
    file the lines. Empty ones are left out.

    Raises UserError for a file that is missing, unreadable or without a prompt.
    """
    path = Path(path).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not in UTF-8"
        raise UserError(
            f"found no prompts in {path} ({reason}); expected a .jsonl file or one of lines; "
            "correct transfer.prompts"
        ) from error
    found = ((number, line.strip()) for number, line in enumerate(lines, 1) if line.strip())
    if path.suffix == ".jsonl":
        prompts = [_prompt(line, f"{path}, line {number}") for number, line in found]
    else:
        prompts = [line for _, line in found]
    if not (prompts := [prompt for prompt in prompts if prompt.strip()]):
        raise UserError(
            f"found no prompts in {path} (empty); expected at least one; correct transfer.prompts"
        )
    return prompts


def wrap_prompts(
    prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase, template: str, max_tokens: int
) -> Iterator[tuple[list[int], list[bool]]]:
    """Of each prompt, cut at `max_tokens`, the ids and which of them `pack` would train on.

    The ids are those of the sequence that `pack` makes of a document: BOS and the user's prefix,
    the prompt, the model's prefix. Raises UserError as `Template.of` does.
    """
    wrapped = Template.of(template, tokenizer)
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    special = special_ids(tokenizer)
    for ids in tokenizer(list(prompts), add_special_tokens=False, verbose=False)["input_ids"]:
        before, after = [*bos, *wrapped.before_P.tolist()], wrapped.after_P.tolist()
        whole_S = np.asarray([*before, *ids[:max_tokens], *after])
        trainable_S = ~np.isin(whole_S, special)
        trainable_S[: len(before)] = False
        yield whole_S.tolist(), trainable_S.tolist()


def _prompt(line: str, place: str) -> str:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"found no JSON in {place}; expected an object a line; mend it") from error
    prompt = row.get("prompt", row.get("text")) if isinstance(row, dict) else None
    if not isinstance(prompt, str):
        raise UserError(
            f"found no prompt in {place}; expected an object with a string `prompt` or `text`; "
            "mend it"
        )
    return prompt
