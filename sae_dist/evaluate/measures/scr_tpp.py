"""Whether latents hold concepts apart: some of one are ablated, and probes tell what is lost."""

from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from sae_dist.common.declare import Axis, Figure, Mark, Plot
from sae_dist.evaluate.config import ProbesConfig
from sae_dist.evaluate.labelled import LabelledTexts
from sae_dist.evaluate.measure import Figures, Subject, TextMeasure
from sae_dist.evaluate.pooled import PooledTexts, SiteMeans
from sae_dist.evaluate.probing import (
    Examples,
    Probe,
    Recipe,
    Split,
    accuracy,
    against,
    fit,
    mean_difference,
    one_vs_rest,
)
from sae_dist.evaluate.topics import PROBES, SAEBENCH

PROBE = Recipe(lr=1e-3, batch=16, epochs=20, l1=1e-3)
LEAST_GAP = 0.001  # between accuracies, below which SCR is 0
_SHOWN = (10, 20)


class SCRAndTPP(TextMeasure):
    """Spurious correlation removal, and targeted probe perturbation.

    Probes read the mean of what the coder reconstructs; a latent's effect on one is w·d times the
    difference of its means. The n latents of the largest effects above 0 are set to 0, and the
    coder's error is added back: y - Σ f d of these. TPP: how much more the class's own probe loses
    than those of the other classes. SCR: a probe is trained where a class and an attribute go
    together; the latents of the one are ablated, and of the way from that probe's accuracy on the
    other to that of a probe without the correlation the share is told which is gained. Of every
    form; published of autoencoders alone, whose y is x.
    """

    name = "scr_tpp"
    settings = (*TextMeasure.settings, "probes.ablated")
    topic = PROBES
    group = "Concepts apart"
    source = SAEBENCH
    figures = (
        *(
            Figure(
                f"scr/top_{n}",
                f"SCR, n = {n}",
                "spurious correlation removal: (accuracy with n latents ablated − accuracy) / "
                "(accuracy of an unbiased probe − accuracy), of the direction in which the biased "
                "probe is worse; mean over pairs of classes",
                source=f"{SAEBENCH}: scr_metric_threshold_{n}",
                is_main=n == _SHOWN[0],
            )
            for n in _SHOWN
        ),
        *(
            Figure(
                f"tpp/top_{n}",
                f"TPP, n = {n}",
                "targeted probe perturbation: what a class’s probe loses in accuracy by its n "
                "latents, less what the others lose; mean over classes",
                source=f"{SAEBENCH}: tpp_threshold_{n}_total_metric",
                is_main=n == _SHOWN[0],
            )
            for n in _SHOWN
        ),
        Figure(
            "scr/score",
            "",
            "at the numbers of latents `n`; `class_by_attribute` where latents of the attribute "
            "are ablated and the class is told, `attribute_by_class` the reverse; `pairs` has each "
            "pair’s `score` with its `data` and `classes`; `left_out`: why there is none",
        ),
        Figure(
            "tpp/score",
            "",
            "at the numbers of latents `n`: `intended` less `unintended` loss; in `data` the "
            "`score` of each data set by its `name`",
        ),
    )
    plots = (
        Plot(
            "scr",
            Mark.LINE,
            "Spurious correlation removal",
            "Which share of a biased probe’s lost accuracy comes back when the n latents of the "
            "unwanted concept are ablated: 1 where all of it does.",
            source=SAEBENCH,
            x=Axis("latents ablated, n", "scr/n"),
            y=Axis("SCR", "scr/score", log=False, zero=True),
            panel="family_and_place",
            by_rung=True,
        ),
        Plot(
            "tpp",
            Mark.LINE,
            "Targeted probe perturbation",
            "How much accuracy a class’s probe loses when its n latents are ablated, beyond what "
            "the other classes’ probes lose.",
            source=SAEBENCH,
            x=Axis("latents ablated, n", "tpp/n"),
            y=Axis("TPP", "tpp/score", log=False, zero=True),
            panel="family_and_place",
            by_rung=True,
        ),
    )

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject)
        self._tpp: list[dict[str, Any]] = []
        self._scr: list[dict[str, Any]] = []

    def update(self, seen: PooledTexts) -> None:
        """Ablate latents of each class of a data set, and of each pair's class and attribute."""
        texts, config, device = seen.texts, self.subject.config.probes, self.subject.device
        splits = [one_vs_rest(texts, c, config).to(device) for c in range(len(texts.classes))]
        probes = seen.y.once("tpp", partial(_fit, seen.y, splits, config))
        self._tpp.append({"name": texts.name, **tpp(seen, splits, probes, self._ns)})
        for pair in pairs(texts, config):
            own = [split.to(device) for split in pair.splits]
            probes = seen.y.once(pair.classes, partial(_fit, seen.y, own, config))
            found = scr(seen, own, probes, self._ns)
            self._scr.append({"data": texts.name, "classes": list(pair.classes), **found})

    def conclude(self) -> Figures:
        """Means over the data sets, and over all pairs."""
        keys = "class_by_attribute", "attribute_by_class"
        scr = self._mean(self._scr, keys, "pairs") if self._scr else {"left_out": _NO_PAIRS}
        return {"scr": scr, "tpp": self._mean(self._tpp, ("intended", "unintended"), "data")}

    @property
    def _ns(self) -> list[int]:
        num_latents = self.subject.coder.config.num_latents
        return [n for n in self.subject.config.probes.ablated if n <= num_latents]

    def _mean(self, several: list[dict[str, Any]], keys: Sequence[str], parts: str) -> Figures:
        ns = self._ns
        found = {
            key: [fmean(at_n) for at_n in zip(*(one[key] for one in several), strict=True)]
            for key in ("score", *keys)
        }
        shown = {f"top_{n}": found["score"][ns.index(n)] for n in _SHOWN if n in ns}
        each = [{k: v for k, v in one.items() if k not in keys} for one in several]
        return {**shown, "n": ns, **found, parts: each}


_NO_PAIRS = "no data set has two classes with both values of an attribute, enough texts each"


class Pair:
    """Two classes A and B with an attribute of two values: three probes' examples.

    Attributes:
        classes: their names.
        splits: of the class (A or B, whatever the attribute), of the attribute (whatever the
            class), and of both together (A with the first value, B with the second).
    """

    def __init__(self, texts: LabelledTexts, places: tuple[int, int], config: ProbesConfig) -> None:
        self.classes = tuple(texts.classes[place] for place in places)
        sizes = (False, config.train_texts // 4), (True, config.test_texts // 4)
        of_parts = [_examples(texts, places, most, is_test=part) for part, most in sizes]
        self.splits = [Split(*both) for both in zip(*of_parts, strict=True)]

    @property
    def is_enough(self) -> bool:
        """Whether there are texts of all four, to train and to test on."""
        return all(len(e.rows_R) for split in self.splits for e in (split.train, split.test))


def _examples(
    texts: LabelledTexts, places: tuple[int, int], most: int, *, is_test: bool
) -> list[Examples]:
    """Of up to `most` texts of each class and value, twice as many where both go together."""
    a_first, a_second, b_first, b_second = (
        texts.rows(is_test=is_test, label=label, attribute=value)
        for label in places
        for value in (0, 1)
    )
    m = min(most, len(a_second), len(b_first), len(a_first) // 2, len(b_second) // 2)
    four = (a_first[:m], a_second[:m], b_first[:m], b_second[:m])
    return [
        against(torch.cat([four[0], four[1]]), torch.cat([four[2], four[3]])),
        against(torch.cat([four[0], four[2]]), torch.cat([four[1], four[3]])),
        against(a_first[: 2 * m], b_second[: 2 * m]),
    ]


def pairs(texts: LabelledTexts, config: ProbesConfig) -> list[Pair]:
    """The first and second class, the third and fourth, and so on, where they have an attribute."""
    if not texts.attributes:
        return []
    starts = range(0, len(texts.classes) - 1, 2)
    found = [Pair(texts, (start, start + 1), config) for start in starts]
    return [pair for pair in found if pair.is_enough]


def tpp(
    seen: PooledTexts, splits: Sequence[Split], probes: Sequence[Probe], ns: Sequence[int]
) -> dict[str, list[float]]:
    """By number of ablated latents the mean over classes of what probes lose.

    Args:
        splits, probes: of each class against the others.
    """
    ablation = Ablation(seen, probes)
    rows_R = torch.cat([split.test.rows_R for split in splits]).unique()
    clean_C = ablation.accuracies(rows_R, splits)
    found: dict[str, list[float]] = {"score": [], "intended": [], "unintended": []}
    effects = [
        ablation.effect(split.train, place, is_signed=True) for place, split in enumerate(splits)
    ]
    for n in ns:
        lost = [clean_C - ablation.accuracies(rows_R, splits, effect_F, n) for effect_F in effects]
        lost_CC = torch.stack(lost)  # by whose latents are ablated, and whose probe is asked
        own = float(lost_CC.diagonal().mean())
        num = len(splits)
        others = float((lost_CC.sum() - lost_CC.diagonal().sum()) / (num * (num - 1)))
        for key, value in (("score", own - others), ("intended", own), ("unintended", others)):
            found[key].append(value)
    return found


def scr(
    seen: PooledTexts, splits: Sequence[Split], probes: Sequence[Probe], ns: Sequence[int]
) -> dict[str, list[float]]:
    """By number of ablated latents the score in both directions, and in the harder one.

    Args:
        splits, probes: of a class, of an attribute, and of both together.
    """
    ablation = Ablation(seen, probes)
    _class, attribute, both = range(3)
    before, found = {}, dict[str, list[float]]()
    for name, told, ablated in (
        ("class_by_attribute", _class, attribute),
        ("attribute_by_class", attribute, _class),
    ):
        test = splits[told].test
        clean = probes[told].accuracy_of(seen.y, test)
        before[name] = probes[both].accuracy_of(seen.y, test)
        effect_F = ablation.effect(splits[ablated].train, ablated, is_signed=False)
        found[name] = []
        for n in ns:
            score_R = ablation.scores(test.rows_R, effect_F, n)[:, both]
            gained, gap = accuracy(score_R, test) - before[name], clean - before[name]
            found[name].append(0.0 if gap < LEAST_GAP else gained / gap)
    harder = min(before, key=lambda name: before[name])
    return {"score": found[harder], **found}


class Ablation:
    """What probes say of texts once some latents are set to 0.

    Args:
        probes: of what the coder reconstructs, one column each.
    """

    def __init__(self, seen: PooledTexts, probes: Sequence[Probe]) -> None:
        self._seen, self._coder = seen, seen.latents.coder
        self._W_EC = torch.cat([probe.W_DC for probe in probes], 1)
        self._b_C = torch.cat([probe.b_C for probe in probes])
        self._w_d_FC = self._coder.W_dec.detach().float() @ self._W_EC

    def effect(self, examples: Examples, probe: int, *, is_signed: bool) -> Tensor:
        """Each latent's effect on a probe, of this slice [F], in float64: the difference of its
        means, times w·d. Signed, it is of latents that what is so has more of; else its size.
        """
        far_F = mean_difference(self._seen.latents, examples, len(self._seen.texts))
        w_d_F = self._w_d_FC[:, probe].double()
        return far_F.clamp(min=0) * w_d_F if is_signed else (far_F * w_d_F).abs()

    def scores(self, rows_R: Tensor, effect_F: Tensor | None = None, n: int = 0) -> Tensor:
        """All probes' scores [R, C] without the n latents of the largest effects above 0."""
        score_RC = self._seen.y.times(rows_R, self._W_EC) + self._b_C
        if effect_F is None:
            return score_RC
        latents = self._seen.latents
        n = min(n, int(latents.axis.all_reduce((effect_F > 0).sum())))
        is_ablated_F = torch.zeros(latents.width, 1, device=rows_R.device)
        is_ablated_F[latents.largest(effect_F, n)] = 1
        return score_RC - latents.times(rows_R, self._w_d_FC * is_ablated_F[latents.part])

    def accuracies(
        self,
        rows_R: Tensor,
        splits: Sequence[Split],
        effect_F: Tensor | None = None,
        n: int = 0,
    ) -> Tensor:
        """Each probe's on its own class [C], whose tests are among the rows, which rise."""
        score_RC = self.scores(rows_R, effect_F, n)
        found = [
            accuracy(score_RC[torch.searchsorted(rows_R, split.test.rows_R), place], split.test)
            for place, split in enumerate(splits)
        ]
        return torch.tensor(found, dtype=torch.float64)


def _fit(y: SiteMeans, splits: Sequence[Split], config: ProbesConfig) -> list[Probe]:
    return [
        fit(y, split.train, PROBE, config.seed + place, split.test)
        for place, split in enumerate(splits)
    ]
