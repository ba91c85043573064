"""Corruption never trains: it is found when a store is opened, verified or read."""

import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from sae_dist.common.errors import UserError
from sae_dist.store import Store, open_store, verify
from tests.harvest.tiny import SITES, tiny_harvest
from tests.store.damage import KINDS, damage


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sites and eight units: 46 shard files, 9 of metadata, the seal and its copy."""
    path = tmp_path_factory.mktemp("whole") / "store"
    tiny_harvest(path)
    return path


def read_all(store: Store) -> dict[str, bytes]:
    """All that training and evaluation can read, by array and chunk, or unit."""
    found: dict[str, bytes] = {}
    for chunk in range(len(store.chunk_rows)):
        found |= {f"{site} {chunk}": store.read_rows(site, chunk).tobytes() for site in SITES}
        found |= {f"index {chunk}": store.read_index(chunk).tobytes()}
    for held in store.held_out:
        found |= {f"{s} of {held}": store.read_sequences(s, held).tobytes() for s in SITES}
    for unit in range(store.layout.num_units):
        tokens = store.read_tokens(store.layout.sequences_of(unit))
        found |= {f"{i} of unit {unit}": array.tobytes() for i, array in enumerate(tokens)}
    return found


def first_seen(root: Path, paths: list[Path], expected: dict[str, bytes]) -> str:
    """Where a damage shows first; without it, what is read is what was written."""

    def named(error: pytest.ExceptionInfo[UserError] | UserError) -> bool:
        return any(str(path.relative_to(root)) in str(error) for path in paths)

    assert {fault.path for fault in verify(root, full=True)} == set(paths)
    fast = {fault.path for fault in verify(root)}
    assert fast <= set(paths)
    try:
        store = open_store(root)
    except UserError as error:
        assert named(error)
        assert fast
        return "opening"
    try:
        assert read_all(store) == expected
    except UserError as error:
        assert named(error)
        return "reading"
    return "fast" if fast else "full"


def count_faults(whole: Path, root: Path, number: int, seed: int) -> Counter[tuple[str, str]]:
    """Damage a copy in `number` ways, one after the other; where each kind showed first."""
    shutil.copytree(whole, root)
    expected = read_all(open_store(root))
    assert verify(root, full=True) == []
    dice, counts = random.Random(seed), Counter[tuple[str, str]]()
    for index in range(number):
        kind = KINDS[index % len(KINDS)]
        paths, undo = damage(root, kind, dice)
        counts[kind, first_seen(root, paths, expected)] += 1
        undo()
    assert verify(root, full=True) == []
    assert read_all(open_store(root)) == expected
    return counts


def test_corruption_never_trains(whole: Path, tmp_path: Path) -> None:
    counts = count_faults(whole, tmp_path / "store", 40, seed=0)
    assert counts.total() == 40 and len({kind for kind, _ in counts}) == len(KINDS)


@pytest.mark.slow
def test_a_thousand_corruptions_are_all_named(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    counts = count_faults(whole, tmp_path / "store", 1000, seed=1)
    places = ("opening", "reading", "fast", "full")
    with capsys.disabled():
        print(f"\n{'1,000 faults, found first at':30}" + "".join(f"{p:>9}" for p in places))
        for kind in KINDS:
            print(f"{kind:30}" + "".join(f"{counts[kind, place]:9}" for place in places))
    assert counts.total() == 1000
