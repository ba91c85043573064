"""circuit-tracer 0.5: a set of transcoders, one of each layer, and what its viewer shows of them;
or a cross-layer transcoder.

    FOLDER/layer_N.safetensors       `W_enc`, `W_dec` [F, D], `b_enc`, `b_dec`, `W_skip` [D, D],
                                     and `activation_function.threshold` [F]
    FOLDER/W_enc_N.safetensors       or of a cross-layer transcoder each layer's `W_enc_N` [F, D],
                                     `b_enc_N`, `b_dec_N` [D] and `threshold_N` [F]
    FOLDER/W_dec_N.safetensors       and `W_dec_N` [F, L - N, D], to this layer and each later one
    FOLDER/config.yaml               the language model, and where it is read and written
    FOLDER/features/layer_N.bin      of each latent its length, four bytes, and deflated JSON
    FOLDER/features/index.json.gz    {N: {"filename", "offsets" [F + 1]}}

Without thresholds its loader takes ReLU, whatever `config.yaml` says: a TopK has no place here.
"""

import gzip
import json
import shutil
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from sae_dist.coders import FiresBy, Form
from sae_dist.common.errors import UserError
from sae_dist.common.files import atomic_path, write_atomic
from sae_dist.common.hooks import hook_name, layer_of
from sae_dist.common.joint import join, parts_of
from sae_dist.common.log import log_info
from sae_dist.handoff.dashboard import SHOWN, as_texts, short
from sae_dist.handoff.handoff import Handoff, Texts, written_anew
from sae_dist.latents import Example, Latents, rungs_with_latents

FEATURES, INDEX = "features", "index.json.gz"
_WEIGHTS = "layer_*.safetensors", "W_enc_*.safetensors", "W_dec_*.safetensors"
_HEAD_BYTES = 4
_ESCAPED = "backslashreplace"  # the viewer puts `\xe2` and those after it together again


class CircuitTracer(Handoff):
    """A set of a run's transcoders, one a layer, with their latents where these are known; or a
    cross-layer transcoder.
    """

    name = "circuit_tracer"
    title = "circuit-tracer"
    needs_texts = False

    def rungs(self, run: Path) -> list[str]:
        """All coders of the run: of their latents nothing need be known."""
        if names := sorted(path.parent.name for path in run.glob("coders/*/coder.json")):
            return names
        raise UserError(
            f"no coders in {run / 'coders'}; expected a finished run: train it to its end first"
        )

    def check(self, run: Path, rungs: Sequence[str]) -> None:
        _layers({name: _describe(run, name) for name in rungs})

    def write(self, folder: Path, run: Path, rungs: Sequence[str], texts: Texts | None) -> None:
        """In memory: a block of a matrix; then a range of latents."""
        described = {name: _describe(run, name) for name in rungs}
        layers = _layers(described)
        for old in (old for kept in _WEIGHTS for old in folder.glob(kept)):
            old.unlink()
        if _is_cross_layer(described[layers[0]]):
            _write_cross_layer(folder, run / "coders" / layers[0])
            _write_config(folder, described[layers[0]], run.name)
            return
        for layer, name in enumerate(layers):
            _write_transcoder(folder / f"layer_{layer}.safetensors", run / "coders" / name)
        _write_config(folder, described[layers[0]], run.name)
        if texts is None or not set(layers) <= set(rungs_with_latents(run)):
            if (folder / FEATURES / INDEX).is_file():
                shutil.rmtree(folder / FEATURES)  # of another set
            log_info(
                "what its viewer shows is left out: that wants all layers' latents, which "
                f"sae-dist latents run={run.name} finds, and a tokenizer"
            )
            return
        with written_anew(folder / FEATURES, INDEX) as temporary:
            _write_features(temporary, [Latents(run, name) for name in layers], texts)


def unpack_features(folder: str | Path, graph: str | Path) -> Path:
    """Unpack the latents of a graph, so that circuit-tracer's own server shows them.

    Its page asks the Hub for `features/index.json.gz`, but the local server for a file a latent if
    the graph's `scan` begins with `./`: so it is set to `./data/features`.

    Args:
        folder: what `sae-dist export to=circuit_tracer` wrote.
        graph: a graph's file in the folder that is served, as `create_graph_files` writes it.

    Returns:
        the folder of the files, beside the graph.
    """
    folder, graph = Path(folder) / FEATURES, Path(graph)
    index = json.loads(gzip.decompress((folder / INDEX).read_bytes()))
    found = json.loads(graph.read_bytes())
    unpacked = graph.parent / FEATURES
    unpacked.mkdir(exist_ok=True)
    for node in found["nodes"]:
        if node["feature_type"] == "cross layer transcoder":
            layer, latent, _ = node["node_id"].split("_")
            own = index[layer]
            start, stop = own["offsets"][int(latent) : int(latent) + 2]
            with (folder / own["filename"]).open("rb") as file:
                file.seek(start + _HEAD_BYTES)
                packed = file.read(stop - start - _HEAD_BYTES)
            write_atomic(unpacked / f"{node['feature']}.json", zlib.decompress(packed))
    found["metadata"]["scan"] = f"./data/{FEATURES}"
    write_atomic(graph, json.dumps(found).encode())
    return unpacked


def _describe(run: Path, name: str) -> dict[str, Any]:
    from sae_dist.coders import describe_coder

    return describe_coder(run / "coders" / name)


def _layers(described: dict[str, dict[str, Any]]) -> list[str]:
    """The rung of each layer, from the first to the last.

    Raises:
        UserError: the rungs are no such set.
    """
    across = [name for name, one in described.items() if _is_cross_layer(one)]
    if across and len(described) > 1:
        raise UserError(
            f"found {across[0]}, a cross-layer transcoder, among {len(described)} coders; expected "
            "it alone, as circuit-tracer has all layers in one; choose with rungs=[…]"
        )
    by_layer: dict[int, list[str]] = defaultdict(list)
    for name, one in described.items():
        if reason := _unsupported_reason(one):
            raise UserError(f"{name}: {reason}; choose others with rungs=[…]")
        by_layer[layer_of(one["about"]["site"]) or 0].append(name)
    if across:
        return across
    several = next((names for names in by_layer.values() if len(names) > 1), None)
    if several is not None:
        raise UserError(
            f"found {' and '.join(several)} at one layer; expected one transcoder a layer, as "
            "circuit-tracer wants; choose them with rungs=[…]"
        )
    missing = sorted(set(range(max(by_layer) + 1)) - by_layer.keys())
    if missing:
        raise UserError(
            f"found no transcoder of layer {missing[0]}, but of {max(by_layer)}; circuit-tracer "
            f"wants one of every layer; train with sites mlp_in.* → mlp_out.*"
        )
    alike = {(one["config"]["num_latents"], one["config"]["form"]) for one in described.values()}
    if len(alike) > 1:
        told = " and ".join(f"{form.replace('_', ' ')}s of {width}" for width, form in alike)
        raise UserError(
            f"found {told} latents; expected all layers of one width and one form, as "
            "circuit-tracer wants; choose them with rungs=[…]"
        )
    return [by_layer[layer][0] for layer in range(len(by_layer))]


def _unsupported_reason(described: dict[str, Any]) -> str | None:
    from sae_dist.coders import config_of

    config, about = config_of(described["config"]), described["about"]
    site, target = about["site"], about["target"]
    if config.form.reconstructs_input:
        return f"circuit-tracer wants transcoders, not {config.form}s"
    if config.fires_by is FiresBy.rank or config.signed:
        return f"circuit-tracer takes thresholds or ReLU, which {config.title} has not"
    if config.form is Form.cross_layer_transcoder:
        mlps = [join(f"mlp_{end}.{n}" for n in range(config.num_sites)) for end in ("in", "out")]
        if [site, target] != mlps:
            return f"circuit-tracer replaces all MLPs from the first on, not {site} → {target}"
        return None
    layer = layer_of(site)
    if layer is None or (site, target) != (f"mlp_in.{layer}", f"mlp_out.{layer}"):
        return f"circuit-tracer replaces MLPs: expected mlp_in.N → mlp_out.N, not {site} → {target}"
    return None


def _write_transcoder(path: Path, coder_folder: Path) -> None:
    from sae_dist.coders import map_coder
    from sae_dist.coders.files import write_tensors
    from sae_dist.interop import plain_tensors

    tensors = plain_tensors(map_coder(coder_folder))
    renamed = {"threshold": "activation_function.threshold"}
    write_tensors(path, {renamed.get(name, name): tensor for name, tensor in tensors.items()})


def _is_cross_layer(described: dict[str, Any]) -> bool:
    return bool(described["config"]["form"] == Form.cross_layer_transcoder)


def _write_cross_layer(folder: Path, coder_folder: Path) -> None:
    from sae_dist.coders import CrossLayerTranscoder, map_coder
    from sae_dist.coders.files import write_tensors

    coder = map_coder(coder_folder)
    assert isinstance(coder, CrossLayerTranscoder)
    for number, (layer, b_dec_D) in enumerate(
        zip(coder.layers, coder.b_dec.chunk(len(coder.layers)), strict=True)
    ):
        state = layer.state_dict()
        vectors = {"b_enc": layer.b_enc, "b_dec": b_dec_D}
        if "threshold" in state:  # one of all latents becomes one of each
            vectors["threshold"] = state["threshold"].expand(len(layer.b_enc))
        given = {"W_enc": layer.W_enc, **vectors}
        as_float32 = {f"{name}_{number}": v.detach().float() for name, v in given.items()}
        write_tensors(folder / f"W_enc_{number}.safetensors", as_float32)
        W_dec_FmD = layer.W_dec.detach().unflatten(1, (len(coder.layers) - number, -1))
        write_tensors(folder / f"W_dec_{number}.safetensors", {f"W_dec_{number}": W_dec_FmD})


def _write_config(folder: Path, described: dict[str, Any], run: str) -> None:
    about = described["about"]
    lm = (about.get("source") or {}).get("lm") or {}
    site, target = (parts_of(about[key])[0] for key in ("site", "target"))
    layer = layer_of(site)
    read = hook_name(site, folds_norms=bool(lm.get("fold_norms")))
    config = {
        "model_name": lm.get("name") or "",
        "model_kind": "cross_layer_transcoder" if _is_cross_layer(described) else "transcoder_set",
        "feature_input_hook": read.removeprefix(f"blocks.{layer}."),
        "feature_output_hook": hook_name(target).removeprefix(f"blocks.{layer}."),
        "scan": run,
    }
    write_atomic(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False).encode())


def _write_features(folder: Path, layers: Iterable[Latents], texts: Texts) -> None:
    index = {}
    for layer, latents in enumerate(layers):
        offsets, name = [0], f"layer_{layer}.bin"
        with atomic_path(folder / name) as temporary, temporary.open("wb") as file:
            for one in _features(latents, texts):
                packed = zlib.compress(msgspec.json.encode(one))
                file.write(len(packed).to_bytes(_HEAD_BYTES, "little") + packed)
                offsets.append(file.tell())
        index[str(layer)] = {"filename": name, "offsets": offsets}
    write_atomic(folder / INDEX, gzip.compress(msgspec.json.encode(index), mtime=0))


def _features(latents: Latents, texts: Texts) -> Iterator[dict[str, Any]]:
    """The fields of its `frontend.feature_models.Model`."""
    for own in latents.ranges():
        for latent in own:
            examples = latents.examples(latent)
            peak, heights = float(latents.row("max", latent)), latents.row("histogram", latent)
            yield {
                "transcoder_id": latents.rung.rung,
                "index": latent,
                "examples_quantiles": _quantiles(examples, texts),
                "top_logits": _shown(latents, "top_tokens", latent, texts),
                "bottom_logits": _shown(latents, "bottom_tokens", latent, texts),
                "act_min": 0.0,
                "act_max": short([peak])[0],
                "quantile_values": short(np.linspace(0, peak, len(heights) + 1)),
                "histogram": heights.tolist(),
                "activation_frequency": int(latents.row("fired", latent))
                / max(1, latents.about.num_tokens),
            }


def _quantiles(examples: list[Example], texts: Texts) -> list[dict[str, Any]]:
    groups: dict[int, list[Example]] = defaultdict(list)
    for example in examples:
        groups[example.group].append(example)
    return [
        {
            "quantile_name": f"Quantile {group} from above" if group else "Top activations",
            "examples": [
                {
                    "tokens": as_texts(one.token_ids, texts, _ESCAPED),
                    "tokens_acts_list": short(one.values),
                    "train_token_ind": one.position - one.start,
                    "is_repeated_datapoint": False,
                }
                for one in own
            ],
        }
        for group, own in groups.items()
    ]


def _shown(latents: Latents, name: str, latent: int, texts: Texts) -> list[str]:
    if not latents.has(name):
        return []
    ids = latents.row(name, latent)[:SHOWN]
    return as_texts(ids[ids >= 0], texts, _ESCAPED)
