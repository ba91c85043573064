"""Go on from a coder that was trained before, here or elsewhere, instead of from first weights."""

from typing import Any

from sae_dist.coders import Coder, Scale, unfold
from sae_dist.common.errors import UserError
from sae_dist.interop import load_coder
from sae_dist.parallel import Mesh

_TOLERANCE = 1e-3  # of norms that are to be 1: publishers round


def warm_start(where: str, coder: Coder, scale: Scale, target_scale: Scale, mesh: Mesh) -> None:
    """Give a coder, or its slice on a mesh, the weights of a finished one.

    Args:
        where: see `interop.load_coder`. A finished coder takes raw activations, so what depends on
            their scale is divided by it.
        coder: changed in place.
        scale, target_scale: C of the activations that it is trained on, as for `fold`.
        mesh: which slice this is.

    Raises:
        UserError: no coder there, one of another kind, form or width, or one whose decoder has not
            the unit norm that training would give it.
    """
    part, parts = mesh.latent.index, mesh.latent.size
    found = load_coder(where, coder.b_dec.device, part=part, parts=parts)
    was, wanted = _shape(found), _shape(coder)
    if was != wanted:
        unlike = [f"{key}={was[key]}, not {wanted[key]}" for key in was if was[key] != wanted[key]]
        raise UserError(
            f"init_from={where} has {'; '.join(unlike)}; expected a coder like the one that is "
            "trained: change the settings, or choose another"
        )
    unfold(found, scale, coder, target_scale=target_scale)
    if coder.config.unit_norm_decoder:
        norms_F = coder.row_norms()
        if ((norms_F - 1).abs() > _TOLERANCE).any():
            raise UserError(
                f"init_from={where} has decoder norms from {norms_F.min():.3g} to "
                f"{norms_F.max():.3g}; expected 1: set coder.unit_norm_decoder=false"
            )


def _shape(coder: Coder) -> dict[str, Any]:
    """What must agree, by the names that a user sets. k may be another."""
    config = coder.config
    return {
        "coder.kind": config.kind,
        "coder.form": config.form.value,
        "coder.num_latents": config.num_latents,
        "coder.num_sites": config.num_sites,
        "coder.inputs": config.inputs.value,
        "input width": coder.d_in,
        "output width": coder.d_out,
    }
