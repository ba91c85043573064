"""Linear probes, as SAEBench 0.6 fits them to texts' means of latents or of activations."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from sae_dist.common.seeds import derive, generator
from sae_dist.evaluate.config import ProbesConfig
from sae_dist.evaluate.labelled import LabelledTexts


class Means(Protocol):
    """A matrix of texts and columns, of which a process may hold a part of the columns."""

    @property
    def width(self) -> int:
        """Of the whole."""

    @property
    def part(self) -> slice:
        """The columns that are here."""

    def times(self, rows_R: Tensor, W_DC: Tensor) -> Tensor:
        """Rows times this part's weights, over all parts [R, C]."""

    def columns(self, columns_K: Tensor) -> Tensor:
        """Columns of the whole [N, K]."""

    def difference(self, weight_N: Tensor) -> Tensor:
        """Of this part's columns the sums of all rows by their weights, in float64 [D]."""

    def largest(self, score_D: Tensor, k: int) -> Tensor:
        """The columns of the whole with the k largest scores."""


@dataclass(frozen=True, eq=False)
class Examples:
    """Rows of a matrix of means, and what is to be told of each [R] or [R, C], 0 or 1."""

    rows_R: Tensor
    is_so_R: Tensor

    def to(self, device: torch.device) -> "Examples":
        """There."""
        return Examples(self.rows_R.to(device), self.is_so_R.to(device))


@dataclass(frozen=True, eq=False)
class Split:
    """Examples to train on, and others to test on."""

    train: Examples
    test: Examples

    def to(self, device: torch.device) -> "Split":
        """There."""
        return Split(self.train.to(device), self.test.to(device))


def one_vs_rest(texts: LabelledTexts, label: int, config: ProbesConfig) -> Split:
    """A class against as many texts of the others, of each of which equally many are drawn.

    Where texts have an attribute, a class has equally many of each of its values.
    """
    parts = []
    for is_test, most in ((False, config.train_texts // 2), (True, config.test_texts // 2)):
        own_R = texts_of(texts, label, most, is_test=is_test)
        others = [
            texts_of(texts, other, most, is_test=is_test)
            for other in range(len(texts.classes))
            if other != label
        ]
        random = generator(config.seed, texts.name, texts.classes[label], str(is_test))
        each = math.ceil(len(own_R) / len(others))
        drawn = torch.cat([_permuted(rows_R, random)[:each] for rows_R in others])
        drawn = _permuted(drawn, random)[: len(own_R)]
        parts.append(against(own_R[: len(drawn)], drawn))
    return Split(*parts)


def texts_of(texts: LabelledTexts, label: int, most: int, *, is_test: bool) -> Tensor:
    """Up to so many texts of a class, equally many of each value of the attribute."""
    values = range(len(texts.attributes)) or (None,)
    cells = [texts.rows(is_test=is_test, label=label, attribute=value) for value in values]
    each = min(most // len(cells), *map(len, cells))
    return torch.cat([cell[:each] for cell in cells])


def against(positive_P: Tensor, negative_Q: Tensor) -> Examples:
    """Texts that are something, and others that are not."""
    is_so = torch.cat([torch.ones(len(positive_P)), torch.zeros(len(negative_Q))])
    return Examples(torch.cat([positive_P, negative_Q]), is_so)


def mean_difference(means: Means, examples: Examples, num_texts: int) -> Tensor:
    """Each column's mean over what is so less that over what is not, in float64 [D]."""
    is_so_R = examples.is_so_R.double()
    weight_N = torch.zeros(num_texts, dtype=torch.float64, device=is_so_R.device)
    weight_N[examples.rows_R] = is_so_R / is_so_R.sum() - (1 - is_so_R) / (1 - is_so_R).sum()
    return means.difference(weight_N)


def accuracies_of_few(
    means: Means, split: Split, ks: Sequence[int], num_texts: int
) -> dict[int, float]:
    """Test accuracies of logistic regression (L2, C = 1) on the k columns whose mean differs most.

    A k above the number of columns is left out.
    """
    ks = [k for k in ks if k <= means.width]
    far_D = mean_difference(means, split.train, num_texts).abs()
    best_NK = means.columns(means.largest(far_D, max(ks, default=0)))
    found = {}
    for k in ks:
        probe = logistic(best_NK[:, :k], split.train, max_iter=1000)
        x, y = _arrays(best_NK[:, :k], split.test)
        found[k] = float(probe.score(x, y))
    return found


def logistic(x_NK: Tensor, examples: Examples, **settings: Any) -> Any:
    """Scikit-learn's logistic regression, fitted."""
    from sklearn.linear_model import LogisticRegression  # slow to import

    return LogisticRegression(**settings).fit(*_arrays(x_NK, examples))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a probe is fitted by gradients.

    Attributes:
        optimizer: torch's.
        last_lr: that after all epochs, an exponential away from the first; None: the same.
        l1: of the weights, summed over columns.
        patience: so many epochs without a better test accuracy are the end; of all epochs the
            weights of the best are taken, as SAEBench does. None: those of the last.
        balance: whether what is so counts as much as what is not.
    """

    optimizer: type[torch.optim.Optimizer] = torch.optim.AdamW
    lr: float
    last_lr: float | None = None
    weight_decay: float = 0.01
    batch: int
    epochs: int
    l1: float = 0.0
    patience: int | None = None
    balance: bool = False


DENSE = Recipe(lr=1e-2, batch=250, epochs=100, patience=10)


@dataclass(frozen=True, eq=False)
class Probe:
    """Weights of the columns that are here [D, C], biases [C], and a test accuracy, if any."""

    W_DC: Tensor
    b_C: Tensor
    accuracy: float = math.nan

    def scores(self, means: Means, rows_R: Tensor) -> Tensor:
        """Above 0 where something is said to be so [R, C]."""
        return means.times(rows_R, self.W_DC) + self.b_C

    def accuracy_of(self, means: Means, examples: Examples) -> float:
        """The share of examples that are told rightly, of a probe of one column."""
        return accuracy(self.scores(means, examples.rows_R)[:, 0], examples)


def accuracy(score_R: Tensor, examples: Examples) -> float:
    """The share of examples whose score is above 0 where it is so, and elsewhere not."""
    return float(((score_R > 0) == examples.is_so_R.bool()).double().mean())


@torch.enable_grad()
def fit(
    means: Means, train: Examples, recipe: Recipe, seed: int, test: Examples | None = None
) -> Probe:
    """Fit probes of one vs the rest, all columns of `is_so` at once; the same on every mesh."""
    device = train.rows_R.device
    is_so_RC = train.is_so_R.view(len(train.rows_R), -1).float()
    random = torch.Generator().manual_seed(derive(seed, "probe"))
    reach = 1 / math.sqrt(means.width)  # torch.nn.Linear's
    whole_DC, b_C = (
        (2 * torch.rand(*shape, is_so_RC.shape[1], generator=random) - 1) * reach
        for shape in ((means.width,), ())
    )
    W_DC, b_C = (v.to(device, copy=True).requires_grad_() for v in (whole_DC[means.part], b_C))
    probe = Probe(W_DC, b_C)
    optimizer = recipe.optimizer(  # type: ignore[call-arg]
        [probe.W_DC, probe.b_C], lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    falls_by = (recipe.last_lr / recipe.lr) ** (1 / recipe.epochs) if recipe.last_lr else 1.0
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, falls_by)
    weight_C = (1 - is_so_RC).sum(0) / is_so_RC.sum(0) if recipe.balance else None
    best, waited = None, 0
    for _ in range(recipe.epochs):
        order_R = torch.randperm(len(is_so_RC), generator=random).to(device)
        for batch in order_R.split(recipe.batch):
            score_bC = probe.scores(means, train.rows_R[batch])
            loss = binary_cross_entropy_with_logits(score_bC, is_so_RC[batch], pos_weight=weight_C)
            if recipe.l1:
                loss = loss + recipe.l1 * probe.W_DC.abs().sum(0).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
        if test is not None:
            reached = probe.accuracy_of(means, test)
            waited += 1
            if best is None or reached > best.accuracy:
                best, waited = Probe(*_copies(probe), reached), 0
            if recipe.patience is not None and waited >= recipe.patience:
                break
    return best or Probe(*_copies(probe))


def _copies(probe: Probe) -> tuple[Tensor, Tensor]:
    return probe.W_DC.detach().clone(), probe.b_C.detach().clone()


def _arrays(x_NK: Tensor, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """What scikit-learn reads."""
    x_RK = x_NK[examples.rows_R].float().cpu().numpy()
    return x_RK, examples.is_so_R.cpu().numpy().astype(np.int64)


def _permuted(rows_R: Tensor, random: np.random.Generator) -> Tensor:
    return rows_R[torch.from_numpy(random.permutation(len(rows_R)))]
