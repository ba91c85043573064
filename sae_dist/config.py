"""The configuration of each command, and the one table of them."""

from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING

import sae_dist
from sae_dist.coders import CoderConfig, Form, JumpReLU
from sae_dist.common.hooks import require_site
from sae_dist.common.names import require_plain, require_repo
from sae_dist.common.settings import kinds, setting, split_optional
from sae_dist.evaluate import EvaluationConfig, TransferConfig
from sae_dist.explain import ExplanationConfig, JudgeConfig
from sae_dist.finetune.config import FinetuningConfig
from sae_dist.handoff import handoff_names
from sae_dist.harvest import HarvestLoopConfig
from sae_dist.interop import format_names, starts
from sae_dist.latents import WatchConfig
from sae_dist.lm import LMConfig, SmallLMConfig
from sae_dist.parallel import MachineConfig, MeshConfig
from sae_dist.store import CacheConfig, StoreConfig
from sae_dist.text import TextConfig
from sae_dist.train import Adam, LoopConfig, OptimConfig, RungConfig


@dataclass(kw_only=True, slots=True)
class HarvestConfig:
    """`sae-dist harvest`: `tokens` of `text` through `lm`, kept at `sites` in `store`.

    Sites may be patterns: `resid_post.*`, `mlp_in.4-8`, `attn_z.0-24/4`.

    `architecture` is what `sae-dist plan` knows of an LM that is not here: `model_type` and the
    sizes of its config.json. The harvest itself loads what `lm.name` holds.
    """

    store: str = MISSING
    sites: list[str] = setting(MISSING, check=require_site)
    tokens: int = setting(100_000_000, min=1)
    lm: LMConfig = field(default_factory=lambda: LMConfig(name=MISSING))
    architecture: dict[str, Any] = field(default_factory=dict)
    text: TextConfig = field(default_factory=lambda: TextConfig(path=MISSING))
    writer: StoreConfig = field(default_factory=StoreConfig)
    harvest: HarvestLoopConfig = field(default_factory=HarvestLoopConfig)


@dataclass(kw_only=True, slots=True)
class FetchConfig:
    """`sae-dist fetch`: brings `lm` and `text` here, as a harvest with the same choices reads them.

    `architecture` comes with a choice of `lm`, for `sae-dist plan`.
    """

    lm: LMConfig = field(default_factory=lambda: LMConfig(name=MISSING))
    architecture: dict[str, Any] = field(default_factory=dict)
    text: TextConfig = field(default_factory=lambda: TextConfig(path=MISSING))


@dataclass(kw_only=True, slots=True)
class SweepConfig:
    """A ladder. Each grid says for some keys of the command line one value or a list of them.

    Each combination of a grid is a rung, composed as if it stood on a command line of its own.
    """

    grids: list[dict[str, Any]] = field(default_factory=list)


class Source(StrEnum):
    """Where a training's activations come from."""

    stored = "stored"
    live = "live"
    decoder = "decoder"


@dataclass(kw_only=True)  # slots of two bases would not fit together
class SourceConfig:
    """Where activations come from.

    `source` is `stored`: the folder or URL `store`, whose shards have `max_shard_gib` at most. Or
    `live` (for which `store=live` is short): the language model of `harvest.…`, which is told what
    `sae-dist harvest` would be, runs beside the training, and nothing is stored. Or `decoder`: the
    unit decoder rows of the coder in the folder `decoder`, for a meta-SAE. `cache` keeps what is
    read of a store far away on this node's disk. `aligned` are further stores by name, of other
    language models on the same tokens (`"aligned={chat: PATH}"`), whose sites are called
    `chat:resid_post.3`.
    """

    source: Source = Source.stored
    store: str | None = None
    aligned: dict[str, str] = field(default_factory=dict)
    harvest: HarvestConfig | None = None
    decoder: str | None = None
    max_shard_gib: float = setting(1.0, above=0)
    cache: CacheConfig = field(default_factory=CacheConfig)


def place_key(source: str | None) -> str:
    """The key that says where such a source is."""
    return {"live": "harvest", "decoder": "decoder"}.get(source or "", "store")


@dataclass(kw_only=True, slots=True)
class TrainConfig(SourceConfig, LoopConfig):
    """`sae-dist train`: a coder, or with `sweep` a ladder of them.

    `site` is what is read and `target` what is reconstructed; by default the source's only site,
    and the same. Patterns of sites (`mlp_in.*`, `resid_post.4-7`) stand for a rung each; a
    target's `*` is the layer of its site. A crosscoder reads all the sites of its pattern, and of
    several joined by `+`, side by side. `expansion` latents a dimension of the site take the
    place of `coder.num_latents`; k and rate are the recipe's for that width. `rungs` picks some
    rungs, by name, by a pattern (`topk-*`) or by number (from 0: a Slurm array index, say).
    `init_from` is a coder to go on from: a folder of ours or of another library,
    `hub:USER/REPO/FOLDER` or `published:SUITE/CODER`. From Python a ladder is the rungs in
    `ladder`, where a name, a site or a target that is empty follows as on the command line. With
    `evaluate_lm_sequences`, what is measured every `log.evaluate_every_steps` has the loss, too, of
    the language model that the activations come from, which is then held whole beside the training.
    """

    run: str = setting(MISSING, check=require_plain)
    runs: str = "runs"
    site: str | None = None
    target: str | None = None
    init_from: str | None = setting(None, begins=starts)
    expansion: float | None = setting(None, above=0)
    coder: CoderConfig = field(default_factory=JumpReLU)
    optim: OptimConfig = field(default_factory=Adam)
    parallel: MeshConfig = field(default_factory=MeshConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    ladder: list[RungConfig] = field(default_factory=list)
    rungs: list[str] | None = None
    evaluate_lm_sequences: int = setting(0, min=0)


@dataclass(kw_only=True)  # slots of two bases would not fit together
class TrainedConfig:
    """Where the coders of a run are, and the activations and the language model they read.

    A run in training is read by its checkpoint of `step` (null: the newest; of a finished run its
    coders). The stores and the language model are those of the run. `store`, `aligned` and
    `lm_name` say where they are now, if elsewhere; the language model must have the weights that
    were harvested. A store that was harvested with `lm.trust_remote_code` asks for
    `lm_trust_remote_code` again.
    """

    step: int | None = setting(None, min=1)
    runs: str = "runs"
    store: str | None = None
    aligned: dict[str, str] = field(default_factory=dict)
    lm_name: str | None = None
    max_shard_gib: float = setting(1.0, above=0)
    cache: CacheConfig = field(default_factory=CacheConfig)
    lm_trust_remote_code: bool = False


@dataclass(kw_only=True, slots=True)
class EvaluateConfig(TrainedConfig, EvaluationConfig):
    """`sae-dist evaluate`: measures the coders of a run on the held-out shards of its store.

    Of several runs on one store, too, and then their coders are also compared with each other.
    `transfer` also measures them on a finetune of the language model.
    """

    run: list[str] = setting(MISSING, check=require_plain)
    transfer: TransferConfig = field(default_factory=TransferConfig)


@dataclass(kw_only=True, slots=True)
class LatentsConfig(TrainedConfig, WatchConfig):
    """`sae-dist latents`: finds out what each latent of a run fires on, in `runs/NAME/latents`.

    The held-out sequences are read, or with `text.path` the first `max_sequences` of that text, by
    the run's language model.
    """

    run: str = setting(MISSING, check=require_plain)
    text: TextConfig = field(default_factory=lambda: TextConfig(path=""))


@dataclass(kw_only=True, slots=True)
class FinetuneConfig(FinetuningConfig):
    """`sae-dist finetune`: a short training of the coders of a run on their language model's loss.

    Those that `rungs` picks are written to the run `to`; the delta loss before and after is that of
    `evaluate_lm_sequences` held-out sequences. `store` and `lm_name` say where these are now, if
    elsewhere; code of the language model's own is run only with `lm_trust_remote_code`.
    """

    run: str = setting(MISSING, check=require_plain)
    to: str = setting(MISSING, check=require_plain)
    runs: str = "runs"
    store: str | None = None
    lm_name: str | None = None
    max_shard_gib: float = setting(1.0, above=0)
    cache: CacheConfig = field(default_factory=CacheConfig)
    lm_trust_remote_code: bool = False
    rungs: list[str] | None = None
    parallel: MeshConfig = field(default_factory=MeshConfig)
    evaluate_lm_sequences: int = setting(256, min=1)


@dataclass(kw_only=True, slots=True)
class CompareConfig:
    """`sae-dist compare`: puts evaluated runs side by side in `to/comparison.json`."""

    run: list[str] = setting(MISSING, check=require_plain)
    to: str = MISSING
    runs: str = "runs"


@dataclass(kw_only=True, slots=True)
class ExplainConfig(ExplanationConfig):
    """`sae-dist explain`: explains latents of a run and scores the explanations, by a judge.

    `sae-dist latents` must have watched them. The tokenizer is that of the language model they are
    of; `lm_name` says where it is now, if elsewhere, and `lm_trust_remote_code` lets it run code of
    its own.
    """

    run: str = setting(MISSING, check=require_plain)
    runs: str = "runs"
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    lm_name: str | None = None
    lm_trust_remote_code: bool = False


@dataclass(kw_only=True, slots=True)
class PlanConfig:
    """`sae-dist plan`: what `harvest.…` and `train.…` will take of `machine`, that of both.

    With `measure` the rates are those of this machine, its disk's those of `folder`. `json` prints
    JSON instead of the table, and `to` writes it to a file.
    """

    harvest: HarvestConfig | None = None
    train: TrainConfig | None = None
    machine: MachineConfig = field(default_factory=MachineConfig)
    measure: bool = False
    folder: str = "."
    json: bool = False
    to: str | None = None


@dataclass(kw_only=True, slots=True)
class ReportConfig:
    """`sae-dist report`: draws `runs/NAME/report/index.html`."""

    run: str = setting(MISSING, check=require_plain)
    runs: str = "runs"


def export_names() -> list[str]:
    """What `sae-dist export` writes: formats of coders, and tools that read latents."""
    return [*format_names(), *handoff_names()]


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """`sae-dist export`: writes the coders of a run, or what is known of their latents, as other
    libraries read them.

    `rungs` are the names of some of them or patterns (`topk-*`; null: all). `folder` is
    `runs/NAME/exports/<to>` by default. `push` is `USER/REPO` on the Hub, which is made if absent,
    then `private` or not. Tools that show tokens read them with the tokenizer of the run's language
    model; `lm_name` says where that is now, and one with code of its own wants
    `lm_trust_remote_code`.
    """

    run: str = setting(MISSING, check=require_plain)
    runs: str = "runs"
    to: str = setting(MISSING, among=export_names)
    rungs: list[str] | None = None
    folder: str | None = None
    push: str | None = setting(None, check=require_repo)
    private: bool = False
    lm_name: str | None = None
    lm_trust_remote_code: bool = False


@dataclass(kw_only=True, slots=True)
class ImportConfig:
    """`sae-dist import_coder`: writes the published coder at `path` as one of ours, in `to`."""

    path: str = setting(MISSING, begins=starts)
    to: str = MISSING
    site: str | None = None
    target: str | None = None
    form: Form | None = None


@dataclass(kw_only=True, slots=True)
class DashboardConfig:
    """`sae-dist dashboard`: a W&B workspace of `runs/NAME`, in the run's project."""

    run: str = setting(MISSING, check=require_plain)
    runs: str = "runs"


@dataclass(kw_only=True, slots=True)
class VerifyConfig:
    """`sae-dist verify`: sizes of all files of a store, with `full` their checksums.

    `repair` mends what is found, with the language model and the text of the harvest. `lm_name` and
    `text_path` say where these are now, if elsewhere; code of the language model's own is run only
    with `lm_trust_remote_code`.
    """

    store: str = MISSING
    full: bool = True
    workers: int = setting(8, min=1)
    repair: bool = False
    lm_name: str | None = None
    lm_trust_remote_code: bool = False
    text_path: str | None = None
    max_shard_gib: float = setting(1.0, above=0)


@dataclass(kw_only=True, slots=True)
class SmallLMRootConfig:
    """`sae-dist small_lm`: trains a small language model into `folder`.

    It begins from scratch, or from the language model `finetune_from` (a folder or a name on the
    Hub, or its `finetune_gguf_file`), whose shape and tokenizer it keeps.
    """

    folder: str = MISSING
    finetune_from: str | None = None
    finetune_gguf_file: str | None = None
    text: TextConfig = field(default_factory=TextConfig)
    model: SmallLMConfig = field(default_factory=SmallLMConfig)


@dataclass(kw_only=True, slots=True)
class FilesConfig:
    """`sae-dist files`: writes the files of `launch/` that a checkout has, into `to/launch`."""

    to: str = "."


@dataclass(kw_only=True, slots=True)
class SelftestConfig:
    """`sae-dist selftest`: tries the machine, in a new subfolder of `folder`.

    `keep` leaves what was written there. `processes` are started where no launcher did: by default
    as many as there are GPUs, or two.
    """

    folder: str = "."
    keep: bool = False
    processes: int | None = setting(None, min=1)


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its configuration, and the files of `conf/` that it begins with, by group.

    Its function and its description are those of `sae_dist/apps/NAME.py`.
    """

    config: type
    choices: dict[str, str | None] = field(default_factory=dict)


COMMANDS = {  # in the order of use
    "plan": Command(PlanConfig, {"machine": "h100_80gb"}),
    "fetch": Command(FetchConfig, {"lm": "custom", "text": "custom"}),
    "harvest": Command(HarvestConfig, {"lm": "custom", "text": "custom"}),
    "verify": Command(VerifyConfig),
    "train": Command(
        TrainConfig,
        {
            "machine": "h100_80gb",
            "optim": "adam",
            "coder": "jumprelu",
            "optional optim/recipe@optim": "${optim}_${coder}",  # published for these two together
        },
    ),
    "evaluate": Command(EvaluateConfig),
    "finetune": Command(FinetuneConfig, {"machine": "h100_80gb"}),
    "latents": Command(LatentsConfig, {"text": None}),
    "compare": Command(CompareConfig),
    "explain": Command(ExplainConfig, {"judge": "openai"}),
    "report": Command(ReportConfig),
    "dashboard": Command(DashboardConfig),
    "export": Command(ExportConfig),
    "import_coder": Command(ImportConfig),
    "files": Command(FilesConfig),
    "selftest": Command(SelftestConfig),
    "small_lm": Command(SmallLMRootConfig, {"text": "stdlib"}),
}


def schema(root: str) -> type:
    """The dataclass of a command's configuration."""
    return COMMANDS[root].config


@cache
def parts(root: str) -> list[str]:
    """The keys of a command's configuration that are those of other commands, of the same name."""
    found = kinds(schema(root)).items()
    return [k for k, kind in found if k in COMMANDS and split_optional(kind)[0] is schema(k)]


def conf_folder() -> Path:
    """The folder of YAML files."""
    return _shipped("conf")


def launch_folder() -> Path:
    """The folder of scripts and settings for launchers."""
    return _shipped("launch")


def _shipped(name: str) -> Path:
    """A folder beside the package in a checkout, inside it when installed."""
    package = Path(sae_dist.__file__).parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name
