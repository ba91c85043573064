"""Texts with labels, as token ids: what probes are trained and tested on."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

import sae_dist.text as corpora  # lazily: what only declares needs no transformers
from sae_dist.common.errors import UserError
from sae_dist.common.seeds import generator
from sae_dist.evaluate.config import ProbesConfig, columns_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FEWEST = 10  # texts of a class; with an attribute of each of its values
_BATCH_TEXTS = 1024


@dataclass(frozen=True, slots=True)
class Sample:
    """A text, its class, and perhaps the value of an attribute.

    Attributes:
        span: the characters whose tokens are read, if not all: what comes before is cut first.
        is_test: where the split is given.
    """

    text: str
    label: str
    attribute: str | None = None
    span: tuple[int, int] | None = None
    is_test: bool | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelledTexts:
    """Labelled texts of one data set, drawn in an order that the seed fixes.

    Attributes:
        ids_NS, read_NS: BOS and each text's tokens, filled up at the end; those that are read.
        label_N: the place of each text's class in `classes`.
        attribute_N: likewise in `attributes`, of which there are two or none.
        is_test_N: whether a text is tested on or trained on.
    """

    name: str
    ids_NS: Tensor
    read_NS: Tensor
    classes: tuple[str, ...]
    label_N: Tensor
    attributes: tuple[str, ...]
    attribute_N: Tensor
    is_test_N: Tensor

    def __len__(self) -> int:
        return len(self.ids_NS)

    def rows(
        self, *, is_test: bool, label: int | None = None, attribute: int | None = None
    ) -> Tensor:
        """Places of the texts to train or to test on, of a class, with a value of the attribute."""
        chosen_N = self.is_test_N if is_test else ~self.is_test_N
        if label is not None:
            chosen_N = chosen_N & (self.label_N == label)
        if attribute is not None:
            chosen_N = chosen_N & (self.attribute_N == attribute)
        return chosen_N.nonzero().flatten()


def read_samples(data: str) -> Iterator[Sample]:
    """The rows of a .jsonl: `text`, the label, and the attribute where `data` names its column.

    Raises UserError for a file that cannot be read, or a row without these.
    """
    path, columns = columns_of(data)
    wanted = ("text", *columns)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not in UTF-8"
        raise UserError(
            f"found no labelled texts in {path} ({reason}); expected a .jsonl; correct probes.data"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            text, label, *attributes = (row[column] for column in wanted)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(
                f"found no {', '.join(wanted)} in {path}, line {number}; expected an object with "
                "these; mend it, or name the columns of labels: FILE:label,attribute"
            ) from error
        if text and None not in (label, *attributes):
            yield Sample(str(text), str(label), *map(str, attributes[:1]))  # type: ignore[arg-type]


def labelled_texts(
    name: str,
    samples: Iterable[Sample],
    tokenizer: "PreTrainedTokenizerBase",
    config: ProbesConfig,
    num_positions: int,
) -> LabelledTexts:
    """Draw, split and tokenise samples; classes with too few of them are left out.

    Of each class (with an attribute, of each class and value) half as many texts are taken as are
    to be trained and tested on; where there are fewer, in the same proportion.

    Raises UserError where fewer than two classes are left, and for a tokenizer that does not say
    which characters its tokens are, where that is needed.
    """
    known = list(dict.fromkeys(samples))
    attributes = _two_most_frequent(sample.attribute for sample in known)
    cells: dict[tuple[str, str | None], list[Sample]] = {}
    for sample in known:
        if not attributes or sample.attribute in attributes:
            cells.setdefault((sample.label, sample.attribute), []).append(sample)
    values = attributes or (None,)
    classes = sorted(
        label
        for label in {label for label, _ in cells}
        if all(_is_enough(cells.get((label, value), ())) for value in values)
    )
    if len(classes) < 2:
        raise UserError(
            f"found {len(classes)} classes of at least {_FEWEST} texts"
            f"{' with each attribute' * bool(attributes)} in {name}; expected two or more; give "
            "more texts, or leave it out of probes.data"
        )
    drawn = [
        sample
        for label in classes
        for value in values
        for sample in _drawn(cells[label, value], config, (name, label, value or ""))
    ]
    ids, read = _tokenised(drawn, tokenizer, num_positions)
    there = [number for number, own in enumerate(read) if any(own)]
    drawn = [drawn[number] for number in there]
    return LabelledTexts(
        name=name,
        ids_NS=_padded([ids[number] for number in there], _filler(tokenizer)),
        read_NS=_padded([read[number] for number in there], 0).bool(),
        classes=tuple(classes),
        label_N=torch.tensor([classes.index(sample.label) for sample in drawn]),
        attributes=attributes,
        attribute_N=torch.tensor(
            [attributes.index(s.attribute) if s.attribute in attributes else -1 for s in drawn]
        ),
        is_test_N=torch.tensor([bool(sample.is_test) for sample in drawn]),
    )


def _two_most_frequent(values: Iterable[str | None]) -> tuple[str, ...]:
    """In the order of their names; none where there are no two."""
    counts: dict[str, int] = {}
    for value in values:
        if value is not None:
            counts[value] = counts.get(value, 0) + 1
    most = sorted(counts, key=lambda value: (-counts[value], value))[:2]
    return tuple(sorted(most)) if len(most) == 2 else ()


def _is_enough(cell: Sequence[Sample]) -> bool:
    """Whether there are texts to train on and, where the split is given, to test on."""
    return len(cell) >= _FEWEST and len({sample.is_test for sample in cell} - {None}) != 1


def _drawn(cell: Sequence[Sample], config: ProbesConfig, of: tuple[str, ...]) -> list[Sample]:
    """Those taken of one class and value, in a drawn order, each told whether it is tested on."""
    if cell[0].is_test is not None:
        return list(cell)
    order = generator(config.seed, "labelled", *of).permutation(len(cell))
    most_test, most_train = config.test_texts // 2, config.train_texts // 2
    most = most_test + most_train
    taken = [cell[place] for place in order[:most]]
    num_test = max(1, round(len(taken) * most_test / most))
    return [replace(sample, is_test=place < num_test) for place, sample in enumerate(taken)]


def _tokenised(
    samples: Sequence[Sample], tokenizer: "PreTrainedTokenizerBase", num_positions: int
) -> tuple[list[list[int]], list[list[bool]]]:
    """Ids of each text, BOS first, and which of them are read."""
    special = set(corpora.special_ids(tokenizer).tolist())
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    room = num_positions - len(bos)
    if not tokenizer.is_fast and any(sample.span for sample in samples):
        raise UserError(
            "found a tokenizer that does not say where in a text its tokens are; expected a fast "
            "one of transformers for first_letter and token_kind; leave them out of probes.data"
        )
    all_ids, all_read = [], []
    for start in range(0, len(samples), _BATCH_TEXTS):
        batch = samples[start : start + _BATCH_TEXTS]
        found = tokenizer(
            [sample.text for sample in batch],
            add_special_tokens=False,
            return_offsets_mapping=any(sample.span for sample in batch),
            verbose=False,
        )
        for number, sample in enumerate(batch):
            ids = found["input_ids"][number]
            read = [id not in special for id in ids]
            if sample.span:
                begin, end = sample.span
                places = found["offset_mapping"][number]
                read = [r and a < end and b > begin for r, (a, b) in zip(read, places, strict=True)]
                ids, read = ids[-room:], read[-room:]
            all_ids.append([*bos, *ids[:room]])
            all_read.append([*(False for _ in bos), *read[:room]])
    return all_ids, all_read


def _filler(tokenizer: "PreTrainedTokenizerBase") -> int:
    """What is put after the end of a text, where no token before it sees it."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id, 0)
    return next(id for id in known if id is not None)


def _padded(rows: Sequence[Sequence[int]], filler: int) -> Tensor:
    found = np.full((len(rows), max(map(len, rows), default=0)), filler, dtype=np.int64)
    for number, row in enumerate(rows):
        found[number, : len(row)] = row
    return torch.from_numpy(found)
