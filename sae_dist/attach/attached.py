"""`with sae_dist.attach(lm, {site: coder}) as run:` what coders see in a text, and may change."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import sae_dist.lm as language
from sae_dist.attach.edit import Edit, Positions
from sae_dist.attach.latents import Latents
from sae_dist.attach.passing import Passing
from sae_dist.attach.place import Coders, Place, places_of
from sae_dist.common.errors import UserError
from sae_dist.common.names import nearest
from sae_dist.lm import LM, LMConfig, load_lm
from sae_dist.text import special_ids

Text = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Tensor


@contextmanager
def attach(
    lm: LM | PreTrainedModel | LMConfig | str | Path,
    coders: Coders,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    special_tokens: bool = False,
) -> Iterator["Attached"]:
    """Attach coders to a language model: `with sae_dist.attach(lm, {site: coder}) as run:`.

    The language model has hooks only while a call runs, also where that ends with an error.

    Args:
        lm: what `load_lm` gives, or its configuration, a folder or a name on the Hub; or any causal
            model of transformers, together with its `tokenizer`.
        coders: by the site that each reads, `resid_post.4`, and for a transcoder also writes,
            `mlp_in.4 → mlp_out.4` (or `->`); each a coder, or where `load_coder` finds one. Of
            coders whose files say where they belong the places alone will do.
        special_tokens: whether coders read special tokens (BOS, say), too. They were not trained
            on these, so by default they leave the language model's own activations there.

    Raises:
        UserError: a site that the model has not, a coder that cannot be loaded, is a slice, or was
            trained with other norms at that site.
    """
    if isinstance(lm, str | Path):
        lm = LMConfig(name=str(lm))
    if isinstance(lm, LMConfig):
        lm = load_lm(lm)
    if isinstance(lm, LM):
        model, tokenizer = lm.model, tokenizer or lm.tokenizer
    else:
        model = lm
    if tokenizer is None:
        raise UserError(
            "found a model without a tokenizer; expected both; call attach(…, tokenizer=…)"
        )
    run = Attached(model, tokenizer, places_of(lm, coders), special_tokens=special_tokens)
    try:
        yield run
    finally:
        run.detach()


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class RunOutput:
    """What one call found, of N sequences of S positions.

    Attributes:
        logits: [N, S, V].
        input_ids: [N, S]; shorter texts are filled up at the end.
        tokens: each sequence's tokens as text.
        is_read: [N, S], false at special tokens and fillings, which no coder reads or changes.
        latents: what fires at each site, before any edit.
        reconstruction: [N, S, E] of each site's target: what `splice` puts there. The language
            model's own at tokens that are not read.
        error: [N, S, E], what the coder leaves: with the reconstruction the model's own activation.
    """

    logits: Tensor
    input_ids: Tensor
    tokens: list[list[str]]
    is_read: Tensor
    latents: dict[str, Latents]
    reconstruction: dict[str, Tensor]
    error: dict[str, Tensor]


class Attached:
    """A language model with coders, as `attach` gives it: call it with texts."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        places: dict[str, Place],
        *,
        special_tokens: bool,
    ) -> None:
        self._model, self._tokenizer, self._places = model, tokenizer, places
        self._special = [] if special_tokens else special_ids(tokenizer).tolist()
        self._active: list[Edit] = []

    def __call__(
        self, text: Text, *edits: Edit, splice: bool = False, grad: bool = False
    ) -> RunOutput:
        """Run the language model over a text.

        Args:
            text: one or several; they begin with BOS (EOS, if there is none) as harvested ones do.
                Or ids [S] or [N, S], as they are.
            edits: of `steer` and `ablate`, after those whose block this is.
            splice: put reconstructions in the place of activations. Otherwise each coder's error
                is kept: an activation changes by what edits add to it, and without any by nothing.
            grad: let the logits have gradients in the latents' `values_A`. Where errors are kept
                these are of an activation's latents alone, and through what the language model does
                after it; with `splice` what earlier coders wrote is passed on by later ones.

        Raises:
            UserError: no text, or a coder that does not fit its site.
        """
        ids_NS, is_text_NS = self._ids(text)
        read_NS = is_text_NS & ~torch.isin(ids_NS, ids_NS.new_tensor(self._special))
        with (
            torch.set_grad_enabled(grad),
            self._spliced(read_NS, edits, splice=splice, grad=grad) as passing,
        ):
            logits_NSV: Tensor = self._model(input_ids=ids_NS).logits
        return RunOutput(
            logits=logits_NSV,
            input_ids=ids_NS,
            tokens=[[str(self._tokenizer.decode([one])) for one in ids] for ids in ids_NS.tolist()],
            is_read=read_NS,
            latents={name: one.latents for name, one in passing.items()},
            reconstruction={name: one.reconstruction for name, one in passing.items()},
            error={name: one.error for name, one in passing.items()},
        )

    @torch.no_grad()
    def generate(
        self,
        text: Text,
        *edits: Edit,
        max_new_tokens: int = 32,
        splice: bool = False,
        **options: Any,
    ) -> str:
        """One text and how the language model goes on from it.

        Every new token is read; positions of edits count over the text and what may come.

        Args:
            text, edits, splice: as in a call.
            max_new_tokens: how many tokens at most.
            options: of transformers' `generate`; without any the likeliest token comes next.

        Raises:
            UserError: as in a call, and for several texts.
        """
        ids_NS, is_text_NS = self._ids(text)
        if len(ids_NS) > 1:
            raise UserError(
                f"found {len(ids_NS)} texts; expected one; generate from each by itself"
            )
        read_NS = is_text_NS & ~torch.isin(ids_NS, ids_NS.new_tensor(self._special))
        to_come_NS = pad(read_NS, (0, max_new_tokens), value=True)
        usual = {"do_sample": False, "pad_token_id": self._filling, "use_cache": True}
        with self._spliced(to_come_NS, edits, splice=splice, grad=False):
            generate: Any = self._model.generate  # which mypy takes for a tensor
            found_NS = generate(
                ids_NS,
                attention_mask=torch.ones_like(ids_NS),
                max_new_tokens=max_new_tokens,
                **{**usual, **options},
            )
        return str(self._tokenizer.decode(found_NS[0], skip_special_tokens=True))

    def steer(
        self,
        site: str,
        latent: int | Sequence[int] | Tensor,
        *,
        add: float | None = None,
        set: float | None = None,
        positions: Positions = None,
    ) -> Edit:
        """Make latents fire more, or as strongly as is said, wherever the coder reads.

        What the change of their activations decodes to is added to the target. The edit is an
        argument of a call, `run(text, run.steer(…))`, or holds for a block, `with run.steer(…):`.

        Args:
            site: by the name that the coder was attached with.
            latent: one, or several that are changed alike.
            add, set: one of them, in units of activations.
            positions: an index, a slice or a list of such, or a mask [S]; None everywhere.

        Raises:
            UserError: another site or latent, or not one of `add` and `set`.
        """
        if (add is None) == (set is None):
            raise UserError(f"found add={add}, set={set}; expected one of them; give the other up")
        latents = tuple(torch.as_tensor(latent).flatten().tolist())
        num_latents = self._place(site).coder.config.num_latents
        if beyond := [one for one in latents if not 0 <= one < num_latents]:
            raise UserError(
                f"found latent {beyond[0]} of {site}; expected 0 to {num_latents - 1}; correct it"
            )
        amount, replaces = (set, True) if set is not None else (add, False)
        return Edit(
            site=site,
            latents=latents,
            amount=float(amount or 0),
            replaces=replaces,
            positions=positions,
            active=self._active,
        )

    def ablate(
        self, site: str, latents: int | Sequence[int] | Tensor, *, positions: Positions = None
    ) -> Edit:
        """Let latents be silent: `steer` with `set=0`."""
        return self.steer(site, latents, set=0.0, positions=positions)

    def detach(self) -> None:
        """Let go of the coders; `attach` calls it at its end."""
        self._places.clear()
        self._active.clear()

    @contextmanager
    def _spliced(
        self, read_NS: Tensor, edits: Sequence[Edit], *, splice: bool, grad: bool
    ) -> Iterator[dict[str, Passing]]:
        """Every coder at its place."""
        if not self._places:
            raise UserError(
                "found no coder attached; expected a call inside of the block, and at least one; "
                "call within `with sae_dist.attach(lm, {site: coder}) as run:`"
            )
        nowhere = torch.zeros(1, 1, dtype=torch.bool, device=read_NS.device)
        passing = {}
        with ExitStack() as hooks:
            for name, place in self._places.items():
                own = [edit for edit in (*self._active, *edits) if edit.site == name]
                passing[name] = Passing(place, read_NS, own, splice=splice, grad=grad)
                sites = place.read, place.write
                spliced = language.splice(self._model, *sites, passing[name], nowhere)
                hooks.enter_context(spliced)
            yield passing

    def _place(self, site: str) -> Place:
        if site not in self._places:
            raise UserError(
                f"found no coder at {site}; expected one of {', '.join(self._places)}"
                f"{nearest(site, self._places)}"
            )
        return self._places[site]

    @property
    def _filling(self) -> int:
        """What fills up shorter texts."""
        known = self._tokenizer.pad_token_id, self._tokenizer.eos_token_id
        return next((one for one in known if one is not None), 0)

    def _ids(self, text: Text) -> tuple[Tensor, Tensor]:
        """Ids [N, S], and where they are no filling."""
        rows = self._rows(text)
        lengths_N = torch.tensor([len(row) for row in rows])
        if not rows or not int(lengths_N.min()):
            raise UserError("found no token in a text; expected one at least; give more text")
        longest = int(lengths_N.max())
        ids_NS = torch.tensor([[*row, *[self._filling] * (longest - len(row))] for row in rows])
        is_text_NS = torch.arange(longest) < lengths_N[:, None]
        return ids_NS.to(self._model.device), is_text_NS.to(self._model.device)

    def _rows(self, text: Text) -> list[list[int]]:
        if isinstance(text, Tensor):
            return torch.atleast_2d(text).tolist()
        rows: Any = (
            [text] if isinstance(text, str) or not text or isinstance(text[0], int) else text
        )
        if not isinstance(rows[0], str):
            return [list(row) for row in rows]
        first = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        begin = [one for one in first if one is not None][:1]
        found = self._tokenizer(list(rows), add_special_tokens=False)["input_ids"]
        return [ids if begin and ids[:1] == begin else [*begin, *ids] for ids in found]
