"""The root of each command's configuration, and the one place that tells Hydra of them."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

import sae_dist
from sae_dist.coders import CoderConfig, Form
from sae_dist.common.hooks import require_site
from sae_dist.common.names import require_plain, require_repo
from sae_dist.common.settings import setting
from sae_dist.evaluate import EvaluationConfig, TransferConfig
from sae_dist.harvest import HarvestLoopConfig
from sae_dist.interop import FormatName
from sae_dist.lm import LMConfig, SmallLMConfig
from sae_dist.parallel import MeshConfig
from sae_dist.plan import MachineConfig
from sae_dist.store import StoreConfig
from sae_dist.text import TextConfig
from sae_dist.train import LoopConfig, OptimConfig


@dataclass(kw_only=True, slots=True)
class HarvestConfig:
    """`launch/harvest.py`: `tokens` of `text` through `lm`, kept at `sites` in `store`.

    `architecture` is what `launch/plan.py` knows of an LM that is not here: `model_type` and the
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
class SweepConfig:
    """A ladder. Each grid says for some keys of the command line one value or a list of them.

    Each combination of a grid is a rung, composed as if it stood on a command line of its own.
    """

    grids: list[dict[str, Any]] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class TrainConfig(LoopConfig):
    """`launch/train.py`: a coder, or with `sweep` a ladder of them, trained on `store`.

    `store` is a folder, or `coder:FOLDER` for the unit decoder rows of a coder (a meta-SAE), or
    `live`: then `harvest.…` says as for `launch/harvest.py` what is read, and nothing is stored.
    `site` is what is read and `target` what is reconstructed; by default the store's only site,
    and the same. A store with shards of more than `max_shard_gib` is refused. `rungs` picks some
    rungs of a sweep by their number (a Slurm array index, say). `init_from` is a coder to go on
    from: a folder of ours or of another library, or `hub:USER/REPO/FOLDER`.
    """

    store: str = MISSING
    harvest: dict[str, Any] = field(default_factory=dict)
    run: str = setting(MISSING, check=require_plain)
    runs: str = "runs"
    site: str | None = None
    target: str | None = None
    init_from: str | None = None
    max_shard_gib: float = setting(1.0, above=0)
    coder: CoderConfig = field(default_factory=CoderConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    parallel: MeshConfig = field(default_factory=MeshConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    rungs: list[int] | None = setting(None, min=0)


@dataclass(kw_only=True, slots=True)
class EvaluateConfig(EvaluationConfig):
    """`launch/evaluate.py`: measures the coders of a run on the held-out shards of its store.

    Of several runs on one store, too, and then their coders are also compared with each other. A
    run in training is measured by its checkpoint of `step` (null: the newest; of a finished run its
    coders). The store and the language model are those of the run. `store` and `lm_name` say where they are
    now, if elsewhere; the language model must have the weights that were harvested. A store that
    was harvested with `lm.trust_remote_code` asks for `lm_trust_remote_code` again. `transfer` also
    measures them on a finetune of the language model.
    """

    run: list[str] = setting(MISSING, check=require_plain)
    step: int | None = setting(None, min=1)
    runs: str = "runs"
    store: str | None = None
    lm_name: str | None = None
    max_shard_gib: float = setting(1.0, above=0)
    lm_trust_remote_code: bool = False
    transfer: TransferConfig = field(default_factory=TransferConfig)


@dataclass(kw_only=True, slots=True)
class CompareConfig:
    """`launch/compare.py`: puts evaluated runs side by side in `to/comparison.json`."""

    run: list[str] = setting(MISSING, check=require_plain)
    to: str = MISSING
    runs: str = "runs"


@dataclass(kw_only=True, slots=True)
class PlanConfig:
    """`launch/plan.py`: what a harvest and a training will take of `machine`.

    With `measure` the rates are those of this machine, its disk's those of `folder`. `json` prints
    JSON instead of the table, and `to` writes it to a file.
    """

    machine: MachineConfig = field(default_factory=MachineConfig)
    measure: bool = False
    folder: str = "."
    json: bool = False
    to: str | None = None


@dataclass(kw_only=True, slots=True)
class ReportConfig:
    """`launch/report.py`: draws `runs/NAME/report/index.html`."""

    run: str = setting(MISSING, check=require_plain)
    runs: str = "runs"


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """`launch/export.py`: writes the coders of a run as other libraries read them.

    `rungs` names some of them (null: all). `folder` is `runs/NAME/exports/<to>` by default. `push`
    is `USER/REPO` on the Hub, which is made if absent, then `private` or not.
    """

    run: str = setting(MISSING, check=require_plain)
    runs: str = "runs"
    to: FormatName = MISSING
    rungs: list[str] | None = None
    folder: str | None = None
    push: str | None = setting(None, check=require_repo)
    private: bool = False


@dataclass(kw_only=True, slots=True)
class ImportConfig:
    """`launch/import_coder.py`: writes the published coder at `path` as one of ours, in `to`."""

    path: str = MISSING
    to: str = MISSING
    site: str | None = None
    target: str | None = None
    form: Form | None = None


@dataclass(kw_only=True, slots=True)
class DashboardConfig:
    """`launch/dashboard.py`: a W&B workspace of `runs/NAME`, in the run's project."""

    run: str = setting(MISSING, check=require_plain)
    runs: str = "runs"


@dataclass(kw_only=True, slots=True)
class VerifyConfig:
    """`launch/verify.py`: sizes of all files of a store, with `full` their checksums.

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
    """`launch/small_lm.py`: trains a small language model into `folder`.

    It begins from scratch, or from the folder `finetune_from`, whose shape and tokenizer it keeps.
    """

    folder: str = MISSING
    finetune_from: str | None = None
    text: TextConfig = field(default_factory=TextConfig)
    model: SmallLMConfig = field(default_factory=SmallLMConfig)


@dataclass(kw_only=True, slots=True)
class ChatCorpusConfig:
    """`launch/chat_corpus.py`: conversations about the sources in `text`, written into `folder`.

    `text.template` holds a chat's prefixes around what is asked. Of `held_out_every` conversations
    one is kept to be asked later.
    """

    folder: str = MISSING
    held_out_every: int = setting(8, min=2)
    text: TextConfig = field(default_factory=TextConfig)


@dataclass(kw_only=True, slots=True)
class ReproductionConfig:
    """`launch/reproduction.py`: published claims beside what evaluated runs show, in `document`.

    `run` names runs that differ in their seed alone. `home` holds `lm/` and `finetuned/` and the
    `commands.tsv` of `launch/reproduce.sh`: what was run, and for how long.
    """

    run: list[str] = setting(MISSING, check=require_plain)
    runs: str = "runs"
    home: str = "runs/reproduce"
    document: str = "docs/reproduction.md"


@dataclass(kw_only=True, slots=True)
class FilesConfig:
    """`launch/files.py`: writes the files of `launch/` that a checkout has, into `to/launch`."""

    to: str = "."


@dataclass(kw_only=True, slots=True)
class SelftestConfig:
    """`launch/selftest.py`: faults put in on purpose, in a new subfolder of `folder`.

    `keep` leaves what was written there. `processes` are started where no launcher did: by default
    as many as there are GPUs, or two.
    """

    folder: str = "."
    keep: bool = False
    processes: int | None = setting(None, min=1)


_ROOTS = {
    "harvest_schema": HarvestConfig,
    "train_schema": TrainConfig,
    "evaluate_schema": EvaluateConfig,
    "compare_schema": CompareConfig,
    "plan_schema": PlanConfig,
    "report_schema": ReportConfig,
    "export_schema": ExportConfig,
    "import_coder_schema": ImportConfig,
    "dashboard_schema": DashboardConfig,
    "verify_schema": VerifyConfig,
    "small_lm_schema": SmallLMRootConfig,
    "chat_corpus_schema": ChatCorpusConfig,
    "reproduction_schema": ReproductionConfig,
    "selftest_schema": SelftestConfig,
    "files_schema": FilesConfig,
}


@cache
def register() -> None:
    """Tell Hydra of the root dataclasses, against which every file of `conf/` is checked."""
    for name, root in _ROOTS.items():
        ConfigStore.instance().store(name=name, node=root)


def schema(root: str) -> type:
    """The dataclass of a command's primary file in `conf/`."""
    return _ROOTS[f"{root}_schema"]


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
