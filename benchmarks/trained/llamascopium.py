"""Llamascopium: its `Initializer` and its `Trainer.fit`, on activations of E‖x‖² = D.

`same` takes this project's rates and AuxK and, scaled by √D, its first threshold and bandwidth;
`own` its default rate, its search of the first norm, its default bandwidth and no AuxK. Its
JumpReLU pays for tanh of the activations, with a coefficient that is searched.
"""

import math
import tempfile
from collections.abc import Iterator

import torch
from llamascopium.initializer import Initializer, InitializerConfig
from llamascopium.models.sae import SAEConfig, SparseAutoEncoder
from llamascopium.trainer import Trainer, TrainerConfig
from torch import Tensor

from benchmarks.trained.task import AUTOENCODER, DEVICE, Task, Weights, finish

_SITE, _TARGET = "x", "y"


def as_batch(x_BD: Tensor, y_BE: Tensor) -> dict[str, Tensor]:
    """Activations as its trainer takes them."""
    ones = torch.ones(len(x_BD), device=DEVICE)
    return {_SITE: x_BD, _TARGET: y_BE, "tokens": ones.long(), "mask": ones.bool()}


class Stream:
    """The batches from the beginning, however often they are asked for."""

    def __init__(self, task: Task, factor: float) -> None:
        self.task, self.factor = task, factor

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (as_batch(x_BD, y_BE) for x_BD, y_BE in self.task.pairs(self.factor))


def make_coder(task: Task, stream: Stream) -> SparseAutoEncoder:
    """Its coder of that kind, initialised by its own code."""
    is_same, recipe = task.setting == "same", task.recipe
    config = SAEConfig(
        hook_point_in=_SITE,
        hook_point_out=_SITE if task.form == AUTOENCODER else _TARGET,
        d_model=task.d_in,
        expansion_factor=task.setup.num_latents / task.d_in,
        act_fn=task.kind,
        norm_activation="inference",  # the activations have their norm already
        top_k=task.setup.k,
        use_triton_kernel=False,
        device=DEVICE,
        dtype=torch.float32,
        **({"jumprelu_threshold_window": recipe.bandwidth * stream.factor} if is_same else {}),
    )
    coder = SparseAutoEncoder(config)
    bound = 1 / math.sqrt(task.d_in)
    norm = recipe.encoder_norm if is_same else 1 / math.sqrt(3)
    initializer = Initializer(
        InitializerConfig(
            bias_init_method="geometric_median",
            encoder_uniform_bound=norm * math.sqrt(3) * bound,
            decoder_uniform_bound=bound,
            init_log_jumprelu_threshold_value=math.log(recipe.threshold * stream.factor),
            grid_search_init_norm=not is_same,
        )
    )
    initializer.initialize_parameters(coder)
    if is_same:
        coder.set_decoder_to_fixed_norm(1.0, force_exact=True)
    return initializer.initialization_search(coder, next(iter(stream)))


def make_config(task: Task, folder: str) -> TrainerConfig:
    """The rates of the run."""
    is_topk, recipe, equal = task.kind == "topk", task.recipe, {}
    if task.setting == "same":
        equal = {"lr": recipe.lr, "betas": (recipe.beta1, recipe.beta2)}
        equal |= {"clip_grad_norm": recipe.clip_norm or 0.0}
        if is_topk and recipe.aux_coefficient:
            equal |= {"auxk_coefficient": recipe.aux_coefficient, "k_aux": recipe.aux_k}
            equal |= {"dead_threshold": recipe.dead_after}
    return TrainerConfig(
        amp_dtype=torch.float32,
        sparsity_loss_type=None if is_topk else "tanh",
        l1_coefficient=None if is_topk else task.aim,
        l1_coefficient_warmup_steps=task.sparsity_warmup_steps,
        initial_k=task.setup.k,
        lr_warm_up_steps=task.warmup_steps,
        lr_cool_down_steps=recipe.decay_share,
        lr_end_ratio=0.0,
        total_training_tokens=task.num_steps * task.setup.batch,
        n_checkpoints=0,
        skip_metrics_calculation=True,
        exp_result_path=folder,
        **equal,
    )


def train(task: Task) -> float:
    """Train one coder and write its weights; the seconds it took."""
    factor = math.sqrt(task.d_in)
    stream = Stream(task, factor)
    coder = make_coder(task, stream)
    with tempfile.TemporaryDirectory() as folder:
        Trainer(make_config(task, folder)).fit(coder, stream)
    threshold = None
    if task.kind == "jumprelu":
        threshold = coder.activation_function.get_jumprelu_threshold()
    weights = Weights(coder.W_E.T, coder.b_E, coder.W_D, coder.b_D, threshold)
    folded = weights.folded(is_pre_bias=False, is_by_norm=True, factor=factor)
    return finish(task, folded, lambda x_BD: coder.decode(coder.encode(x_BD)), factor)
