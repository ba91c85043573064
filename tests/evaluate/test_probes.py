import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_dist.coders import Coder, TopK
from sae_dist.common.errors import UserError
from sae_dist.evaluate import EvaluationConfig
from sae_dist.evaluate.config import ProbesConfig, require_data
from sae_dist.evaluate.labelled import LabelledTexts, Sample, labelled_texts, read_samples
from sae_dist.evaluate.measures.absorption import (
    Absorption,
    absorbed,
    absorption_fraction,
    main_latents,
)
from sae_dist.evaluate.measures.scr_tpp import SCRAndTPP, pairs, scr, tpp
from sae_dist.evaluate.measures.sparse_probing import SparseProbing
from sae_dist.evaluate.pooled import LatentMeans, PooledTexts, SiteMeans, latent_means
from sae_dist.evaluate.probing import Examples, Probe, Split, one_vs_rest
from sae_dist.evaluate.tasks import alphabetic_tokens, first_letter, stdlib_packages, token_kind
from sae_dist.kernels import SparsePattern
from tests.evaluate import letters
from tests.evaluate.made_up import subject_of

NUM = 40  # texts of each class and value
SETTINGS = ProbesConfig(latents=[1, 2], ablated=[1, 2, 10])


def labels(classes: int = 3, attributes: tuple[str, ...] = (), num: int = NUM) -> LabelledTexts:
    """Every fourth text of each class and value is tested on."""
    values = len(attributes) or 1
    cells = [(c, v) for c in range(classes) for v in range(values) for _ in range(num)]
    return LabelledTexts(
        name="made_up",
        ids_NS=torch.zeros(len(cells), 1, dtype=torch.int64),
        read_NS=torch.ones(len(cells), 1, dtype=torch.bool),
        classes=tuple("abcdefghij"[:classes]),
        label_N=torch.tensor([c for c, _ in cells]),
        attributes=attributes,
        attribute_N=torch.tensor([v for _, v in cells]),
        is_test_N=torch.arange(len(cells)) % 4 == 0,
    )


def seen(texts: LabelledTexts, f_NF: Tensor, W_dec: Tensor, y_NE: Tensor | None = None) -> Any:
    """What a coder of this decoder with these means of latents makes of texts."""
    num_latents, width = W_dec.shape
    coder = Coder(TopK(num_latents=num_latents, k=1), width, width)
    coder.load_state_dict(coder.state_dict() | {"W_dec": W_dec})
    rows_N, latents_N = f_NF.nonzero(as_tuple=True)
    code = SparsePattern.from_rows(rows_N, latents_N, len(f_NF), num_latents)
    y = SiteMeans(f_NF @ W_dec if y_NE is None else y_NE)
    latents = LatentMeans(code=code, mean_N=f_NF[rows_N, latents_N], coder=coder)
    return PooledTexts(texts=texts, x=y, y=y, latents=latents)


def figures(measure: Any, given: PooledTexts, probes: ProbesConfig = SETTINGS) -> dict[str, Any]:
    subject = subject_of(given.latents.coder, config=EvaluationConfig(probes=probes))
    made = measure(subject)
    made.update(given)
    found: dict[str, Any] = made.result()
    return found


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def one_hot(texts: LabelledTexts) -> Tensor:
    return torch.nn.functional.one_hot(texts.label_N).float()


def test_a_latent_that_is_the_label_tells_it_and_others_do_not() -> None:
    texts = labels(num=400)  # of fewer a probe on all stops before it has learned
    told = torch.cat([3 * one_hot(texts), 0.1 * noise(len(texts), 9).abs()], 1)
    found = figures(SparseProbing, seen(texts, told, torch.eye(12)))["sparse_probing"]
    assert found["latents"] == {"top_1": 1, "top_2": 1, "all": 1} == found["activations"]
    assert (found["k"], found["accuracy"]) == ([1, 2], [1, 1])
    assert found["data"][0]["classes"] == 3 and found["data"][0]["test"] == 300
    without = figures(SparseProbing, seen(texts, noise(len(texts), 12).abs(), torch.eye(12)))
    assert 0.3 < without["sparse_probing"]["latents"]["top_1"] < 0.7


def test_two_latents_tell_what_neither_does_alone() -> None:
    """Label 1 where one of two latents fires: each alone leaves half of it out."""
    texts = labels(classes=2)
    either = (torch.arange(len(texts)) % 2 == 0)[:, None]
    one = texts.label_N[:, None].float()
    f_NF = torch.cat([one * either, one * ~either, torch.zeros(len(texts), 2)], 1)
    found = figures(SparseProbing, seen(texts, f_NF, torch.eye(4)))["sparse_probing"]["latents"]
    assert found["top_2"] == 1 and found["top_1"] == pytest.approx(0.75, abs=0.26)
    assert found["top_1"] < 1


def test_a_class_is_balanced_against_the_others_and_over_the_attribute() -> None:
    texts = labels(classes=3, attributes=("x", "y"))
    split = one_vs_rest(texts, 1, ProbesConfig(train_texts=80, test_texts=16))
    for part, size, is_test in ((split.train, 40, False), (split.test, 8, True)):
        assert len(part.rows_R) == 2 * size and part.is_so_R.sum() == size
        assert (texts.label_N[part.rows_R[:size]] == 1).all()
        assert texts.attribute_N[part.rows_R[:size]].sum() == size / 2
        others = texts.label_N[part.rows_R[size:]]
        assert (others == 0).sum() == (others == 2).sum() == size / 2
        assert (texts.is_test_N[part.rows_R] == is_test).all()
        assert len(part.rows_R.unique()) == 2 * size


def test_means_are_over_the_tokens_that_are_read() -> None:
    coder = letters.coder()
    x_NSD, read_NS = noise(3, 5, letters.WIDTH), torch.rand(3, 5) < 2
    read_NS[0, :2] = read_NS[2, 4] = False
    text_n, latent_n, mean_n = latent_means(coder, x_NSD, read_NS)
    acts = coder.encode(x_NSD.flatten(0, 1)).view(3, 5, -1) * read_NS[..., None]
    expected = acts.sum(1) / read_NS.sum(1, keepdim=True)
    found = torch.zeros_like(expected)
    found[text_n, latent_n] = mean_n
    torch.testing.assert_close(found, expected)
    assert len(mean_n) == (expected != 0).sum()


def probes(W_CE: list[list[float]], b_C: list[float]) -> list[Probe]:
    columns = zip(W_CE, b_C, strict=True)
    return [Probe(torch.tensor(w)[:, None], torch.tensor([b])) for w, b in columns]


def test_a_latent_a_class_is_all_that_its_probe_loses() -> None:
    """Without the class's latent its probe says no everywhere, which is half right."""
    texts, eye = labels(classes=4), torch.eye(4)
    splits = [one_vs_rest(texts, place, SETTINGS) for place in range(4)]
    told = probes(eye.tolist(), [-0.5] * 4)
    found = tpp(seen(texts, one_hot(texts), eye), splits, told, [1, 2])
    assert found == {"score": [0.5, 0.5], "intended": [0.5, 0.5], "unintended": [0, 0]}
    mixed = tpp(seen(texts, one_hot(texts)[:, [0, 0, 2, 3]], eye), splits, told, [1])
    assert mixed["score"][0] < 0.5  # one latent stands for two classes


def pair_of(texts: LabelledTexts) -> list[Split]:
    (pair,) = pairs(texts, SETTINGS)
    assert pair.classes == ("a", "b")
    assert [len(split.train.rows_R) for split in pair.splits] == [60, 60, 60]
    return pair.splits


@pytest.mark.parametrize(
    ("both", "bias", "score", "harder"),
    [
        ([-1.0, -1.0], 0.5, 1, "class_by_attribute"),  # hears either: all comes back
        ([-1.0, -0.1], 0.5, 0, "attribute_by_class"),  # hears the class, and then nothing
        ([-1.0, -1.0], 1.5, 0, "class_by_attribute"),
    ],
)
def test_a_latent_of_the_other_concept_removes_its_correlation(
    both: list[float], bias: float, score: float, harder: str
) -> None:
    """y is 1 of class b, and 3 of the value y; a probe is to tell class a with value x."""
    texts = labels(classes=2, attributes=("x", "y"))
    f_NF = torch.stack([texts.label_N, 3 * texts.attribute_N], 1).float()
    told = probes([[-2.0, 0.0], [0.0, -2.0], both], [1.0, 3.0, bias])
    found = scr(seen(texts, f_NF, torch.eye(2)), pair_of(texts), told, [1, 2])
    assert found["score"] == found[harder] == [score, score]


def test_ablating_what_has_no_effect_changes_nothing() -> None:
    texts = labels(classes=2, attributes=("x", "y"))
    y_NE = torch.stack([texts.label_N, texts.attribute_N, texts.label_N], 1).float() + noise(160, 3)
    splits = [one_vs_rest(texts, place, SETTINGS) for place in range(2)]
    told = probes([[-1.0, 0, -1], [0, -1.0, 0], [-1.0, -1, 0]], [0.5, 0.5, 0.5])
    silent = 0 * one_hot(texts), torch.eye(3)[:2]
    for f_NF, W_dec in ((one_hot(texts), torch.zeros(2, 3)), silent):
        given = seen(texts, f_NF, W_dec, y_NE)
        assert tpp(given, splits, told[:2], [1, 2])["score"] == [0, 0]
        assert scr(given, pair_of(texts), told, [1, 2])["score"] == [0, 0]


def test_scr_needs_an_attribute() -> None:
    texts = labels()
    assert "left_out" in figures(SCRAndTPP, seen(texts, one_hot(texts), torch.eye(3)))["scr"]


@pytest.mark.parametrize(
    ("whole", "main", "others", "fraction"),
    [
        (1, 1, 0.9, 0),  # all is there already
        (1, 0, 0.39, 0),  # too little for absorption
        (1, 0, 0.41, 1),
        (1, -0.5, 0.41, 1),
        (1, 0.5, 0.45, 0.45 / 0.95),
        (1, 0.5, 3, 0.5),  # no more than what lacks
        (-1, -2, 1, 0),
    ],
)
def test_fraction(whole: float, main: float, others: float, fraction: float) -> None:
    given = (torch.tensor([v], dtype=torch.float64) for v in (whole, main, others))
    assert float(absorption_fraction(*given)) == pytest.approx(fraction)


def test_words_with_and_without_absorption() -> None:
    """Latent 0 is the letter's; 1 to 4 stand in; 5 points elsewhere and fires most."""
    W_dec = torch.tensor([[1.0, 0], [0.8, 0.6], [0.8, -0.6], [0.6, 0.8], [0.6, -0.8], [0.01, 1]])
    f_NF = torch.tensor(
        [
            [2.0, 0, 0, 0, 0, 0],  # the letter's own
            [0, 2.0, 0, 0, 0, 0],  # fully absorbed
            [0, 0.5, 0.5, 0.6, 0.6, 0],  # by several, no single one: 0.4 + 0.4 + 0.36 of 1.52
            [1.0, 1.0, 0, 0, 0, 0],  # in part
            [0, 0.1, 0, 0, 0, 9.0],  # by none: what is told is the error's
            [0, 0, 0, 0, 0, 0],
        ]
    )
    y_NE = f_NF @ W_dec
    y_NE[4:] = torch.tensor([1.0, 0])
    given = seen(labels(2), f_NF, W_dec, y_NE)
    found = absorbed(given, torch.tensor([3.0, 0.0]), torch.tensor([0]), torch.arange(6))
    expected = [0, 1, 1, 0.8 / 1.8, 0, 0]
    torch.testing.assert_close(found.fraction_R, torch.tensor(expected, dtype=torch.float64))
    assert found.is_full_R.tolist() == [False, True, False, False, False, False]


def test_a_letter_has_as_many_latents_as_raise_its_f1() -> None:
    texts = labels(classes=2)
    half = (torch.arange(len(texts)) % 8 < 4).float()
    so = texts.label_N.float()
    f_NF = torch.stack([so * half, so * (1 - half), 0.01 * noise(len(texts)).abs()], 1)
    given = seen(texts, f_NF, torch.eye(3))
    parts = [texts.rows(is_test=part) for part in (False, True)]
    train, test = (Examples(rows, one_hot(texts)[rows]) for rows in parts)
    weights = torch.tensor([[0, 2.0], [0, 3.0], [0, 1.0]])
    sparse = Probe(weights, torch.zeros(2))
    assert main_latents(given.latents, sparse, train, test, 1).tolist() == [1, 0]


def test_few_letters_are_left_out_with_the_reason() -> None:
    """Among many latents that are silent, as their weights in a probe begin the smaller."""
    texts, wide = labels(num=400), 1000
    told = torch.nn.functional.pad(10 * one_hot(texts), (0, wide - 3))
    given = seen(texts, told, torch.eye(wide, 3))
    assert "first_letter" in figures(Absorption, given)["absorption"]["left_out"]
    given = replace(given, texts=replace(texts, name="first_letter"))
    found = figures(Absorption, given)["absorption"]
    assert found["letters"] == 3 and "expected 20" in found["left_out"]
    counted = figures(Absorption, given, ProbesConfig(min_letters=3))["absorption"]
    assert counted["letters"] == 3 and counted["fraction"] == counted["full"] == 0
    assert [row["main"] for row in counted["by_letter"]] == [[0], [1], [2]]
    assert counted["split"] == 1 and [row["f1"] for row in counted["by_letter"]] == [1, 1, 1]


def test_a_file_has_texts_and_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": "x", "label": 1, "of": None}, {"text": "y", "label": 2, "of": "b"}]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert list(read_samples(str(path))) == [Sample("x", "1"), Sample("y", "2")]
    assert list(read_samples(f"{path}:label,of")) == [Sample("y", "2", "b")]
    with pytest.raises(UserError, match="no text, gender in .*a.jsonl, line 1"):
        list(read_samples(f"{path}:gender"))


@pytest.mark.parametrize("data", ["first_leter", "nothing.jsonl", f"{__file__}:a,b,c"])
def test_data_that_are_not_there_are_refused(data: str) -> None:
    with pytest.raises(UserError, match="probes.data=.*; expected stdlib_packages, token_kind"):
        require_data("probes.data", data)


def test_texts_are_split_cut_and_read() -> None:
    tokenizer, config = letters.tokenizer(), ProbesConfig(train_texts=40, test_texts=10)
    word = letters.words()
    samples = [Sample(" ".join(word[n : n + 3]), "ab"[n % 2]) for n in range(80)]
    samples += [Sample(word[0], "rare")]
    texts = labelled_texts("t", samples, tokenizer, config, 3)
    assert texts.classes == ("a", "b") and texts.ids_NS.shape == (50, 3)
    assert texts.is_test_N.sum() == 10 and len(texts.rows(is_test=True, label=0)) == 5
    assert (texts.ids_NS[:, 0] == 0).all() and not texts.read_NS[:, 0].any()
    assert texts.read_NS[:, 1:].all()
    spans = [Sample(s.text, s.label, span=(4, 7)) for s in samples[:80]]
    read = labelled_texts("t", spans, tokenizer, config, 3)
    found = {tokenizer.decode(ids[own]) for ids, own in zip(read.ids_NS, read.read_NS, strict=True)}
    assert len(found) > 20 and read.read_NS.sum(1).tolist() == [1] * 50  # what is before is cut
    with pytest.raises(UserError, match="1 classes of at least 10 texts in t; expected two"):
        labelled_texts("t", [s for s in samples if s.label == "a"], tokenizer, config, 3)


def test_first_letters_are_those_of_the_word_that_is_read() -> None:
    tokenizer = letters.tokenizer()
    assert len(alphabetic_tokens(tokenizer)) == 26 * letters.WORDS_A_LETTER + 26 + 4
    samples = list(first_letter(tokenizer, 0))
    texts = labelled_texts("first_letter", samples, tokenizer, ProbesConfig(), 128)
    assert len(texts.classes) == 26 and 0.15 < texts.is_test_N.double().mean() < 0.25
    for ids, own, label in zip(texts.ids_NS, texts.read_NS, texts.label_N, strict=True):
        (word,) = tokenizer.convert_ids_to_tokens(ids[own].tolist())
        assert word[0].upper() == texts.classes[label]
        assert tokenizer.decode(ids[-5:].tolist()) == "has the first letter :"
    by_part = [{s.text[slice(*s.span)] for s in samples if s.is_test == part} for part in (0, 1)]
    assert not by_part[0] & by_part[1]
    inside = {
        line.split(" has")[0] for s in samples if s.is_test for line in s.text.split("\n")[1:]
    }
    assert inside <= by_part[1]


def test_the_library_has_kinds_of_tokens_and_packages_of_both_kinds_of_text() -> None:
    tokenizer = letters.tokenizer()
    kinds = [next(samples) for samples in [token_kind(tokenizer, 0)] for _ in range(60)]
    for sample in kinds:
        read = sample.text[slice(*sample.span)]
        assert sample.text.endswith(read)
        if sample.label in ("keyword", "name"):
            assert read.isidentifier()
        elif sample.label == "number":
            assert read[0].isdigit() or read[0] == "."
    cells = {(s.label, s.attribute) for s in stdlib_packages(tokenizer, 0)}
    assert len(cells) == 12
