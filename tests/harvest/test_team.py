from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from sae_dist.common.errors import UserError
from sae_dist.harvest import Processes, Text, join_launched_team, join_slices, join_team
from sae_dist.lm import Capture, LMConfig, load_sliced_lm, resolve, sliced_sites, truncate
from sae_dist.parallel import World
from sae_dist.store import StoreWriter, open_store, verify
from tests.harvest.test_harvest import whole
from tests.harvest.tiny import SITES, tiny_harvest
from tests.lm.test_load import save
from tests.lm.tiny import OPTIONS, tiny_ids_NS, tiny_model
from tests.processes import run_on

FAMILIES = [family for family in OPTIONS if family != "gpt2"]
NAMES = ("embed", "resid_pre.1", "mlp_in.1", "attn_z.1", "mlp_out.1", "resid_post.1")
HIDDEN = {"gpt_neox": "gpt_neox.layers.1.mlp.dense_4h_to_h.input"}
TOLERANCE = {"rtol": 1e-5, "atol": 2e-6}  # sums in another order, in float32


def names(family: str) -> list[str]:
    """Every short name, and the MLP's hidden layer."""
    return [*NAMES, HIDDEN.get(family, "model.layers.1.mlp.down_proj.input")]


def team_of_two(world: World, store: Path) -> Processes:
    """Leave the world that `run_on` made, and make teams of two."""
    dist.destroy_process_group()
    met = dist.FileStore(str(store), world.size)
    return join_team(2, world.device, met, world.rank, world.size)


def capture_of(folder: Path, wanted: list[str]) -> Capture:
    lm = load_sliced_lm(LMConfig(name=str(folder), tensor=2))
    sites = [resolve(lm.model, name) for name in wanted]
    join = dict.fromkeys(sliced_sites(lm.model, sites), join_slices)
    truncate(lm.model, sites)
    return Capture(lm.model, sites, join=join)


def captured(world: World, folder: Path) -> dict[str, dict[str, Tensor]]:
    team_of_two(world, folder / "rendezvous")
    return {
        family: {
            name: acts_NSD.clone()
            for name, acts_NSD in capture_of(folder / family, names(family))(tiny_ids_NS()).items()
        }
        for family in FAMILIES
    }


def test_two_processes_see_what_one_sees_in_every_family(tmp_path: Path) -> None:
    for family in FAMILIES:
        save(tmp_path / family, family)
    for by_family in run_on(2, captured, tmp_path):
        for family, acts in by_family.items():
            model = tiny_model(family)
            sites = [resolve(model, name) for name in names(family)]
            torch.testing.assert_close(acts, Capture(model, sites)(tiny_ids_NS()), **TOLERANCE)


def harvested(world: World, folder: Path) -> list[int]:
    """Harvest as one of two teams of two; the units that this process wrote."""
    processes = team_of_two(world, folder / "rendezvous")
    units = []
    write_unit = StoreWriter.write_unit

    def noting(writer: StoreWriter, unit: int, arrays: dict[str, np.ndarray]) -> bool:
        units.append(unit)
        return write_unit(writer, unit, arrays)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StoreWriter, "write_unit", noting)
        capture = capture_of(folder / "llama", list(SITES))
        tiny_harvest(folder / "store", processes=processes, capture=capture)
    return units


def test_teams_share_the_units_and_their_first_processes_write_them(tmp_path: Path) -> None:
    save(tmp_path / "llama")
    one, _, other, _ = found = run_on(4, harvested, tmp_path)
    assert sorted(one + other) == list(range(8))
    assert not found[1] and not found[3]
    assert verify(tmp_path / "store", full=True) == []
    tiny_harvest(tmp_path / "alone")
    for site in SITES:
        found, expected = (
            whole(open_store(path), site)[0] for path in (tmp_path / "store", tmp_path / "alone")
        )
        torch.testing.assert_close(found, expected, equal_nan=True, **TOLERANCE)


def led_by_one_without_text(world: World, folder: Path) -> str:
    """What each of two teams of two says when there is no text to be tokenised."""
    processes = team_of_two(world, folder / "rendezvous")

    def no_text(first: int, begin: object) -> Text:
        raise UserError("found no text")

    with pytest.raises(UserError) as failure:
        tiny_harvest(folder / "store", processes=processes, text=no_text)
    return str(failure.value)


def test_what_the_leader_of_a_team_fails_of_ends_all_teams(tmp_path: Path) -> None:
    found = run_on(4, led_by_one_without_text, tmp_path)
    assert all(said.endswith("found no text") for said in found)
    assert found[0] == "found no text" and found[2].startswith("the process that reads the text")
    assert all(said.startswith("the process that this one goes with") for said in found[1::2])


def test_sites_inside_an_mlp_are_refused_unless_a_matrix_ends_there() -> None:
    model = tiny_model("llama")
    inside = resolve(model, "model.layers.1.mlp.act_fn.output")
    with pytest.raises(UserError, match="act_fn.output, of which each process holds an unknown"):
        sliced_sites(model, [inside])
    others = ["model.layers.1.mlp.gate_proj.input", "model.layers.1.mlp.up_proj.output"]
    sites = [resolve(model, name) for name in (*others, "attn_z.0", "resid_post.1")]
    assert sliced_sites(model, sites) == {others[1], "attn_z.0"}


@pytest.mark.parametrize(
    ("family", "options", "said"),
    [
        ("gpt2", {"tensor": 2}, "type gpt2; expected one that transformers has a tp_plan for"),
        ("llama", {"tensor": 4}, r"\{'num_key_value_heads': 2\}; expected a divisor of each"),
        ("llama", {"tensor": 2, "fold_norms": True}, "expected no folding of slices"),
        ("llama", {"tensor": 2, "compile": True}, "lm.compile=true with lm.tensor=2; expected"),
    ],
)
def test_what_cannot_be_sliced_is_told_in_one_line(
    tmp_path: Path, family: str, options: dict[str, int], said: str
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        load_sliced_lm(LMConfig(name=str(save(tmp_path / "lm", family)), **options))
    assert "\n" not in str(caught.value)


def test_processes_that_make_no_whole_teams_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cpu")
    with pytest.raises(UserError, match="lm.tensor=2 and 3 processes; expected a multiple"):
        join_team(2, device, dist.HashStore(), 0, 3)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UserError, match="lm.tensor=2 and one process"):
        join_launched_team(2, device)
