"""Experiments: what they stand for, and that each composes, is laid out and planned."""

import functools
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sae_dist.apps import cli, experiment, plan
from sae_dist.apps.rungs import lay_out
from sae_dist.common.errors import UserError
from sae_dist.config import HarvestConfig, TrainConfig, conf_folder
from sae_dist.interop import coders_in
from sae_dist.lm import expand_sites
from sae_dist.parallel import MachineConfig
from sae_dist.plan import table, to_dict
from sae_dist.train import RungConfig
from tests.lm.tiny import tiny_model

ALL = {
    path: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in sorted((conf_folder() / "experiment").glob("*.yaml"))
}
FILES = {path: said for path, said in ALL.items() if "harvest" in said}  # others read what is there
TOGETHER = ["gemma_scope_2_1b:ladder:1m", "gemma_scope_9b:it:131k"]
TOGETHER += [
    "gemma_scope_2b:mlp:65k",
    "gemma_scope_2b:ladder:16k",
    "gpt2:ladder:batchtopk",
]  # of all that there could be
NAMES = [
    *(path.stem for path in FILES),
    *(
        f"{path.stem}:{variant}"
        for path, said in FILES.items()
        for variant in said.get("variants", ())
    ),
    *TOGETHER,
]
MLP = {"mlp_in.3": 64, "mlp_out.3": 64}
MACHINE = MachineConfig(disk_free_gb=1e9)


@functools.cache  # several tests look at the same
def composed(name: str, *overrides: str) -> tuple[HarvestConfig, TrainConfig]:
    asked = [f"+experiment={name}", *overrides]
    return cli.compose("harvest", asked), cli.compose("train", asked)


@functools.cache
def ladder(name: str) -> list[RungConfig]:
    """The rungs of an experiment, all sites as wide."""
    harvest, training = composed(name)
    sites = expand_sites(harvest.lm, harvest.sites, harvest.architecture)
    return lay_out(training, dict.fromkeys(sites, 512))


@pytest.mark.parametrize(
    "name",
    [
        *(
            "gemma_scope_27b",
            "gemma_scope_2_270m:ladder",
            "gemma_scope_2_270m:crosscoder",
            "gemma_scope_2_1b:clt",
            "gpt2",
            "quickstart_scratch",
            "qwen_scope",
        ),
        "skip_transcoders:sizes",
    ],
)
def test_an_experiment_is_planned(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = MACHINE
    if name == "quickstart_scratch":  # of two CPU cores, whose LM is trained first
        machine = replace(MACHINE, devices=2)
        monkeypatch.chdir(tmp_path)
        tiny_model("llama").save_pretrained(tmp_path / "runs/quickstart_scratch/lm")
    asked = cli.compose("plan", [f"+experiment={name}"])
    made = plan.make_plan(asked.harvest, asked.train, machine, [])
    harvested = made.harvest.layout.num_sequences * made.harvest.layout.sequence_length
    assert made.training.num_tokens <= 1.001 * harvested
    assert made.warnings == []  # with enough disk it all fits eight H100
    assert table(made).count("\n") > 10 and to_dict(made)["training"]["hours"] > 0


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_composes_and_is_laid_out(name: str) -> None:
    if name == "quickstart_scratch":
        return  # whose LM is trained first
    rungs = ladder(name)
    assert len({rung.name for rung in rungs}) == len(rungs) > 0
    harvest, training = composed(name)
    assert harvest.store == training.store
    assert training.run == name.replace(":", "-")


def test_experiments_that_only_train_are_laid_out() -> None:
    for path in sorted(ALL.keys() - FILES.keys()):
        asked = [f"+experiment={path.stem}", "store=a", "decoder=a"]
        widths = {"decoder": 64} if path.stem == "meta_sae" else {"resid_post.2": 64, **MLP}
        rungs = lay_out(cli.compose("train", asked), widths)
        assert len({rung.name for rung in rungs}) == len(rungs) > 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_experiment_says_where_its_numbers_are_from(path: Path) -> None:
    head = re.match(r"(#.*\n)+", path.read_text(encoding="utf-8"))
    assert head is not None
    if not path.stem.startswith("quickstart"):  # of no paper
        assert re.search(r"\b20\d\d\b", head[0])
        assert re.search(r"(?i)not (published|known)|stands in|all of it", head[0])


def test_published_numbers() -> None:
    harvest, training = composed("gemma_scope_2b")
    assert (harvest.lm.name, harvest.text.sequence_length) == ("google/gemma-2-2b", 1024)
    assert (training.tokens, training.batch_tokens) == (4 * 10**9, 4096)
    assert len(ladder("gemma_scope_2b")) == 26
    optim, coder = training.optim, training.coder
    assert (optim.lr, optim.beta1, optim.beta2) == (7e-5, 0.0, 0.999)
    assert (optim.warmup_steps, optim.sparsity_warmup_steps) == (1000, 10_000)
    assert (coder.num_latents, coder.bandwidth, coder.sparsity_coefficient) == (2**14, 0.001, 6e-4)
    harvest, training = composed("gemma_scope_9b:mlp:131k")
    assert training.tokens == 8 * 10**9
    rungs = ladder("gemma_scope_9b:mlp:131k")
    assert {rung.coder.num_latents for rung in rungs} == {2**17}
    assert [rung.site for rung in rungs] == [f"mlp_out.{layer}" for layer in range(42)]
    harvest, training = composed("gemma_scope_9b:it:131k")
    assert harvest.lm.name == "google/gemma-2-9b-it" and "{document}" in str(harvest.text.template)
    assert (training.tokens, training.coder.num_latents) == (8 * 10**9, 2**17)
    assert composed("gemma_scope_9b:it")[1].tokens == 4 * 10**9
    for name, layers in (
        ("gemma_scope_27b", (10, 22, 34)),
        ("gemma_scope_9b:1m", (9, 20, 31)),
        ("gemma_scope_2b:1m", (5, 12, 19)),
    ):
        assert [rung.site for rung in ladder(name)] == [f"resid_post.{layer}" for layer in layers]
    harvest, training = composed("gemma_scope_2b:transcoder")
    rungs = ladder("gemma_scope_2b:transcoder")
    assert harvest.lm.fold_norms and training.coder.form == "transcoder" and len(rungs) == 26
    assert all(rung.target == rung.site.replace("in", "out") for rung in rungs)
    widths = [rung.coder.num_latents for rung in ladder("gemma_scope_2b:ladder")]
    assert widths == [2**n for n in range(15, 20)]
    assert len(ladder("gemma_scope_2_1b")) == 26 * 4
    training = composed("gemma_scope_2_1b")[1]
    assert training.optim.sparsity_warmup_steps == 50_000 and training.coder.num_levels == 5
    training = composed("model_diff")[1]
    coder, optim = training.coder, training.optim
    assert (coder.num_latents, coder.k, optim.lr, optim.scale_lr_by_width) == (
        *(32 * 2304, 100, 1e-4, False),
    )


def test_published_numbers_of_qwen_scope() -> None:
    for name, layers in (("qwen_scope", 28), ("qwen_scope:8b", 36)):
        harvest, training = composed(name)
        assert (training.expansion, harvest.writer.max_norm) == (16, 10)
        rungs = lay_out(training, {f"resid_post.{layer}": 2048 for layer in range(layers)})
        assert {(rung.coder.num_latents, rung.coder.k) for rung in rungs} == {
            (2**15, 50),
            (2**15, 100),
        }
        assert {rung.coder.aux_coefficient for rung in rungs} == {1 / 32}
        assert len(rungs) == 2 * layers == 2 * harvest.architecture["num_hidden_layers"]


@pytest.mark.parametrize(("size", "num_layers"), [("1b", 26), ("270m", 18)])
def test_gemma_scope_2_has_the_layers_widths_and_l0_of_its_files(
    size: str, num_layers: int
) -> None:
    widths = {"16k": 2**14, "65k": 2**16, "262k": 2**18, "1m": 2**20}
    l0s = {"small": (10, 20), "medium": (30, 60), "big": (60, 120)}  # of the first layer, of most
    files = [
        re.match(r"(\w+)/layer_(\d+)_width_(\w+?)_l0_([a-z]+)", coder).groups()
        for coder in coders_in(f"gemma-scope-2-{size}-pt")
    ]
    for part, variants in {
        "resid_post_all": [""],
        "attn_out_all": [":attn"],
        "mlp_out_all": [":mlp"],
        "transcoder_all": [":transcoder", ":skip_transcoder"],
        "resid_post": [":ladder", ":ladder:1m"] if size == "1b" else [":ladder"],
    }.items():
        expected = set()
        for _, layer, width, word in (file for file in files if file[0] == part):
            first, most = l0s[word]
            most = 150 if (word, part) == ("big", "resid_post") else most
            rise = min(1.0, int(layer) / (num_layers / 3))
            expected.add((layer, widths[width], int(first + (most - first) * rise)))
        rungs = [rung for variant in variants for rung in ladder(f"gemma_scope_2_{size}{variant}")]
        assert expected == {
            (rung.site.rpartition(".")[2], rung.coder.num_latents, rung.coder.target_l0)
            for rung in rungs
        }
        assert len(rungs) == len(expected) * (2 if part == "transcoder_all" else 1)


@pytest.mark.parametrize(
    ("size", "depths", "num_layers"), [("1b", (7, 13, 17, 22), 26), ("270m", (5, 9, 12, 15), 18)]
)
def test_coders_of_several_layers_are_those_of_gemma_scope_2_s_table(
    size: str, depths: tuple[int, ...], num_layers: int
) -> None:
    rungs = ladder(f"gemma_scope_2_{size}:crosscoder")
    of_depths = "+".join(f"resid_post.{layer}" for layer in depths)
    assert {(rung.site, rung.target) for rung in rungs} == {(of_depths, of_depths)}
    widths = {rung.coder.num_latents for rung in rungs}
    assert widths == {2**16, 2**18, 2**19, 2**20} and len(rungs) == 8
    for rung in ladder(f"gemma_scope_2_{size}:clt"):
        assert rung.coder.num_sites == num_layers and rung.coder.num_latents % num_layers == 0
        assert rung.coder.num_latents // num_layers % 32 == 0
        fewer = {n - rung.coder.num_latents for n in (2**18, 2**19)}
        assert any(0 <= few < 32 * num_layers for few in fewer)  # as many a layer as fit
        assert rung.coder.target_l0 in (50, 150)


def test_published_numbers_of_skip_transcoders() -> None:
    harvest, training = composed("skip_transcoders")
    assert (harvest.text.sequence_length, training.batch_tokens) == (2049, 64 * 2049)
    rungs = ladder("skip_transcoders")
    assert len(rungs) == 3 * 2 * 6 and {rung.coder.k for rung in rungs} == {32, 64}
    assert {rung.coder.aux_coefficient for rung in rungs} == {0.0}
    assert {rung.coder.num_latents for rung in rungs} == {2**15}
    assert {rung.optim.decay_share for rung in rungs} == {1.0}
    rungs = ladder("skip_transcoders:sizes")
    sizes = [(rung.coder.num_latents, rung.coder.k) for rung in rungs]
    wide = {(2**17, k) for k in (32, 64, 128)}
    assert set(sizes) == {(2**15, k) for k in (32, 64, 128)} | {(2**16, 32), (2**16, 64)} | wide
    assert [sizes.count(size) for size in set(sizes)] == [3] * 8
    for name, num_rungs, width in (
        ("pythia_410m", 2, 2**16),
        ("llama_3_2_1b", 16, 2**17),
        ("gemma_2_2b", 8, 2**17),
    ):
        rungs = ladder(f"skip_transcoders:{name}")
        assert {(rung.coder.num_latents, rung.coder.k) for rung in rungs} == {(width, 32)}
        assert len(rungs) == num_rungs


@pytest.mark.parametrize("name", ["gpt2", "gpt2:ladder", "gpt2:ladder:batchtopk"])
def test_gpt2_s_coders_have_the_published_code_s_optimizer(name: str) -> None:
    harvest, _ = composed(name)
    assert (harvest.text.sequence_length, harvest.tokens, harvest.sites) == (
        *(128, 5 * 10**8, ["resid_pre.8"]),
    )
    for rung in ladder(name):
        optim = rung.optim
        assert (optim.lr, optim.beta1, optim.beta2, optim.eps) == (3e-4, 0.9, 0.99, 1e-8)
        assert (optim.warmup_steps, optim.clip_norm, optim.scale_lr_by_width) == (0, None, False)
        assert (rung.coder.aux_k, rung.coder.aux_coefficient) == (512, 1 / 32)
        assert rung.coder.dead_after_tokens == 5 * 4096


def test_what_is_typed_wins() -> None:
    harvest, training = composed("gpt2:ladder", "tokens=1M")
    assert harvest.tokens == training.tokens == 10**6
    overrides = ["+experiment=gpt2:ladder", "+sweep=width_ladder"]
    config = cli.to_dataclass(cli.compose_config("train", overrides))
    assert config.sweep.grids[0]["coder.num_latents"][-1] == 2**20
    config = cli.to_dataclass(cli.compose_config("train", [*overrides, "coder=batchtopk"]))
    assert config.coder.kind == "batchtopk"


def test_parts_of_a_plan_s_command_line() -> None:
    given = [("experiment", "a"), ("machine", "h200"), ("harvest.lm", "gpt2")]
    given += [("train.tokens", "1B")]
    assert experiment.for_part("harvest", given) == [("experiment", "a"), ("lm", "gpt2")]
    assert experiment.for_part("train", given) == [("experiment", "a"), ("tokens", "1B")]
    assert experiment.for_command("plan", given[1:]) == [("machine", "h200")]


def test_an_experiment_that_is_not_there_is_told_in_one_line() -> None:
    with pytest.raises(UserError, match="no experiment 'gpt'.*gpt2"):
        composed("gpt")
    with pytest.raises(UserError, match="no variant 'lader' of experiment gpt2; .* ladder, batch"):
        composed("gpt2:lader")
    with pytest.raises(UserError, match="quickstart says nothing for sae-dist report; it has"):
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
        ("variants: {a: {tokenz: 1}}", "without a section for each command"),
        ("", "without a section for each command"),
        ("harvest: {lm: gpt2}", "mine.yaml says nothing for sae-dist train; it has harvest"),
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
