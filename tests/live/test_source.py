"""The seam between a language model that runs and training."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from sae_dist.common.dtypes import FloatDtype
from sae_dist.common.errors import UserError
from sae_dist.live import FreshText, LiveStream
from sae_dist.live.units import Unit
from sae_dist.lm import Capture, resolve
from sae_dist.stream import BatchPart, HeldOutPart, StreamConfig
from sae_dist.text import TextConfig
from sae_dist.train import Preempted, ending_signals
from sae_dist.train.signals import begun
from tests.live.tiny import (
    BATCH,
    POSITIONS,
    SEQUENCES,
    SITE,
    STREAM,
    text_units,
    tiny_live,
    write_text,
)
from tests.lm.tiny import WIDTH, tiny_model

NUM = 25  # batches: more than an epoch


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text(tmp_path_factory.mktemp("live") / "text")


def given(text: Path, world: int = 1, num: int = NUM, start: int = 0) -> tuple:
    """(index, acts, epochs) of `num` global batches, put together from all ranks."""
    parts = []
    for rank in range(world):
        source = tiny_live(text)
        with source.batches([SITE], BatchPart(BATCH, 7, STREAM, rank, world, start)) as batches:
            found = list(islice(batches, num))
        assert [state.step for _, state in found] == list(range(start + 1, start + num + 1))
        index = torch.stack([batch.index for batch, _ in found])
        acts = torch.stack([batch.acts[SITE] for batch, _ in found])
        parts.append((index, acts))
    index, acts = (torch.cat(both, 1) for both in zip(*parts, strict=True))
    return index, acts, [state.epoch for _, state in found]


def by_hand(text: Path) -> torch.Tensor:
    """The activations of all positions of the text [T, D], pass by pass."""
    model = tiny_model("llama")
    capture = Capture(model, [resolve(model, SITE)])
    units = text_units(text, held_out=0).training()
    return torch.cat([capture(torch.from_numpy(unit.ids_NS))[SITE].flatten(0, 1) for unit in units])


def test_batches_hold_the_activations_of_their_tokens_and_epochs_follow(text: Path) -> None:
    index, acts, epochs = given(text)
    assert torch.equal(acts, by_hand(text)[index])
    assert epochs[0] == 0 and epochs[-1] >= 2 and sorted(epochs) == epochs
    per_epoch = epochs.index(1) + 1
    assert len(index[:per_epoch].unique()) == per_epoch * BATCH
    assert not (index // (SEQUENCES * POSITIONS) % 5 == 0).any()  # those are held out
    assert not (index % POSITIONS == 0).any()  # nor is the first token trained on


def test_two_worlds_see_the_same_tokens_and_activations(text: Path) -> None:
    for world in (2, 4):
        for one, other in zip(given(text), given(text, world), strict=True):
            assert one == other if isinstance(one, list) else torch.equal(one, other)


@pytest.mark.parametrize("start", [1, 3, 11, 24])
def test_going_on_is_bitwise_as_if_never_stopped(text: Path, start: int) -> None:
    index, acts, _ = given(text, num=NUM + 2)
    found = given(text, world=2, num=3, start=start - 1)
    assert torch.equal(found[0], index[start - 1 : start + 2])
    assert torch.equal(found[1], acts[start - 1 : start + 2])


def watch_passes(stream: LiveStream, seen: Callable[[int], object]) -> None:
    """Let `seen` hear of each unit before the language model does."""
    one_pass = stream._passes

    def watched(unit: Unit) -> dict:
        seen(unit.number)
        return one_pass(unit)

    for name in ("device", "dtype"):
        setattr(watched, name, getattr(one_pass, name))
    stream._passes = watched  # type: ignore[assignment]


def test_two_rounds_are_held_and_no_thread_is_left(text: Path) -> None:
    source = tiny_live(text)
    stream = source.batches([SITE], BatchPart(BATCH, 7, STREAM, 1, 2))
    assert stream.memory_bound == 2 * (STREAM.bucket_tokens // 2) * WIDTH * 4
    passed: list[int] = []
    before = threading.active_count()
    watch_passes(stream, passed.append)
    with stream as batches:
        for number, (_, state) in enumerate(batches):
            units = STREAM.bucket_tokens // (2 * SEQUENCES * POSITIONS)
            ahead = STREAM.batches_ahead + 2
            # two rounds at step 0, and after them no more than the steps given out leave room for
            assert len(passed) <= units * (2 + (number + ahead) // 5)
            if state.step == 12:
                break
    assert threading.active_count() == before


@pytest.mark.parametrize(("num_steps", "num_units"), [(1, 4), (4, 8), (9, 16)])
def test_no_more_is_passed_than_the_rounds_that_are_read(
    text: Path, num_steps: int, num_units: int
) -> None:
    part = BatchPart(BATCH, 7, STREAM, stop_step=num_steps)
    stream = tiny_live(text).batches([SITE], part)
    passed: list[int] = []
    watch_passes(stream, passed.append)
    with stream as batches:
        index = torch.stack([batch.index for batch, _ in batches])
    assert len(passed) == num_units  # of 28 tokens that may be trained on: half are dropped
    assert torch.equal(index[:num_steps], given(text, num=num_steps)[0])


def test_a_signal_ends_the_wait_for_the_first_round(
    text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sae_dist.train.signals._GRACE", 0.5)
    stream = tiny_live(text).batches([SITE], BatchPart(BATCH, 7, STREAM))
    passed, before = [], threading.active_count()

    def ask(unit: int) -> None:  # the second pass outlasts the signal's time, and is the last
        passed.append(unit)
        if len(passed) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            time.sleep(2)

    watch_passes(stream, ask)
    begun()  # as a run before it in this process leaves it
    with ending_signals() as asked_to_end, pytest.raises(Preempted, match="before the first step"):
        next(iter(stream))
    assert len(passed) == 2 and not asked_to_end()
    stream.close()
    assert threading.active_count() == before


def test_iterating_again_goes_on(text: Path) -> None:
    stream = tiny_live(text).batches([SITE], BatchPart(BATCH, 7, STREAM))
    found = []
    for _ in range(2):
        iterator = iter(stream)
        found += [batch.index for batch, _ in islice(iterator, 4)]
        stream.close()
    assert torch.equal(torch.stack(found), given(text, num=8)[0])
    assert stream.waited_seconds > 0


def test_held_out_units_come_whole_in_order_and_are_shared(text: Path) -> None:
    source = tiny_live(text)
    batches = list(source.held_out([SITE], HeldOutPart(batch_sequences=3)))
    numbers_N = torch.cat([batch.sequences for batch in batches])
    units_N = torch.arange(len(numbers_N)) // SEQUENCES
    assert torch.equal(numbers_N, 5 * SEQUENCES * units_N + torch.arange(len(units_N)) % SEQUENCES)
    expected = by_hand(text).view(-1, POSITIONS, WIDTH)
    for batch in batches:
        assert torch.equal(batch.acts[SITE], expected[batch.sequences])
    shared = [list(source.held_out([], HeldOutPart(part, 2, 9, 2))) for part in range(2)]
    assert [len(batch) for part in shared for batch in part] == [2, 2, 1, 2, 2]
    found_N = torch.cat([batch.sequences for part in shared for batch in part])
    assert torch.equal(found_N.sort().values, numbers_N[:9])
    assert all(not batch.acts for part in shared for batch in part)
    left = source.held_out([], HeldOutPart(0, 1, 9, 2, frozenset({0, 1, 2})))  # 2 is half a unit
    assert [batch.sequences.tolist() for batch in left] == [
        batch.sequences.tolist() for batch in source.held_out([], HeldOutPart(0, 1, 9, 2))
    ][2:]


def test_a_fresh_text_is_read_whole(text: Path) -> None:
    lm = tiny_live(text).lm
    config = TextConfig(path=str(text), sequence_length=POSITIONS)
    source = FreshText(lm, [SITE], config, 10, SEQUENCES)
    batches = list(source.held_out([SITE], HeldOutPart(batch_sequences=3)))
    assert torch.equal(torch.cat([batch.sequences for batch in batches]), torch.arange(10))
    acts_NSD = torch.cat([batch.acts[SITE] for batch in batches])
    assert torch.equal(acts_NSD, by_hand(text).view(-1, POSITIONS, WIDTH)[:10])
    other = FreshText(lm, [SITE], replace(config, exclude_prefix=2), 10, SEQUENCES)
    assert other.identity != source.identity and source.widths == {SITE: WIDTH}


def test_scale_and_first_weights_come_from_the_beginning(text: Path) -> None:
    source = tiny_live(text)
    index = torch.cat([unit_index(unit) for unit in text_units(text).training()])
    rows_ND = by_hand(text)[index]
    assert source.mean_square(SITE) == pytest.approx(float(rows_ND.square().sum(1).mean()), 0.01)
    assert source.mean_square(SITE) == float(f"{source.mean_square(SITE):.3g}")
    sample_ND = source.sample([SITE], 50, seed=0)[SITE]
    assert torch.equal(sample_ND, tiny_live(text).sample([SITE], 50, seed=0)[SITE])
    assert len(sample_ND) == 50 and torch.isin(sample_ND[:, 0], rows_ND[:, 0]).all()


def unit_index(unit: Unit) -> torch.Tensor:
    first = unit.number * SEQUENCES * POSITIONS
    return torch.from_numpy(unit.trainable_NS.ravel()).nonzero()[:, 0] + first


def test_identity_tells_language_model_text_and_settings_apart(text: Path, tmp_path: Path) -> None:
    same = tiny_live(text).identity
    assert same == tiny_live(text).identity
    others = [
        tiny_live(text, family="mistral"),
        tiny_live(text, num_tokens=640),
        tiny_live(text, held_out=0.25),
        tiny_live(text, dtype=FloatDtype.bfloat16),
    ]
    moved = write_text(tmp_path / "text")
    (moved / "0-000.txt").write_text("the b c saw")
    text.rename(tmp_path / "aside")
    moved.rename(text)
    try:
        others.append(tiny_live(text))
    finally:
        text.rename(moved)
        (tmp_path / "aside").rename(text)
    assert len({same, *(source.identity for source in others)}) == 6


def test_what_cannot_be_is_refused_in_one_line(text: Path) -> None:
    def batches(lanes: int = 4, batch: int = BATCH, world: int = 1) -> object:
        config = StreamConfig(lanes=lanes, bucket_tokens=256)
        return tiny_live(text).batches([SITE], BatchPart(batch, 0, config, 0, world))

    with pytest.raises(UserError, match="found 3 ranks for 4 lanes; expected a number that"):
        batches(world=3)
    with pytest.raises(UserError, match="batch_tokens=42 and lanes=4; expected a multiple"):
        batches(batch=42)
    with pytest.raises(UserError, match="does not give 40 lanes 100 tokens each"):
        next(iter(batches(lanes=40, batch=4000)))  # type: ignore[call-overload]
    with pytest.raises(UserError, match="no held-out sequences; train with harvest.writer.held"):
        next(tiny_live(text, held_out=0.0).held_out([SITE], HeldOutPart()))
    with pytest.raises(UserError, match="writer.dtype=int8 with store=live; expected bfloat16"):
        tiny_live(text, dtype=FloatDtype.int8)
    with pytest.raises(UserError, match="non_finite or max_norm with store=live; expected neither"):
        tiny_live(text, max_norm=10.0)


def test_an_activation_that_is_not_finite_ends_training_by_its_name(text: Path) -> None:
    source = tiny_live(text)
    source.lm.model.get_input_embeddings().weight.data[3:] = torch.inf
    stream = source.batches([SITE], BatchPart(BATCH, 0, STREAM))
    with stream, pytest.raises(UserError, match=rf"NaN or infinity at {SITE} at a trainable token"):
        next(iter(stream))
