"""Random harm to valid files of every format: one line, or a coder that computes."""

import copy
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_dist.coders import Coder, Form, fold, kind_names
from sae_dist.common.errors import UserError
from sae_dist.interop import format_named, format_names, load_coder
from sae_dist.interop.saebench import load_for_saebench
from tests.coders.kinds import FORMS, config_of_kind
from tests.interop.scopes import SCOPES

pytestmark = pytest.mark.slow

EXAMPLES = 100  # of each format, kind and form that it holds
D, F, K = 6, 24, 3
ABOUT = {"site": "resid_post.3", "target": "mlp_out.3", "source": {"lm": {"name": "some/lm"}}}

Values = dict[str, Any]
Harm = Callable[[Values, dict[str, Any]], None]  # to settings and tensors


ONLY_READ = ("llama_scope", "llama_scope_r1", "qwen_scope", "goodfire", "circuit_tracer")


def cases() -> Iterator[tuple[str, str, Form]]:
    for name in (*ONLY_READ, "gated, of dictionary_learning", "gated, of SAELens"):
        yield name, "", Form.autoencoder
    for name, kind, form in itertools.product(format_names(), kind_names(), FORMS):
        config = config_of_kind(kind, form=form, num_latents=F, k=K)
        if format_named(name).unsupported_reason(config, D, D, ABOUT) is None:
            yield name, kind, form


def written(folder: Path, name: str, kind: str, form: Form) -> None:
    """A valid coder with small generic weights; one that is only read as it was published."""
    if name in SCOPES and not kind:
        SCOPES[name](folder)
        return
    generator = torch.Generator().manual_seed(0)
    coder = Coder(config_of_kind(kind, form=form, num_latents=F, k=K), D, D)
    with torch.no_grad():
        for tensor in coder.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    format_named(name).write(folder, fold(coder.eval(), 2.0), ABOUT)


def contents(folder: Path) -> tuple[Path | None, Values, Path, dict[str, Any]]:
    """The file of settings and what it says, the file of weights and its tensors."""
    files = {path for path in folder.rglob("*") if path.is_file()}
    described = next((path for path in files if path.suffix in (".json", ".yaml")), None)
    (weights,) = files - {described}
    values = json.loads(described.read_text()) if described else {}
    if weights.suffix == ".npz":
        with np.load(weights) as file:
            return described, values, weights, dict(file)
    is_pickle = weights.suffix in (".pt", ".pth")
    return described, values, weights, torch.load(weights) if is_pickle else load_file(weights)


WORDS = st.sampled_from(
    [
        *("topk", "relu", "tanh-relu", "jumprelu", "batchtopk", "groupmax", "gated", "transcoder"),
        *("none", "layer_norm", "hook_z", "float16", "torch.float32", "6.0.0", "5.10.0"),
        "autoencoder",
        *("BatchTopKSAE", "AutoEncoderTopK", "JumpReluAutoEncoder", "skip_transcoder", "standard"),
    ]
)
PLAIN = st.none() | st.booleans() | st.integers(-3, 70) | st.integers() | st.floats() | st.text()
ANY = st.recursive(
    PLAIN | WORDS | st.just(10**40) | st.sampled_from(["\ud800", "a\nb", "\x1b[2J", "../../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
KEYS = st.sampled_from(
    [
        *("architecture", "activation_fn", "activation_fn_str", "activation_fn_kwargs", "k"),
        *("hook_head_index", "hook_name", "hook_point", "signed", "activation", "num_latents"),
        *("normalize_activations", "apply_b_dec_to_input", "rescale_acts_by_decoder_norm"),
        *("sae_lens_version", "metadata", "dtype", "d_in", "d_sae", "d_out", "transcode"),
        *("skip_connection", "expansion_factor", "trainer", "dict_class", "dict_size", "kind"),
        *("act_fn", "jump_relu_threshold", "d_model", "affine_connection", "type", "width"),
        *("form", "pre_bias", "about", "config", "format", "site", "target", "finetuning_method"),
    ]
)
NAMES = st.sampled_from(
    [
        *("W_enc", "b_enc", "W_dec", "b_dec", "threshold", "W_skip", "scaling_factor", "k", "bias"),
        *("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias", "group_sizes"),
        *("b_mag", "r_mag", "log_jumprelu_threshold", "affine_skip_connection", "w_enc"),
    ]
)
TENSORS: list[Callable[[Tensor], Tensor]] = [
    lambda t: t.T if t.dim() == 2 else t[None],
    lambda t: t.flatten(),
    lambda t: t[:0] if t.dim() else t,
    lambda t: t[..., :-1] if t.dim() else t,
    lambda t: torch.cat([t, t]) if t.dim() else t,
    lambda t: t.sum(),
    lambda t: t.double(),
    lambda t: t.half(),
    lambda t: t.nan_to_num(0, 0, 0).clamp(-9, 9).long(),
    lambda t: t > 0,
    lambda t: t.to(torch.complex64),
    lambda t: torch.full_like(t if t.is_floating_point() else t.double(), torch.nan),
    lambda t: torch.full_like(t if t.is_floating_point() else t.double(), -torch.inf),
    lambda t: t.double() * 1e200,
    lambda t: t * 0,
    lambda t: -t,
]


def places(values: Any) -> list[Values]:
    """The settings themselves, and those inside them."""
    inner = [places(value) for value in values.values() if isinstance(value, dict)]
    return [values, *itertools.chain(*inner)]


@st.composite
def harms(draw: st.DrawFn) -> Harm:
    """One change to settings or tensors, drawn before it is known to which."""
    where, which = draw(st.integers(0, 9)), draw(st.integers(0, 40))
    kinds = ["set", "add", "drop", "rename", *["tensor"] * 3, "drop t", "name t"]
    kind = draw(st.sampled_from(kinds))
    key, value = draw(KEYS | st.text(max_size=5)), draw(ANY)
    name, change = draw(NAMES | st.text(max_size=5)), draw(st.sampled_from(TENSORS))

    def harm(values: Values, tensors: dict[str, Any]) -> None:
        inside = places(values)[where % len(places(values))]
        if kind in ("set", "drop", "rename") and inside:
            there = list(inside)[which % len(inside)]
            taken = inside.pop(there)
            if kind != "drop":
                inside[there if kind == "set" else key] = value if kind == "set" else taken
        elif kind == "add":
            inside[key] = value
        elif tensors:
            there = list(tensors)[which % len(tensors)]
            taken = tensors.pop(there)
            if kind == "tensor":
                tensors[there] = as_found(change(torch.as_tensor(taken)), taken)
            elif kind == "name t":
                tensors[name] = taken

    return harm


def as_found(tensor: Tensor, like: Any) -> Any:
    return tensor.numpy() if isinstance(like, np.ndarray) else tensor.contiguous()


def put_back(path: Path, tensors: dict[str, Any]) -> None:
    if path.suffix == ".npz":
        with open(path, "wb") as file:
            np.savez(file, **{name.replace("/", "_"): array for name, array in tensors.items()})
    elif path.suffix in (".pt", ".pth"):
        torch.save(tensors, path)
    else:
        save_file({name: t.clone() for name, t in tensors.items()}, path)


def require_one_line(call: Callable[[], Any]) -> Any:
    """What it returns; None where it was refused, in one line."""
    try:
        return call()
    except UserError as error:
        assert str(error).isprintable() and len(str(error)) < 1000
        return None


@pytest.mark.parametrize(("name", "kind", "form"), list(cases()))
def test_harmed_files_are_refused_in_one_line_or_give_a_coder(
    name: str, kind: str, form: Form, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    written(whole, name, kind, form)
    described, values, weights, tensors = contents(whole)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(harms(), min_size=1, max_size=3), st.none() | st.binary(max_size=40))
    def harmed(changes: list[Harm], garbage: bytes | None) -> None:
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        file, found, kept = (
            folder / weights.relative_to(whole),
            copy.deepcopy(values),
            dict(tensors),
        )
        for change in changes:
            change(found, kept)
        if described is not None:
            (folder / described.name).write_text(json.dumps(found))
        file.parent.mkdir(exist_ok=True)
        put_back(file, kept)
        if garbage is not None and len(garbage) < 4:
            data = file.read_bytes()
            at = sum(garbage) % len(data)
            file.write_bytes(data[:at] + garbage + data[at + len(garbage) :])
        elif garbage is not None and len(garbage) < 8 and described is not None:
            (folder / described.name).write_bytes(garbage)
        coder = require_one_line(lambda: load_coder(folder))
        if coder is not None:
            x_BD = torch.linspace(-1, 1, 8 * coder.d_in).reshape(8, -1)
            acts_BF, y_BE = coder.encode(x_BD), coder(x_BD)
            most = coder.config.k if coder.config.kind == "topk" else acts_BF.shape[1]
            assert (acts_BF != 0).sum(1).max() <= most
            is_small = all(t.abs().max() < 1e15 for t in coder.state_dict().values())
            assert not is_small or (acts_BF.isfinite().all() and y_BE.isfinite().all())
        if name == "sae_dist":
            require_one_line(lambda: load_for_saebench(folder))
        shutil.rmtree(folder)

    harmed()
