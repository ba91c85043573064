"""Which coder reads and writes where in a language model."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from sae_dist.coders import Coder, Form
from sae_dist.common.errors import UserError
from sae_dist.interop import load_described
from sae_dist.lm import LM, Site, resolve

Coders = Mapping[str, Coder | str | Path] | Iterable[str | Path]
_ARROW = re.compile(r"\s*(?:→|->)\s*")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Place:
    """A coder with the sites that it reads and writes, which an autoencoder has as one."""

    name: str
    coder: Coder
    read: Site
    write: Site


def places_of(lm: LM | PreTrainedModel, coders: Coders) -> dict[str, Place]:
    """Each coder's place, by its name.

    Raises UserError where it is not known, or none of this language model's, and for a slice of a
    coder.
    """
    given = coders.items() if isinstance(coders, Mapping) else ((None, one) for one in coders)
    places: dict[str, Place] = {}
    for name, one in given:
        place = _place(lm, name, one)
        if place.name in places:
            raise UserError(
                f"found two coders at {place.name}; expected one a site; attach them one by one"
            )
        places[place.name] = place
    return places


def _place(lm: LM | PreTrainedModel, name: str | None, one: Coder | str | Path) -> Place:
    model = lm.model if isinstance(lm, LM) else lm
    coder, about = (one, {}) if isinstance(one, Coder) else load_described(one, model.device)
    if len(coder.latents) < coder.config.num_latents:
        raise UserError(
            f"found {len(coder.latents)} of a coder's {coder.config.num_latents} latents; expected "
            "all; load it without part= and parts="
        )
    if coder.config.form.spans_sites:
        raise UserError(
            f"found a {coder.config.form.replace('_', ' ')} of {coder.config.num_sites} sites; "
            "expected a coder of one; measure it with sae-dist evaluate, or call it on the sites' "
            "activations joined"
        )
    if coder.W_enc.device != model.device:
        raise UserError(
            f"found a coder on {coder.W_enc.device} and a language model on {model.device}; "
            f'expected one device; move it: coder.to("{model.device}")'
        )
    read, write = _sites(name, one, coder, about)
    _require_norms(lm, read, about)
    return Place(
        name=name or (read if read == write else f"{read} → {write}"),
        coder=coder,
        read=resolve(model, read),
        write=resolve(model, write),
    )


def _sites(
    name: str | None, one: Coder | str | Path, coder: Coder, about: dict[str, Any]
) -> tuple[str, str]:
    """What it reads and writes: as its name says, else as its file does."""
    read, *further = _ARROW.split(name.strip()) if name else [about.get("site")]
    if read is None:
        raise UserError(
            f"found that {one} does not say what it reads; expected {{site: coder}}; name its site"
        )
    is_autoencoder = coder.config.form is Form.autoencoder
    write, *beyond = further or [read if is_autoencoder else about.get("target")]
    if write is None or beyond:
        raise UserError(
            f"found {coder.config.form} at {name}; expected what it reads, as resid_post.4, or "
            "what it reads and writes, as mlp_in.4 → mlp_out.4; correct the name"
        )
    return str(read), str(write)


def _require_norms(lm: LM | PreTrainedModel, read: str, about: dict[str, Any]) -> None:
    """Refuse an MLP's input behind a gain for a coder that was trained before it, or the other way.

    Where the file does not say it, or the model was loaded elsewhere, it is the caller's care.
    """
    folds = ((about.get("source") or {}).get("lm") or {}).get("fold_norms")
    has = lm.config.fold_norms if isinstance(lm, LM) else folds
    if read.startswith("mlp_in.") and folds not in (None, has):
        raise UserError(
            f"found a coder of {read} trained with lm.fold_norms={str(folds).lower()}, and a "
            f"language model with {str(has).lower()}; expected the same; load it with "
            f"LMConfig(fold_norms={folds})"
        )
