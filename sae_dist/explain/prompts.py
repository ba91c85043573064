"""What explainers and judges are told, after the protocol of Paulo et al. (2024, 2025)."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from sae_dist.explain.examples import Sample, Window
from sae_dist.explain.questions import Levels, Question, Sentence

OPEN, CLOSE = "«", "»"
_MARKED_FROM = 0.3  # of a window's largest activation (delphi)
_PEAK_FROM = 0.01  # of the latent's (SAEBench)
SCALE = 10  # on which activations are told

_EXPLAIN = """\
You are studying one latent of a language model, which is active on some tokens and silent on all
others. Below are passages in which it is active. The tokens on which it is strong are set in
« ». The line below each passage lists all its active tokens with their strength from 1 to 10.
Say in one short sentence what these tokens, or the passages around them, have in common, so that
somebody who has not seen them could tell where else the latent is active. Do not list passages, and
do not mention the marks. Answer with that sentence alone."""

_EXPLAIN_PEAKS = """\
You are studying one latent of a language model, which is active on some tokens and silent on all
others. Below are passages, the strongest first, in which the active tokens are set in « ». Say in
at most 20 words what the latent is active on: as simply as possible, covering most of the marked
tokens. Answer with those words alone."""

_DETECT = """\
You are told what a latent of a language model is said to be active on, and then some numbered
passages. For each passage judge whether the latent would be active somewhere in it: 1 if it would,
0 if not. Answer with one line a passage, its number, a tab and your judgement, and nothing else."""

_FUZZ = """\
You are told what a latent of a language model is said to be active on, and then some numbered
passages, in each of which some tokens are set in « ». For each passage judge whether these are
tokens on which the latent would be active: 1 if they are, 0 if the marks are in the wrong place.
Answer with one line a passage, its number, a tab and your judgement, and nothing else."""

_SIMULATE = """\
You are told what a latent of a language model is said to be active on, and then the tokens of a
passage, one a line. For each token say how active the latent would be on it, from 0 (not at all,
as on most tokens) to {most}. Answer with one line a token in the same order: the token, a tab and
the number, and nothing else."""

# (explanation, passages with marks, whether the latent is active there)
_DEMO = (
    "words for colours",
    (
        ("The door had been painted «red» years ago, and then forgotten.", 1),
        ("She filed the minutes «of» the meeting before noon.", 0),
        ("a pale «blue» scarf over a «grey» coat, and no hat", 1),
        ("Prices rose by two «percent» in the third quarter.", 0),
        ("return the «largest» of the two values, or raise an error", 0),
    ),
)
_DEMO_EXPLAINED = (
    """\
The door had been painted« red» years ago.
 red 9

a pale« blue» scarf over a« grey» coat
 blue 10, grey 6, scarf 1""",
    "words for colours",
)
_DEMO_TOKENS = (
    ("a", " pale", " blue", " scarf", " over", " a", " grey", " coat"),
    (0, 0.1, 1.0, 0.1, 0, 0, 0.8, 0),
)


def explain(sample: Sample) -> Question:
    """Ask what a latent fires on, from windows of all quantiles and its activations in them."""
    passages = (f"{_marked(w)}\n{_strengths(w, sample.max)}" for w in sample.explained)
    return Question(
        task=_EXPLAIN,
        demos=(_DEMO_EXPLAINED,),
        prompt="\n\n".join(passages),
        form=Sentence(),
        truth=_said_plainly(sample.explained),
    )


def explain_peaks(sample: Sample) -> Question:
    """Ask it from windows around peaks, as SAEBench does: without activations."""
    limit = _PEAK_FROM * sample.max
    passages = (f"{i}. {marked(w, w.values > limit)}" for i, w in enumerate(sample.peaks, 1))
    return Question(
        task=_EXPLAIN_PEAKS,
        prompt="\n".join(passages),
        form=Sentence(30),
        truth=_said_plainly(sample.peaks),
    )


def judge(
    explanation: str, passages: Sequence[str], truth: Sequence[bool], *, marked: bool = False
) -> Question:
    """Ask of each passage whether the latent is active in it, or on what is marked there."""
    task, shown = (_FUZZ if marked else _DETECT), len(passages)
    said, given = _DEMO
    demos = (given[i : i + shown] for i in range(0, len(given), shown))
    return Question(
        task=task,
        demos=tuple(
            (
                _numbered(said, [text if marked else _unmarked(text) for text, _ in demo]),
                _judged(demo).write([value for _, value in demo]),
            )
            for demo in demos
        ),
        prompt=_numbered(explanation, passages),
        form=_judged(passages),
        truth=[float(one) for one in truth],
    )


def simulate(explanation: str, window: Window, most: float, scale: int) -> Question:
    """Ask how active the latent is on each token, on a `scale` on which `most` is the end."""
    words, values = _DEMO_TOKENS
    demo = Levels(_lines(words), scale)
    form = Levels(_lines(window.words), scale)
    return Question(
        task=_SIMULATE.format(most=scale),
        demos=((_listed(_DEMO[0], demo), demo.write([round(scale * v) for v in values])),),
        prompt=_listed(explanation, form),
        form=form,
        truth=[scale * float(value) / most for value in window.values],
    )


def is_marked(window: Window) -> np.ndarray:
    """The tokens on which a latent is strong there, bool [w]."""
    return (window.values > 0) & (window.values >= _MARKED_FROM * window.max)


def is_active_at_peak(window: Window, most: float) -> bool:
    """Whether a latent whose largest activation is `most` counts as active there."""
    return window.max > _PEAK_FROM * most


def marked(window: Window, marks: np.ndarray) -> str:
    """A passage with some tokens marked, neighbours together."""
    parts = []
    for i, word in enumerate(window.words):
        before, after = (0 <= j < len(marks) and marks[j] for j in (i - 1, i + 1))
        opening = OPEN if marks[i] and not before else ""
        parts.append(f"{opening}{word}{CLOSE if marks[i] and not after else ''}")
    return _in_one_line("".join(parts))


def plain(window: Window) -> str:
    """A passage as it is."""
    return _in_one_line("".join(window.words))


def _marked(window: Window) -> str:
    return marked(window, is_marked(window))


def _strengths(window: Window, most: float) -> str:
    levels = np.ceil(SCALE * window.values / most).astype(int)
    told = zip(window.words, levels, window.values, strict=True)
    return ", ".join(f"{_in_one_line(word)} {level}" for word, level, value in told if value > 0)


def _said_plainly(windows: Sequence[Window]) -> str:
    """Up to ten tokens that are marked, the most frequent first."""
    words = Counter(str(w) for window in windows for w in np.array(window.words)[is_marked(window)])
    told = sorted(words, key=lambda word: (-words[word], word))[:10]
    return f"the tokens {', '.join(map(repr, told))}"


def _numbered(explanation: str, passages: Sequence[str]) -> str:
    told = (f"{i}\t{text}" for i, text in enumerate(passages, 1))
    return "\n".join([f"The latent is said to be active on: {explanation}", "", *told])


def _judged(passages: Sequence[object]) -> Levels:
    return Levels(tuple(str(i) for i in range(1, len(passages) + 1)))


def _listed(explanation: str, form: Levels) -> str:
    return "\n".join([f"The latent is said to be active on: {explanation}", "", *form.labels])


def _lines(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(_in_one_line(word) for word in words)


def _unmarked(text: str) -> str:
    return text.replace(OPEN, "").replace(CLOSE, "")


def _in_one_line(text: str) -> str:
    return text.replace("\n", "↵").replace("\r", "").replace("\t", "→")
