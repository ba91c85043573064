"""Coders on the conversations of a finetune."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sae_dist.checkpoint.ranks import on_first_rank
from sae_dist.coders import Coder, save_coder
from sae_dist.common.errors import UserError
from sae_dist.evaluate import Candidate, TransferConfig, finished
from sae_dist.evaluate.conversations import Conversations, Prompt, converse
from sae_dist.evaluate.measures.transfer import (
    Trained,
    _OnParts,
    mean_norms,
    measure_on,
    transfer,
)
from sae_dist.lm import LM, next_token_loss_NS, resolve
from sae_dist.parallel import World, make_mesh
from sae_dist.store import open_store, write_store
from sae_dist.stream import HeldOutPart, StoredActivations
from tests.evaluate.made_up import subject_of
from tests.evaluate.test_evaluator import (
    CODERS,
    CPU,
    assert_same,
    evaluated,
    save_random_coders,
    undocumented,
)
from tests.evaluate.test_lm_loss import copying_coder, tiny_lm
from tests.evaluate.test_measures import mesh
from tests.harvest.tiny import SITES, tiny_harvest
from tests.lm.tiny import WIDTH
from tests.processes import alone, run_on

SPECIAL = [0, 3]
PROMPTS = [  # the user's prefix 0 1 2, the model's 3 4
    Prompt([0, 1, 2, *words, 3, 4], [False] * 3 + [True] * len(words) + [False, True])
    for words in ([10, 11, 12, 13], [14], [15, 16])
]
PLACES = ("base", "finetuned")
CONFIG = TransferConfig(sequences=7, rollout_tokens=5, batch_sequences=2, seed=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_coders(tmp_path_factory.mktemp("transfer") / "run")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("transfer") / "store"
    tiny_harvest(path)
    return path


def transferred(world: World, run: Path, store: Path, latent: int = 1, **change: Any) -> dict:
    source = StoredActivations(open_store(store))
    trained = [Trained(on, run, source) for on in PLACES]
    config = replace(CONFIG, **change)
    on_first_rank(None, lambda: shutil.rmtree(run / "evaluation", ignore_errors=True))
    return transfer(tiny_lm(), PROMPTS, SPECIAL, trained, config, make_mesh(world, latent, {}))


def by_name(found: dict[str, Any]) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each coder the rows by part."""
    rows: dict[str, dict[str, dict[str, Any]]] = {}
    for row in found["rows"]:
        rows.setdefault(row["name"], {})[row["part"]] = row
    return rows


def test_prompt_and_rollout_are_measured_and_nothing_else() -> None:
    talks = list(converse(tiny_lm(), PROMPTS, SPECIAL, CONFIG, mesh()))
    assert [len(talk.ids_NS) for talk in talks] == [2, 2, 2, 1]
    rows = [row for talk in talks for row in zip(talk.ids_NS, talk.part_NS, strict=True)]
    prompts = {tuple(prompt.ids): prompt.measured for prompt in PROMPTS}
    met = []
    for ids_S, part_S in rows:
        (prompt,) = (p for p in prompts if tuple(ids_S[: len(p)].tolist()) == p)
        met.append(prompt)
        start, end = len(prompt), len(prompt) + 5
        assert part_S[:start].tolist() == [int(measured) for measured in prompts[prompt]]
        said = ids_S[start:end].tolist()
        said = said[: said.index(0) + 1] if 0 in said else said  # 0 ends a turn
        expected = [0 if token in SPECIAL else 2 for token in said]
        assert part_S[start:].tolist() == expected + [0] * (len(part_S) - start - len(said))
    assert {met.count(prompt) for prompt in prompts} == {2, 3} and len(set(met[:3])) == 3
    assert len({tuple(ids_S.tolist()) for ids_S, _ in rows}) == 7  # each has a seed of its own


def test_rollouts_are_those_of_the_seed() -> None:
    def ids(**change: Any) -> list[list[int]]:
        config = replace(CONFIG, **change)
        talks = converse(tiny_lm(), PROMPTS, SPECIAL, config, mesh())
        return [row for talk in talks for row in talk.ids_NS.tolist()]

    assert ids() == ids() == ids(batch_sequences=3)
    assert ids(sequences=4) == ids()[:4]
    assert ids(seed=2) != ids() != ids(temperature=0.1)


def saved(folder: Path, site: str, coder: Coder) -> Path:
    save_coder(folder / "coders/copy", coder, coder.state_dict(), {"site": site, "target": site})
    return folder


@pytest.mark.parametrize(
    ("site", "width"), [(site, WIDTH) for site in (*SITES, "embed")] + [("attn_z.1", 48)]
)
def test_a_coder_that_copies_costs_nothing(tmp_path: Path, site: str, width: int) -> None:
    run = saved(tmp_path / "run", site, copying_coder(width))
    acts = {site: torch.randn(300, width, generator=torch.Generator().manual_seed(0))}
    store = write_store(tmp_path / "store", acts, chunk_mib=0.005, shard_mib=0.01, held_out=0.3)
    trained = [Trained("base", run, StoredActivations(store))]
    found = transfer(tiny_lm(), PROMPTS, SPECIAL, trained, CONFIG, mesh())
    copy = by_name(found)["copy"]
    for part in ("prompt", "rollout"):
        factors = copy[part]["rescaled_by"]
        assert factors["input"] == factors["target"] != 1
        for variant in ("", "_rescaled"):
            assert copy[part][f"delta_loss{variant}"] == pytest.approx(0, abs=1e-5)
            assert copy[part][f"fvu{variant}"] == pytest.approx(0, abs=1e-9)
            assert copy[part][f"l0{variant}"] == pytest.approx(width, rel=1e-2)


def test_the_clean_loss_is_that_of_each_parts_predicted_tokens(run: Path, store: Path) -> None:
    found = transferred(alone(), run, store)
    sums, counts = torch.zeros(3), torch.zeros(3)
    for talk in converse(tiny_lm(), PROMPTS, SPECIAL, CONFIG, mesh()):
        loss_NS = next_token_loss_NS(tiny_lm().model, talk.ids_NS)
        sums.index_add_(0, talk.part_NS[:, 1:].flatten(), loss_NS.flatten())
        counts.index_add_(0, talk.part_NS[:, 1:].flatten(), torch.ones(loss_NS.numel()))
    for place, part in ((1, "prompt"), (2, "rollout")):
        assert found["clean_loss"][part] == pytest.approx(float(sums[place] / counts[place]), 1e-5)
        assert found[f"{part}_tokens"] == counts[place]
        tokens = {row["tokens"] for row in found["rows"] if row["part"] == part}
        assert tokens == {int(counts[place])}


def held_out(source: StoredActivations) -> list[Conversations]:
    """The base's own held-out text as if it were rollouts."""
    return [
        Conversations(batch.input_ids, 2 * batch.trainable.long())
        for batch in source.held_out([], HeldOutPart(batch_sequences=4))
    ]


def coders_of(run: Path, source: StoredActivations) -> list[tuple[Trained, Candidate]]:
    trained = Trained("base", run, source)
    return [(trained, candidate) for candidate in finished(run, CPU)]


def test_a_finetune_that_is_the_base_has_the_bases_figures(run: Path, store: Path) -> None:
    source = StoredActivations(open_store(store))
    lm, config = tiny_lm(), TransferConfig(sequences=100)
    found = measure_on(lm, coders_of(run, source), held_out(source), config, mesh())
    expected = evaluated(alone(), run, store, batch_tokens=4096)
    assert found["clean_loss"]["rollout"] == pytest.approx(expected["clean_loss"], rel=1e-6)
    for name, rung in by_name(found).items():
        assert list(rung["rollout"]["rescaled_by"].values()) == pytest.approx([1, 1], rel=1e-6)
        for figure in ("l0", "fvu", "delta_loss"):
            for variant in ("", "_rescaled"):
                close = pytest.approx(expected["rungs"][name][figure], rel=1e-5, abs=1e-6)
                assert rung["rollout"][figure + variant] == close, (name, figure, variant)


def test_some_rungs_alone_are_measured_of_both_runs(run: Path, store: Path) -> None:
    names = sorted(by_name(transferred(alone(), run, store, rungs=["jumprelu*"])))
    every = by_name(transferred(alone(), run, store))
    assert names == sorted(name for name in every if "jumprelu" in name) != sorted(every)
    with pytest.raises(UserError, match="rungs=none; expected rungs of run"):
        transferred(alone(), run, store, rungs=["none"])


def test_rescaling_undoes_what_a_finetune_did_to_the_norm(run: Path, store: Path) -> None:
    source = StoredActivations(open_store(store))
    lm, config = tiny_lm(), TransferConfig(sequences=100)
    site = resolve(lm.model, "resid_post.1")
    lm.model.get_submodule(site.module_path).register_forward_hook(lambda m, a, y: 2 * y)
    coders = [both for both in coders_of(run, source) if both[1].site == "resid_post.1"]
    found = by_name(measure_on(lm, coders, held_out(source), config, mesh()))
    expected = evaluated(alone(), run, store, batch_tokens=4096)["rungs"]
    for name in ("jumprelu", "jumprelu-wide"):
        part = found[name]["rollout"]
        assert part["rescaled_by"] == pytest.approx({"input": 0.5, "target": 0.5}, rel=1e-6)
        assert part["fvu_rescaled"] == pytest.approx(expected[name]["fvu"], rel=1e-5)
        assert part["l0_rescaled"] == pytest.approx(expected[name]["l0"], rel=1e-5)
        assert part["l0"] > part["l0_rescaled"] and part["fvu"] != part["fvu_rescaled"]


def test_a_rescaled_coder_is_one_between_two_factors() -> None:
    coder = copying_coder()
    coder.b_dec.fill_(1.0)
    x_NSD = torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(0))
    at = {"site": "embed", "target": "embed"}
    rescaled = _OnParts(tiny_lm(), subject_of(coder, **at), a=0.5, b=0.25)
    torch.testing.assert_close(rescaled.replace(x_NSD, x_NSD), (0.5 * x_NSD + 1) / 0.25)
    seen = rescaled.run_coder({"embed": x_NSD}, torch.ones(2, 3, dtype=torch.bool))
    torch.testing.assert_close(seen.y_BE, 0.25 * x_NSD.flatten(0, 1))
    torch.testing.assert_close(seen.reconstruction_BE, 0.5 * x_NSD.flatten(0, 1) + 1)


def test_the_mean_norm_is_over_measured_tokens() -> None:
    x_NSD = torch.tensor([[[3.0, 4.0], [1e9, 0.0]], [[0.0, 0.0], [0.0, -7.0]]])
    measured_NS = torch.tensor([[True, False], [True, True]])
    passed = [({"a": x_NSD[rows]}, measured_NS[rows]) for rows in ([0], [1])]
    assert mean_norms(passed, ["a"], mesh(), CPU) == {"a": 4.0}


def on_a_mesh(world: World, run: Path, store: Path, settings: dict) -> dict:
    return transferred(world, run, store, **settings)


def test_a_mesh_gives_the_same_figures(run: Path, store: Path) -> None:
    expected = transferred(alone(), run, store)
    json.dumps(expected, allow_nan=False)
    assert undocumented(expected, set(CODERS)) == set()
    assert list(by_name(expected)) == [*sorted(CODERS), *(f"run/{n}" for n in sorted(CODERS))]
    for found in run_on(4, on_a_mesh, run, store, {"latent": 2}):
        assert_same(found, expected)


def test_a_process_without_conversations_takes_part(run: Path, store: Path) -> None:
    expected = transferred(alone(), run, store, sequences=2)
    for found in run_on(2, on_a_mesh, run, store, {"sequences": 2}):
        assert_same(found, expected)


def test_what_is_there_is_not_rolled_out_again(
    run: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = transferred(alone(), run, store)
    trained = [Trained(on, run, StoredActivations(open_store(store))) for on in PLACES]
    monkeypatch.setattr("sae_dist.evaluate.measures.transfer.converse", None)
    assert transfer(tiny_lm(), PROMPTS, SPECIAL, trained, CONFIG, mesh()) == expected
    with pytest.raises(TypeError):  # another seed has other rollouts
        transfer(tiny_lm(), PROMPTS, SPECIAL, trained, replace(CONFIG, seed=2), mesh())


def silent(lm: LM) -> LM:
    """A language model that says 0, which ends a turn, and nothing else."""

    def say_0(module: object, args: object, logits_NSV: Tensor) -> Tensor:
        return logits_NSV.index_fill(2, torch.tensor([0]), 1e4)

    lm.model.lm_head.register_forward_hook(say_0)
    return lm


@pytest.mark.parametrize(
    ("lm", "change", "said"),
    [
        (tiny_lm(), {"rollout_tokens": 10**6}, "found sequences of up to 1000009 tokens"),
        (tiny_lm(), {"temperature": 0.0}, "transfer.temperature=0.0; expected more than 0"),
        (tiny_lm(), {"sequences": 0}, "transfer.sequences=0; expected at least 1"),
        (silent(tiny_lm()), {}, "found 0 tokens of rollouts that are not special"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    run: Path, store: Path, lm: LM, change: dict[str, Any], said: str
) -> None:
    trained = [Trained("base", run, StoredActivations(open_store(store)))]
    with pytest.raises(UserError, match=said):
        transfer(lm, PROMPTS, SPECIAL, trained, replace(CONFIG, **change), mesh())


def test_a_finetune_of_another_width_is_refused(tmp_path: Path, store: Path) -> None:
    run = save_random_coders(tmp_path / "run", width=WIDTH + 1)
    trained: Sequence[Trained] = [Trained("base", run, StoredActivations(open_store(store)))]
    with pytest.raises(UserError, match="of width 32 in tiny; expected 33, as coder batchtopk"):
        transfer(tiny_lm(), PROMPTS, SPECIAL, trained, CONFIG, mesh())
