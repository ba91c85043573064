"""What is trained, how long and how, and what is said of it: inert data."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from sae_dist.checkpoint.config import CheckpointConfig
from sae_dist.coders.config import CoderConfig
from sae_dist.coders.kinds.jumprelu import JumpReLU
from sae_dist.common.names import require_project
from sae_dist.common.settings import setting
from sae_dist.parallel.config import MeshConfig
from sae_dist.parallel.machine import MachineConfig
from sae_dist.stream.config import StreamConfig
from sae_dist.train.optimizers.adam import Adam
from sae_dist.train.optimizers.config import OptimConfig

if TYPE_CHECKING:
    import torch


@dataclass(kw_only=True, slots=True)
class RungConfig:
    """What one rung trains: a coder from one site of the store to another (or the same).

    `init_from` is the coder to go on from (see `interop.load_coder`); without one it begins anew.
    `expansion` latents a dimension of the site take the place of `coder.num_latents`.
    """

    name: str = ""
    site: str = ""
    target: str = ""
    init_from: str | None = None
    expansion: float | None = setting(None, above=0)
    coder: CoderConfig = field(default_factory=JumpReLU)
    optim: OptimConfig = field(default_factory=Adam)
    parallel: MeshConfig = field(default_factory=MeshConfig)


class Resume(StrEnum):
    """`auto` goes on from a checkpoint if there is one, `never` and `must` refuse the other case.

    The words are W&B's.
    """

    auto = "auto"
    never = "never"
    must = "must"


class Precision(StrEnum):
    """How exact a step is. Weights, moments and sums are float32, or all is float64.

    With `float32` selection and values are those of float32, but for AuxK's products, which take
    bfloat16 where that is faster. With `bfloat16` latents are selected by products of bfloat16,
    and weights' gradients are summed from activations rounded to it.
    """

    float32 = "float32"
    bfloat16 = "bfloat16"
    float64 = "float64"

    @property
    def weights(self) -> "torch.dtype":
        """The dtype of weights and moments."""
        import torch

        return torch.float64 if self is Precision.float64 else torch.float32


class WandbMode(StrEnum):
    """`auto` is online where there is a key, offline elsewhere."""

    auto = "auto"
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass(kw_only=True, slots=True)
class LogConfig:
    """How often figures are logged, and to what beside `metrics.jsonl`.

    Every `evaluate_every_steps` steps (null: never) the rungs are measured on `evaluate_tokens`
    tokens that are held out: on whole sequences, always the same.
    In W&B a rung is a run and a ladder a group, in `project` (of `entity`, a user or a team).
    Weights are uploaded (as artifacts, at the end) only with `upload_coders`. `tensorboard` writes
    event files to `runs/NAME/tensorboard/<rung>`.
    """

    every_steps: int = setting(50, min=1)
    histogram_every_steps: int = setting(500, min=1)
    evaluate_every_steps: int | None = setting(None, min=1)
    evaluate_tokens: int = setting(2**16, min=1)
    wandb: WandbMode = WandbMode.auto
    project: str = setting("sae_dist", check=require_project)
    entity: str | None = setting(None, check=require_project)
    upload_coders: bool = False
    tensorboard: bool = False


@dataclass(kw_only=True, slots=True)
class WatchConfig:
    """When one process ends the run of all, in seconds.

    After `stall_seconds` without a sign of life or without progress, or five times the longest
    step yet if that is more. What may take long (the start, the first two steps, saving, writing
    the coders) has `pause_seconds`. Every `replicas_every_steps` steps, and before each
    checkpoint, replicas are compared bit by bit.
    """

    stall_seconds: float = setting(40.0, above=0)
    pause_seconds: float = setting(1800.0, above=0)
    replicas_every_steps: int = setting(1000, min=1)


@dataclass(kw_only=True, slots=True)
class LoopConfig:
    """How long a ladder is trained on what stream.

    `tokens` counts those of all steps; null stands for all that the store has for training, once.
    With `cuda_graph` a TopK's step, without AuxK and on one GPU, is recorded and then replayed.
    `machine` is what meshes are chosen for: its network, and the memory of its devices.
    With `profile` each process writes a trace of a few early steps to `runs/NAME/profile`.
    """

    resume: Resume = Resume.auto
    seed: int = setting(0, min=0)
    tokens: int | None = setting(None, min=1)
    batch_tokens: int = setting(4096, min=1)
    precision: Precision = Precision.float32
    profile: bool = False
    cuda_graph: bool = False
    machine: MachineConfig = field(default_factory=MachineConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    log: LogConfig = field(default_factory=LogConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
