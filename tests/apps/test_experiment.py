"""Experiments: what they stand for, and that each composes, is laid out and planned."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sae_dist.apps import cli, experiment, plan
from sae_dist.apps.rungs import expand
from sae_dist.common.errors import UserError
from sae_dist.config import HarvestConfig, TrainConfig, conf_folder
from sae_dist.plan import MachineConfig, table, to_dict
from tests.lm.tiny import tiny_model

FILES = [  # those that harvest; the others read what is there
    path
    for path in sorted((conf_folder() / "experiment").glob("*.yaml"))
    if "harvest" in yaml.safe_load(path.read_text(encoding="utf-8"))
]
MACHINE = MachineConfig(disk_free_gb=1e9)


def composed(name: str, *overrides: str) -> tuple[HarvestConfig, TrainConfig]:
    asked = [f"+experiment={name}", *overrides]
    configs = [cli.to_dataclass(cli.compose_config(root, asked)) for root in ("harvest", "train")]
    return configs[0], configs[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_composes_and_is_planned(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = MACHINE
    if path.stem == "quickstart":  # of two CPU cores, whose LM is trained first
        machine = replace(MACHINE, devices=2)
        monkeypatch.chdir(tmp_path)
        tiny_model("llama").save_pretrained(tmp_path / "runs/quickstart/lm")
    said = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert said["harvest"]["store"] == said["train"]["store"]
    assert said["train"]["run"] == path.stem
    made = plan.make_plan([f"+experiment={path.stem}"], machine, [])
    names = {rung.name for rung in made.training.rungs}
    assert len(names) == len(made.training.rungs) > 0
    assert made.size.widths.keys() == set(said["harvest"]["sites"])
    harvested = made.harvest.layout.num_sequences * made.harvest.layout.sequence_length
    assert made.training.num_tokens <= 1.001 * harvested
    assert made.warnings == []  # with enough disk it all fits eight H100
    assert table(made).count("\n") > 10 and to_dict(made)["training"]["hours"] > 0


def test_experiments_that_only_train_are_laid_out() -> None:
    others = {path.stem for path in (conf_folder() / "experiment").glob("*.yaml")}
    for name in others - {path.stem for path in FILES}:
        asked = [f"+experiment={name}", "store=a", "run=b"]
        config = cli.to_dataclass(cli.compose_config("train", asked))
        rungs = expand(config, asked, ["a"])
        assert len({rung.name for rung in rungs}) == len(rungs) > 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_says_where_its_numbers_are_from(path: Path) -> None:
    head = re.match(r"(#.*\n)+", path.read_text(encoding="utf-8"))
    assert head is not None
    if path.stem != "quickstart":
        assert re.search(r"\b20\d\d\b", head[0])
        assert re.search(r"(?i)not (published|known)|stands in|all of it", head[0])
    assert yaml.safe_load(path.read_text(encoding="utf-8")).keys() == {"harvest", "train"}


def test_published_numbers() -> None:
    harvest, training = composed("gemma_scope_2b_resid_16k")
    assert (harvest.lm.name, harvest.text.sequence_length) == ("google/gemma-2-2b", 1024)
    assert (training.tokens, training.batch_tokens) == (4 * 10**9, 4096)
    assert len(harvest.sites) == 26
    optim, coder = training.optim, training.coder
    assert (optim.lr, optim.beta1, optim.beta2) == (7e-5, 0.0, 0.999)
    assert (optim.warmup_steps, optim.sparsity_warmup_steps) == (1000, 10_000)
    assert (coder.num_latents, coder.bandwidth) == (2**14, 0.001)
    harvest, training = composed("gemma_scope_9b_mlp_131k")
    assert (len(harvest.sites), training.coder.num_latents) == (42, 2**17)
    assert training.tokens == 8 * 10**9
    harvest, training = composed("gemma_scope_9b_it_resid_131k")
    assert harvest.lm.name == "google/gemma-2-9b-it" and "{document}" in str(harvest.text.template)
    assert (training.tokens, training.coder.num_latents) == (8 * 10**9, 2**17)
    assert composed("gemma_scope_9b_it_resid_16k")[1].tokens == 4 * 10**9
    harvest, training = composed("gemma_scope_27b_resid_131k")
    assert harvest.sites == [f"resid_post.{layer}" for layer in (10, 22, 34)]
    assert (training.tokens, training.coder.num_latents) == (8 * 10**9, 2**17)
    harvest, training = composed("gemma_scope_2b_transcoder_16k")
    assert harvest.lm.fold_norms and len(training.sweep.grids) == 26
    harvest, training = composed("skip_transcoders_pythia_160m")
    assert (harvest.text.sequence_length, training.batch_tokens) == (2049, 64 * 2049)
    rungs = expand(training, ["+experiment=skip_transcoders_pythia_160m"], harvest.sites)
    assert len(rungs) == 3 * 2 * 6 and {rung.coder.k for rung in rungs} == {32, 64}
    assert {rung.coder.aux_coefficient for rung in rungs} == {0.0}
    assert {rung.coder.num_latents for rung in rungs} == {2**15}
    assert {rung.optim.decay_share for rung in rungs} == {1.0}
    sizes_of = "skip_transcoders_pythia_160m_sizes"
    harvest, training = composed(sizes_of)
    rungs = expand(training, [f"+experiment={sizes_of}"], harvest.sites)
    sizes = [(rung.coder.num_latents, rung.coder.k) for rung in rungs]
    wide = {(2**17, k) for k in (32, 64, 128)}
    assert set(sizes) == {(2**15, k) for k in (32, 64, 128)} | {(2**16, 32), (2**16, 64)} | wide
    assert [sizes.count(size) for size in set(sizes)] == [3] * 8
    assert {rung.optim.decay_share for rung in rungs} == {1.0}
    _, training = composed("gemma_scope_2_1b_ladder")
    assert training.optim.sparsity_warmup_steps == 50_000


@pytest.mark.parametrize(
    "name", ["gpt2_ladder_topk", "gpt2_ladder_batchtopk", "gpt2_topk_and_batchtopk"]
)
def test_gpt2_s_coders_have_the_published_code_s_optimizer(name: str) -> None:
    harvest, training = composed(name)
    assert (harvest.text.sequence_length, harvest.tokens, harvest.sites) == (
        *(128, 5 * 10**8, ["resid_pre.8"]),
    )
    for rung in expand(training, [f"+experiment={name}"], harvest.sites):
        optim = rung.optim
        assert (optim.lr, optim.beta1, optim.beta2, optim.eps) == (3e-4, 0.9, 0.99, 1e-8)
        assert (optim.warmup_steps, optim.clip_norm, optim.scale_lr_by_width) == (0, None, False)
        assert (rung.coder.aux_k, rung.coder.aux_coefficient) == (512, 1 / 32)


def test_what_is_typed_wins() -> None:
    harvest, training = composed("gpt2_ladder_topk", "tokens=1M")
    assert harvest.tokens == training.tokens == 10**6
    overrides = ["+experiment=gpt2_ladder_topk", "+sweep=width_ladder"]
    config = cli.to_dataclass(cli.compose_config("train", overrides))
    assert config.sweep.grids[0]["coder.num_latents"][-1] == 2**20
    config = cli.to_dataclass(cli.compose_config("train", [*overrides, "coder=batchtopk"]))
    assert config.coder.kind == "batchtopk"


def test_parts_of_a_plan_s_command_line() -> None:
    typed = ["+experiment=a", "machine=h200", "harvest.lm=gpt2", "train.tokens=1B"]
    assert experiment.for_part("harvest", typed) == ["experiment=a", "lm=gpt2"]
    assert experiment.for_part("train", typed) == ["experiment=a", "tokens=1B"]
    given = [("machine", "h200"), ("train.tokens", "1B")]
    assert experiment.for_command("plan", given) == [("machine", "h200")]


def test_an_experiment_that_is_not_there_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match="no experiment 'gpt2_lader_topk'.*gpt2_ladder_topk"):
        composed("gpt2_lader_topk")
    with pytest.raises(UserError, match="quickstart says nothing for launch/report.py; it has"):
        cli.compose_config("report", ["+experiment=quickstart"])


def test_an_experiment_of_one_s_own_is_a_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("train: {store: s, run: mine, coder: topk, coder.k: 7}")
    config = cli.to_dataclass(cli.compose_config("train", [f"+experiment={path}", "tokens=1M"]))
    assert (config.run, config.coder.k, config.tokens) == ("mine", 7, 10**6)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "found no experiment in .*mine.yaml .*No such file"),
        ("train: [", "found no experiment in .*mine.yaml .*while parsing"),
        ("coder: topk", "without a section for each command"),
        ("", "without a section for each command"),
        ("harvest: {lm: gpt2}", "mine.yaml says nothing for launch/train.py; it has harvest"),
    ],
)
def test_a_file_that_is_no_experiment_is_told_in_one_line(
    text: str | None, complaint: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=complaint) as raised:
        cli.compose_config("train", [f"+experiment={path}"])
    assert "\n" not in str(raised.value)
