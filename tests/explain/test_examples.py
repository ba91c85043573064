"""Windows are drawn as the protocol says."""

from dataclasses import replace

import numpy as np
import pytest

from sae_dist.common.errors import UserError
from sae_dist.explain import Examples, ExamplesConfig, Planted, prompts
from sae_dist.explain.examples import words_of
from sae_dist.latents import Latents
from tests.explain.made_up import LATENTS, LENGTH, tokenizer, word
from tests.harvest.tiny import tokenizer as byte_pairs

CONFIG = ExamplesConfig()


@pytest.fixture(scope="module")
def sample(watched: Latents):
    found = Examples(watched, tokenizer(), CONFIG, 0).of(LATENTS[0])
    assert found is not None
    return found


def test_each_quantile_gives_as_many_to_explain_and_to_judge_and_none_is_both(sample) -> None:
    assert [w.quantile for w in sample.explained] == [q for q in range(10) for _ in range(4)]
    counts = np.bincount([w.quantile + 1 for w in sample.judged])
    assert counts.tolist() == [50] + [5] * 10
    starts = [w.start for w in (*sample.explained, *sample.judged)]
    assert len(set(starts)) == len(starts) == 140
    assert all(start % LENGTH % 32 == 0 for start in starts)


def test_quantiles_are_ranges_of_the_largest_activation(sample) -> None:
    windows = [w for w in (*sample.explained, *sample.judged) if w.quantile >= 0]
    for quantile in range(9):
        own = [w.max for w in windows if w.quantile == quantile]
        below = [w.max for w in windows if w.quantile == quantile + 1]
        assert min(own) >= max(below)
    assert all((w.max == 0) == (w.quantile < 0) for w in sample.judged)


def test_a_window_has_the_tokens_and_activations_of_its_place(watched: Latents, sample) -> None:
    tokens, values = watched.fired(LATENTS[0])
    dense = np.zeros(watched.token_ids_NS.size, np.float32)
    dense[tokens] = values
    ids = watched.token_ids_NS.ravel()
    for window in (*sample.explained, *sample.judged, *sample.peaks, *sample.judged_peaks):
        place = slice(window.start, window.start + len(window.words))
        assert np.array_equal(window.values, dense[place])
        assert "".join(window.words).split() == [word(i) for i in ids[place]]


def test_the_order_of_what_is_judged_says_nothing_and_follows_from_the_seed(
    watched: Latents, sample
) -> None:
    def starts(seed: int) -> list[int]:
        found = Examples(watched, tokenizer(), CONFIG, seed).of(LATENTS[0])
        return [window.start for window in found.judged]

    assert starts(0) == [w.start for w in sample.judged] != starts(1)
    first_half = sum(w.quantile >= 0 for w in sample.judged[:50])
    assert 15 < first_half < 35


def test_windows_around_peaks_are_saebenchs(watched: Latents, sample) -> None:
    assert (len(sample.peaks), len(sample.judged_peaks)) == (15, 14)
    windows = [*sample.peaks, *sample.judged_peaks]
    assert all(len(w.words) == 21 and w.start % LENGTH + 21 <= LENGTH for w in windows)
    starts = sorted(w.start for w in windows)
    assert min(np.diff(starts)) >= 21
    centres = [w.values[10] for w in windows]
    assert sum(centre >= 0.95 * sample.max for centre in centres) >= 12
    assert [w.max for w in sample.peaks] == sorted((w.max for w in sample.peaks), reverse=True)


def test_a_latent_with_too_few_windows_or_in_nearly_all_is_left_out(watched: Latents) -> None:
    examples = Examples(watched, tokenizer(), replace(CONFIG, min_windows=600), 0)
    assert examples.of(LATENTS[0]) is None and not examples.has_enough(LATENTS[0])
    assert Examples(watched, tokenizer(), CONFIG, 0).of(0) is None  # each second token
    with pytest.raises(UserError, match="expected at most 128"):
        Examples(watched, tokenizer(), replace(CONFIG, window=129), 0)


def test_the_words_of_a_window_are_its_text_and_a_split_character_stands_at_its_end() -> None:
    ids = byte_pairs()("the b saw one b of the w")["input_ids"]
    assert "".join(words_of(byte_pairs(), ids)) == byte_pairs().decode(ids)

    class Halves:
        """Two tokens a character."""

        @staticmethod
        def decode(ids, **_):
            return "é" * (len(ids) // 2) + "�" * (len(ids) % 2)

    assert words_of(Halves(), [1, 2, 3, 4, 5]) == ("", "é", "", "é", "�")


def test_marks_join_neighbours_and_leave_weak_tokens_out(sample) -> None:
    window = replace(
        sample.judged[0], words=("a", " b", " c", "\n"), values=np.float32([0.2, 1, 2, 0])
    )
    assert prompts.marked(window, prompts.is_marked(window)) == "a« b c»↵"


def test_planted_latents_fire_on_their_token_and_say_so(watched: Latents) -> None:
    class Words:
        @staticmethod
        def decode(ids, **_):
            return " ".join("word" if i % 2 else "7" for i in ids)

    planted = Planted(watched, Words())
    tokens, values = planted.fired(9)
    assert (watched.token_ids_NS.ravel()[tokens] == 9).all() and (values == 1).all()
    assert planted.fired_F[9] == len(tokens) > 0 and planted.fired_F[8] == 0
    assert planted.explanation(9) == "the token 'word'"
