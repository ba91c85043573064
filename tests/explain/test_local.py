"""A language model on this machine judges by probabilities, and a batch changes nothing."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BertTokenizerFast,
    PreTrainedTokenizerFast,
)

from sae_dist.common.errors import UserError
from sae_dist.explain import Examples, ExamplesConfig
from sae_dist.explain.questions import Levels, Likeness, Question, Sentence
from sae_dist.explain.scorers import SCORERS
from sae_dist.latents import Latents
from tests.explain.made_up import LATENTS, judge
from tests.explain.made_up import tokenizer as of_words

TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def chat_tokenizer(ten: bool) -> PreTrainedTokenizerFast:
    """Bytes; with `ten`, 10 is a token, too."""
    text = ["10 10\t10"] if ten else ["a"]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    size = len(alphabet) + 1 + ten
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=alphabet, special_tokens=["<e>"], show_progress=False
    )
    made.train_from_iterator(text, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<e>", eos_token="<e>", chat_template=TEMPLATE
    )


@pytest.fixture(scope="module")
def chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny chat model of random weights."""
    folder = tmp_path_factory.mktemp("chat")
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "gpt2", vocab_size=258, n_embd=16, n_layer=2, n_head=2, n_positions=4096
    )
    model = AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    chat_tokenizer(ten=True).save_pretrained(folder)
    return folder


QUESTIONS = [
    Question(prompt="short", form=Levels(("1", "2")), truth=None, task="judge"),
    Question(prompt="what is it", form=Sentence(6), truth=None),
    Question(prompt="much longer than the other", form=Levels(("a", "word", "10"), 10), truth=None),
    Question(prompt="of colours", form=Likeness(("red", "a rather long text")), truth=None),
    Question(prompt="and", form=Levels(("x",)), truth=None, demos=(("u", "a"),)),
]


def test_a_batch_changes_no_answer(chat: Path) -> None:
    together, one_by_one = (
        list(judge("local", model=str(chat), batch_size=n).open().answers(QUESTIONS))
        for n in (5, 1)
    )
    for found, alone in zip(together, one_by_one, strict=True):
        assert found == (alone if isinstance(alone, str) else pytest.approx(alone, abs=1e-4))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder of sentences, of random weights, with [CLS] and [SEP]."""
    folder = tmp_path_factory.mktemp("encoder")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "a", "rather", "long", "text", "of"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "bert",
        vocab_size=10,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
    )
    AutoModel.from_config(config).save_pretrained(folder)
    return folder


def test_an_encoder_embeds_with_its_special_tokens_and_lists_marks(encoder: Path) -> None:
    asked = [
        Question(prompt="red text", form=Likeness(("red text", "a rather long text")), truth=None),
        Question(prompt="what is it", form=Sentence(), truth="the tokens ' red'"),
    ]
    settings = {"model": str(encoder), "auto_class": "AutoModel"}
    (same, other), said = judge("local", **settings).open().answers(asked)
    assert same == pytest.approx(1.0) and other < 0.999
    assert said == "the tokens ' red'"
    model, tokenizer = (load.from_pretrained(encoder) for load in (AutoModel, BertTokenizerFast))
    with torch.no_grad():
        one, two = (
            model(**tokenizer(text, return_tensors="pt")).last_hidden_state.mean(1)
            for text in ("red text", "a rather long text")
        )
    assert other == pytest.approx(float(torch.cosine_similarity(one, two)), abs=1e-5)
    with pytest.raises(UserError, match="which only embeds; expected scorers=.embedding."):
        judge("local", **settings).check(["detection"])


def test_numbers_are_expected_over_the_digits_where_they_would_stand(chat: Path) -> None:
    made = judge("local", model=str(chat)).open()
    assert made.scale == 10
    (found,) = made.answers([QUESTIONS[2]])
    text = (
        "<|user|>much longer than the other\n<|assistant|>a\tunknown\nword\tunknown\n10\tunknown\n"
    )
    tokenizer, model = made.tokenizer, made.model
    digits = [tokenizer.encode(str(n), add_special_tokens=False) for n in range(11)]
    assert all(len(ids) == 1 for ids in digits)
    for label, value in zip(("a", "word", "10"), found, strict=True):
        before = text[
            : text.index(f"{label}\tunknown", text.index("<|assistant|>")) + len(label) + 1
        ]
        ids = torch.tensor([tokenizer.encode(before, add_special_tokens=False)])
        p_D = model(ids).logits[0, -1, [own[0] for own in digits]].softmax(0)
        assert value == pytest.approx(float(p_D @ torch.arange(11.0)), abs=1e-4)
    assert all(0 <= value <= 10 for value in found)


def test_where_ten_is_no_token_the_scale_ends_at_nine_and_without_digits_it_is_refused(
    chat: Path, tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        (tmp_path / name).write_bytes((chat / name).read_bytes())
    chat_tokenizer(ten=False).save_pretrained(tmp_path)
    assert judge("local", model=str(tmp_path)).open().scale == 9
    of_words().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no token for 1 after a tab.*another judge.model"):
        judge("local", model=str(tmp_path)).open()


def test_what_is_no_folder_is_refused_before_torch_is_needed() -> None:
    with pytest.raises(UserError, match="found no folder nowhere.*judge.model"):
        judge("local", model="./nowhere").check([])


@pytest.mark.parametrize("name", SCORERS.names())
def test_no_answer_of_it_is_missing(chat: Path, watched: Latents, name: str) -> None:
    made = judge("local", model=str(chat)).open()
    sample = Examples(watched, of_words(), ExamplesConfig(), 0).of(LATENTS[0])
    scorer = SCORERS.named(name)(5, made.scale)
    questions = scorer.questions(sample, "multiples of a number")[:4]
    answers = list(made.answers(questions))
    assert [len(answer) for answer in answers] == [len(q.truth) for q in questions]
    assert made.spent.requests == len(questions) and made.spent.tokens_in > 0
