"""The coders of a run that is still in training, as its checkpoint holds them."""

from pathlib import Path
from typing import Any

from torch import Tensor

from sae_dist.checkpoint import OpenCheckpoint, complete_checkpoints, on_mesh
from sae_dist.checkpoint.ranks import on_first_rank
from sae_dist.coders import Coder, Form, fold, make_coder, scale_of, slice_of
from sae_dist.coders.files import config_of
from sae_dist.common.errors import UserError
from sae_dist.common.joint import parts_of
from sae_dist.common.log import log_info
from sae_dist.evaluate import Candidate, finished
from sae_dist.parallel import Mesh, World, set_mesh
from sae_dist.train.config import Precision


def coders_to_read(run: Path, step: int | None, world: World) -> list[Candidate]:
    """A finished run's coders, or those of a checkpoint: of `step`, or of a run in training."""
    is_finished = next((run / "coders").glob("*/coder.json"), None) is not None
    if step is None and (is_finished or not (run / "checkpoints").is_dir()):
        return finished(run, world.device)
    return checkpointed(run, step, world)


def checkpointed(run: Path, step: int | None, world: World) -> list[Candidate]:
    """A checkpoint's rungs, of `step` or the newest; called by all processes together.

    Raises:
        UserError: there is none of that step, or it is not as it was written.
    """
    path = on_first_rank(None, lambda: _find(run / "checkpoints", step))
    checkpoint = OpenCheckpoint(path)
    log_info(f"reading {path}")
    return [
        _candidate(run, rung, checkpoint, world) for rung in checkpoint.about["identity"]["rungs"]
    ]


def _find(folder: Path, step: int | None) -> Path:
    found = {path.name: path for path in complete_checkpoints(folder)}
    if step is None and found:
        return list(found.values())[-1]
    if f"step-{step}" not in found:
        raise UserError(
            f"found no checkpoint of step={step} in {folder}; expected one of {', '.join(found)}; "
            "choose with step=…, or wait for the next"
        )
    return found[f"step-{step}"]


def _candidate(
    run: Path, rung: dict[str, Any], checkpoint: OpenCheckpoint, world: World
) -> Candidate:
    name, identity = rung["name"], checkpoint.about["identity"]
    config = config_of(rung["coder"])
    num_latents, d_out = config.num_latents, checkpoint.shapes[f"{name}/b_dec"][0]
    is_layered = config.form is Form.cross_layer_transcoder
    first = f"{name}/layers.0.W_enc" if is_layered else f"{name}/W_enc"
    d_in = checkpoint.shapes[first][1] * (config.num_sites if is_layered else 1)

    def load(mesh: Mesh) -> Coder:
        latents = slice_of(num_latents, mesh.latent.index, mesh.latent.size)
        dtype = Precision(identity["precision"]).weights
        how = {"latents": latents, "dtype": dtype, "device": world.device}
        coder = make_coder(config, d_in, d_out, **how)
        tensors: dict[str, Tensor] = {
            f"{name}/{key}": on_mesh(tensor, mesh.devices, is_slice=key in coder.latent_tensors)
            for key, tensor in coder.state_dict().items()
        }
        checkpoint.load(tensors)
        scale, target_scale = (
            scale_of(tuple(identity["mean_square"][s] for s in parts_of(site)), width, dtype)
            for site, width in ((rung["site"], d_in), (rung["target"], d_out))
        )
        own = target_scale if config.form.scales_target else scale
        return fold(set_mesh(coder, mesh), scale, target_scale=own)

    return Candidate(
        run=run,
        name=name,
        site=rung["site"],
        target=rung["target"],
        num_latents=num_latents,
        form=config.form,
        d_in=d_in,
        d_out=d_out,
        fingerprint=f"step {checkpoint.about['step']} of {identity['source']}",
        load=load,
    )
