"""A tiny random language model of made-up words, whose embeddings know a word's first letter.

Texts of these words have a class and an attribute: which letters more of their words begin with.
"""

import json
import string
from pathlib import Path

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from sae_dist.coders import Coder, TopK

WIDTH, WORDS_A_LETTER, CONTEXT = 48, 24, 24
SITE = "resid_post.0"
CLASSES = {"nurse": "bcd", "professor": "fgh", "surgeon": "jkl", "teacher": "mnp"}
ATTRIBUTES = {"female": "qrs", "male": "tvw"}


def words() -> list[str]:
    ends = [a + b for a in "aeiou" for b in "lmnrk"]  # no word of the prompt
    return [letter + end for letter in string.ascii_lowercase for end in ends[:WORDS_A_LETTER]]


def tokenizer() -> PreTrainedTokenizerFast:
    """A token a word, a line's end, a colon, a capital."""
    prompt = ["<s>", "<unk>", "\n", ":", "has", "the", "first", "letter"]
    vocab = [*prompt, *string.ascii_uppercase, *words()]
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate(vocab)}, unk_token="<unk>"))
    split = pre_tokenizers.Split(Regex("[A-Za-z]+|\n|:"), "isolated")
    blanks = pre_tokenizers.Split(" ", "removed")
    made.pre_tokenizer = pre_tokenizers.Sequence([blanks, split])
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="<s>", unk_token="<unk>"
    )


def model() -> LlamaForCausalLM:
    """Frozen, float32; embeddings are a direction of the first letter and noise."""
    torch.manual_seed(0)
    vocab = dict(sorted(tokenizer().get_vocab().items()))  # else in another order each time
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    lm = LlamaForCausalLM(config).eval().requires_grad_(False)
    directions = torch.linalg.qr(torch.randn(WIDTH, 26)).Q.T
    for word, id in vocab.items():
        if word.isalpha() and word not in ("has", "the", "first", "letter"):
            noise = 0.06 * torch.randn(WIDTH)
            letter = string.ascii_lowercase.index(word[0].lower())
            lm.get_input_embeddings().weight[id] = directions[letter] + noise
    return lm


def save_lm(folder: Path) -> Path:
    model().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def coder(*, centred: bool = False) -> Coder:
    """TopK: a latent for each letter, one for some words of each, the rest random.

    If `centred`, b_dec is 0, and nothing fires on zeros.
    """
    embedding, vocab = model().get_input_embeddings().weight, tokenizer().get_vocab()
    by_letter = [
        [embedding[vocab[w]] for w in words() if w[0] == c] for c in string.ascii_lowercase
    ]
    letters = torch.stack([torch.stack(own).mean(0) for own in by_letter])
    some = torch.stack([own[place] for own in by_letter for place in range(4)])
    generator = torch.Generator().manual_seed(1)
    others = torch.randn(382, WIDTH, generator=generator)
    W = torch.nn.functional.normalize(torch.cat([letters, some, others]), dim=1)
    made = Coder(TopK(num_latents=len(W), k=6), WIDTH, WIDTH)
    b_dec = (0.0 if centred else 0.05) * torch.randn(WIDTH, generator=generator)
    weights = {"W_enc": W, "W_dec": W, "b_enc": torch.zeros(len(W)), "b_dec": b_dec}
    made.load_state_dict({k: v.clone() for k, v in weights.items()})
    return made.eval().requires_grad_(False)


def write_texts(path: Path, classes: int = 4, num_each: int = 60, length: int = CONTEXT) -> Path:
    """So many texts of each class and attribute, of `length` words."""
    random = np.random.Generator(np.random.Philox(0))
    every = words()
    rows = []
    for label, own in list(CLASSES.items())[:classes]:
        for attribute, its in ATTRIBUTES.items():
            for _ in range(num_each):
                pools = [own, its, string.ascii_lowercase]
                chosen = [pools[p] for p in random.choice(3, length, p=[0.12, 0.16, 0.72])]
                firsts = [pool[random.integers(len(pool))] for pool in chosen]
                text = " ".join(f + every[random.integers(WORDS_A_LETTER)][1:] for f in firsts)
                rows.append({"text": text, "profession": label, "gender": attribute})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
