"""Cross-layer transcoders: one loss of L transcoders, each writing to its and later layers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from sae_dist.apps.checkpointed import checkpointed
from sae_dist.apps.rungs import lay_out
from sae_dist.coders import (
    CrossLayerTranscoder,
    DeadLatents,
    Form,
    fold,
    load_coder,
    make_coder,
    training_forward,
    unfold,
)
from sae_dist.coders.messages import MeshAxis
from sae_dist.common.errors import UserError
from sae_dist.config import TrainConfig
from sae_dist.evaluate import EvaluationConfig, evaluate, finished
from sae_dist.evaluate.lm_batch import LMBatch
from sae_dist.evaluate.measures.lm_loss import LMLoss
from sae_dist.handoff import handoff_named
from sae_dist.lm import LM, Capture, LMConfig, resolve
from sae_dist.parallel import World, messages
from sae_dist.plan.memory import rung_memory
from sae_dist.store import open_store, write_store
from sae_dist.stream import StoredActivations
from sae_dist.train import Adam, RungConfig, training_step
from sae_dist.train.rows import SharedRows
from tests.coders.kinds import config_of_kind
from tests.evaluate.made_up import subject_of
from tests.lm.tiny import NUM_LAYERS, VOCAB, WIDTH, tiny_ids_NS, tiny_model
from tests.parallel.test_cost import usage
from tests.processes import alone, run_on
from tests.train.ladders import rung, training_run
from tests.train.test_training import losses

L, D, E, F, K = 3, 6, 5, 12, 2  # layers, widths, latents a layer, k a layer
READ, WRITTEN = (tuple(f"mlp_{end}.{n}" for n in range(L)) for end in ("in", "out"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each layer's target depends on what it and all before it read, on a scale of its own."""
    path, arrays = tmp_path_factory.mktemp("clt") / "store", {}
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x = [random(4096, D) * (n + 1) for n in range(L)]
    for m in range(L):
        arrays[READ[m]] = [x[m].numpy()]
        made = sum(torch.relu(x[n] @ random(D, E)) for n in range(m + 1))
        arrays[WRITTEN[m]] = [(10**m * made).numpy()]
    write_store(path, arrays, dtype="float32", held_out=0.1, chunk_mib=0.006, shard_mib=0.03)
    return path


def across(kind: str, latent: int = 1, **coder) -> RungConfig:
    settings = {"aux_coefficient": 0.0, "num_sites": L, "num_latents": L * F, "k": K} | coder
    one = rung(kind, Form.cross_layer_transcoder, latent, **settings)
    one.optim.decay_share = 0.0  # so that a run can be made longer
    return replace(one, site="+".join(READ), target="+".join(WRITTEN))


def ladder(latent: int) -> list[RungConfig]:
    kinds = [across(kind, latent) for kind in ("jumprelu", "topk", "batchtopk")]
    unit = across("topk", latent, unit_norm_decoder=True)
    optim = Adam(lr=3e-3, beta1=0.0, ema_decay=0.9, clip_norm=1.0)
    aux = across("topk", latent, aux_coefficient=1 / 32, aux_k=3, dead_after_tokens=1)
    return [*kinds, replace(unit, name="unit", optim=optim), replace(aux, name="aux")]


def reference_loss(p: dict[str, Tensor], x: list[Tensor], y: list[Tensor], kind: str) -> Tensor:
    """The same written densely from the definition, decoder by decoder."""
    B, f = len(x[0]), []
    for n in range(L):
        z = x[n] @ p[f"layers.{n}.W_enc"].T + p[f"layers.{n}.b_enc"]
        if kind == "jumprelu":
            f.append(z * (z > p[f"layers.{n}.threshold"]))
            continue
        flat = z.detach() if kind == "topk" else z.detach().reshape(1, -1)
        least = flat.sort(1, descending=True).values[:, (K if kind == "topk" else K * B) - 1]
        f.append(torch.where((z >= least[:, None]) & (z > 0), z, 0.0))
    error = variation = 0.0
    for m in range(L):
        made = p["b_dec"][m * E : (m + 1) * E]
        for n in range(m + 1):
            W = p[f"layers.{n}.W_dec"][:, (m - n) * E : (m - n + 1) * E]
            made = made + f[n] @ W
        error = error + (y[m] - made).square().sum()
        variation = variation + (y[m] - y[m].mean(0)).square().sum()
    return error / B if kind == "jumprelu" else error / variation


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "jumprelu"])
def test_training_equals_a_dense_reference(store: Path, tmp_path: Path, kind: str) -> None:
    config = across(kind, sparsity_coefficient=0.0)
    config.optim = Adam(lr=1e-2, beta1=0.9, beta2=0.99, warmup_steps=0, sparsity_warmup_steps=0)
    run = training_run(alone(), store, tmp_path, [config], 8)
    (only,) = run.rungs
    p = {n: t.detach().clone().requires_grad_() for n, t in only.coder.named_parameters()}
    held = [t for n, t in p.items() if "threshold" not in n]  # whose gradient is no derivative
    optim = torch.optim.Adam(held, lr=1e-2, betas=(0.9, 0.99))
    scale = {site: run.source.mean_square(site) ** 0.5 for site in (*READ, *WRITTEN)}
    with run._batches() as batches:
        for step, (batch, _) in zip(range(8), batches, strict=False):
            acts = {site: x.double() for site, x in batch.acts.items()}
            x, y = ([acts[site] / scale[site] for site in sites] for sites in (READ, WRITTEN))
            expected = reference_loss(p, x, y, kind)
            optim.zero_grad()
            expected.backward()
            optim.step()
            found = training_step(only, SharedRows(acts, torch.float64), step, 8)
            assert float(found.forward.loss) == pytest.approx(float(expected.detach()), rel=1e-9)
            for name, parameter in only.coder.named_parameters():
                if "threshold" in name:
                    p[name].data.copy_(parameter)
    for name, parameter in only.coder.named_parameters():
        torch.testing.assert_close(parameter, p[name], rtol=1e-6, atol=1e-9, msg=name)


def test_aux_k_is_of_the_dead_latents_of_each_layer() -> None:
    config = across("topk", aux_coefficient=0.5, aux_k=3).coder
    coder = make_coder(config, L * D, L * E, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    for parameter in coder.parameters():
        drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(drawn / 3)
    dead_LF = torch.rand(L, F, generator=generator) < 0.4
    dead_LF[1] = False
    x_BD, y_BE = (
        torch.randn(20, L * width, generator=generator, dtype=torch.float64) for width in (D, E)
    )
    given = {"sparsity_coefficient": 0.0, "dead": DeadLatents.of(dead_LF.T.flatten())}
    found = training_forward(coder.train(), x_BD, y_BE, **given)
    found.loss.backward()

    p = {n: t.detach().clone().requires_grad_() for n, t in coder.named_parameters()}
    x, y = x_BD.chunk(L, 1), y_BE.chunk(L, 1)
    loss = reference_loss(p, list(x), list(y), "topk")
    with torch.no_grad():
        left = [y[m] - made for m, made in enumerate(coder(x_BD).chunk(L, 1))]
    guess: list[Tensor] = [torch.zeros(20, E, dtype=torch.float64) for _ in range(L)]
    for n in range(L):
        z = x[n] @ p[f"layers.{n}.W_enc"].T + p[f"layers.{n}.b_enc"]
        z = torch.where(dead_LF[n], z, -torch.inf)
        least = z.detach().sort(1, descending=True).values[:, 2:3]
        f = torch.where((z >= least) & (z > 0), z, 0.0)
        for m in range(n, L):
            W = p[f"layers.{n}.W_dec"][:, (m - n) * E : (m - n + 1) * E]
            guess[m] = guess[m] + f @ W
    missed = sum((e - g).square().sum() for e, g in zip(left, guess, strict=True))
    share = min(1.0, int(dead_LF.sum()) / (3 * L))
    loss = loss + 0.5 * share * missed / sum((e - e.mean(0)).square().sum() for e in left)
    loss.backward()
    torch.testing.assert_close(found.loss, loss)
    for name, parameter in coder.named_parameters():
        torch.testing.assert_close(parameter.grad.to_dense(), p[name].grad, msg=name)


def train(world: World, store: Path, folder: Path, latent: int, steps: int) -> None:
    training_run(world, store, folder, ladder(latent), steps).run()


def test_meshes_give_the_same_losses_and_resuming_is_bitwise(store: Path, tmp_path: Path) -> None:
    train(alone(), store, tmp_path / "whole", 1, 30)
    expected = losses(tmp_path / "whole")
    assert all(sum(values[-10:]) < sum(values[:10]) for values in expected.values())
    folder = tmp_path / "4-2"
    run_on(4, train, store, folder, 2, 30)
    for name, values in losses(folder).items():
        assert values == pytest.approx(expected[name], rel=1e-9), name
    whole, sliced = (load_coder(f / "coders" / "unit") for f in (tmp_path / "whole", folder))
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(sliced.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    train(alone(), store, tmp_path / "stopped", 1, 20)
    train(alone(), store, tmp_path / "stopped", 1, 30)
    for folder in sorted((tmp_path / "whole" / "coders").iterdir()):
        whole = load_coder(folder).state_dict()
        stopped = load_coder(tmp_path / "stopped" / "coders" / folder.name).state_dict()
        assert all(torch.equal(whole[name], stopped[name]) for name in whole), folder.name


def test_what_is_written_reads_raw_activations_and_loads_in_slices(
    store: Path, tmp_path: Path
) -> None:
    run = training_run(alone(), store, tmp_path, ladder(1), 20, log={"evaluate_every_steps": 20})
    run.run()
    logged = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(line["validation/fvu"] > 0 for line in logged if "validation/fvu" in line)
    sample = run.source.sample([*READ, *WRITTEN], 40, 1)
    x_ND = torch.cat([sample[site] for site in READ], 1).double()
    for one in run.rungs:
        coder = one.coder.eval()
        written = load_coder(tmp_path / "coders" / one.name)
        assert isinstance(written, CrossLayerTranscoder)
        x_BD = x_ND / one.scale
        if one.average is None:
            made_BE = coder(x_BD) * one.target_scale
            torch.testing.assert_close(
                written(x_ND.float()).double(), made_BE, rtol=1e-3, atol=1e-3
            )
        code, acts_N = coder.encode_sparse(x_BD)
        acts_BF = torch.zeros(len(x_BD), L * F, dtype=torch.float64)
        acts_BF[code.rows_N, code.latents_N] = acts_N
        torch.testing.assert_close(acts_BF, coder.encode(x_BD))
        torch.testing.assert_close(coder.reconstruct_sparse(code, acts_N, x_BD), coder(x_BD))
        halves = [load_coder(tmp_path / "coders" / one.name, part=n, parts=2) for n in (0, 1)]
        joined_BF = torch.cat([half.encode(x_ND.float()) for half in halves], 1)
        if one.config.coder.kind != "topk":
            torch.testing.assert_close(joined_BF, written.encode(x_ND.float()))
        again = make_coder(one.config.coder, L * D, L * E, dtype=torch.float64)
        folded = fold(coder, one.scale, target_scale=one.target_scale)
        unfold(folded, one.scale, again, target_scale=one.target_scale)
        for name, tensor in coder.state_dict().items():
            torch.testing.assert_close(again.state_dict()[name], tensor, msg=name)
    unit = run.rungs[3].coder.row_norms()
    torch.testing.assert_close(unit, torch.ones_like(unit))
    (found, *_) = checkpointed(tmp_path, None, alone())
    assert (found.d_in, found.d_out, found.num_latents) == (L * D, L * E, L * F)
    warm = replace(across("topk"), init_from=str(tmp_path / "coders" / run.rungs[1].name))
    (begun,) = training_run(alone(), store, tmp_path / "warm", [warm], 1).rungs
    torch.testing.assert_close(begun.coder(x_BD), run.rungs[1].coder(x_BD), rtol=1e-3, atol=1e-4)


def sent(world: World, store: Path, folder: Path, latent: int) -> list[str]:
    wrong = []
    for config in ladder(latent):
        if config.name == "unit":
            continue
        run = training_run(world, store, folder / config.name, [config], 3)
        (only,) = run.rungs
        only.coder.layers[0].b_enc.data[0] = -1e3  # dead
        with run._batches() as batches:
            for step, (batch, _) in zip(range(3), batches, strict=False):
                before = usage(only.mesh)
                acts = {site: x.bfloat16() for site, x in batch.acts.items()}
                training_step(only, SharedRows(acts, torch.float64), step, 3)
        after, mesh = usage(only.mesh), (world.size // latent, latent)
        expected = messages(
            config.coder, L * D, L * E, run.config.batch_tokens, mesh, bytes_per_value=8
        )
        for over in MeshAxis:
            sizes = [message.num_bytes for message in expected if message.over is over]
            found = tuple(b - a for a, b in zip(before[over], after[over], strict=True))
            if found != (sum(sizes), len(sizes)):
                wrong.append(f"{config.name} {over}: {found}, {sum(sizes), len(sizes)}")
    return wrong


def test_a_step_hands_over_what_the_formula_says_and_holds_what_is_planned(
    store: Path, tmp_path: Path
) -> None:
    assert run_on(2, sent, store, tmp_path / "latent", 2) == [[]] * 2
    assert run_on(2, sent, store, tmp_path / "data", 1) == [[]] * 2
    config = across("jumprelu")
    (only,) = training_run(alone(), store, tmp_path / "r", [config], 1).rungs
    planned = rung_memory(config.coder, config.optim, L * D, L * E, bytes_per_value=8)
    assert planned["parameters"] == sum(t.nbytes for t in only.coder.state_dict().values())
    num_decoders = L * (L + 1) // 2
    assert planned["parameters"] == 8 * (L * F * (D + 2) + F * E * num_decoders + L * E)


# In a language model.


def mlps(end: str) -> str:
    return "+".join(f"mlp_{end}.{layer}" for layer in range(NUM_LAYERS))


def tiny_transcoder(kind: str = "jumprelu", seed: int = 0) -> CrossLayerTranscoder:
    """With weights as of a trained one, of the tiny language models' MLPs."""
    config = config_of_kind(
        kind,
        form=Form.cross_layer_transcoder,
        num_sites=NUM_LAYERS,
        num_latents=NUM_LAYERS * 16,
        k=4,
        aux_coefficient=0.0,
    )
    coder = make_coder(config, NUM_LAYERS * WIDTH, NUM_LAYERS * WIDTH)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in coder.state_dict().items():
        drawn = torch.randn(tensor.shape, generator=generator)
        tensor.copy_(0.3 * drawn.abs() if "threshold" in name else 0.2 * drawn)
    assert isinstance(coder, CrossLayerTranscoder)
    return coder.eval().requires_grad_(False)


def tiny_lm() -> LM:
    return LM(tiny_model("llama"), None, LMConfig(name="tiny"), "none")  # type: ignore[arg-type]


def test_every_mlp_is_replaced_and_later_layers_read_what_was() -> None:
    coder, lm = tiny_transcoder(), tiny_lm()
    ids_NS = tiny_ids_NS(2)
    trainable_NS = torch.ones_like(ids_NS, dtype=torch.bool)
    trainable_NS[:, 0] = False
    seen = LMBatch(lm, ids_NS, trainable_NS)
    at = {"site": mlps("in"), "target": mlps("out"), "num_positions": ids_NS.shape[1]}
    loss = LMLoss(subject_of(coder, **at))
    loss.update(seen)
    found = loss.result()

    read: list[Tensor] = []

    def replaced(layer: int):
        def hook(module: object, given: tuple[Tensor], own: Tensor) -> Tensor:
            read.append(given[0])
            made = coder.b_dec.chunk(NUM_LAYERS)[layer]
            for n, x_NSD in enumerate(read):
                own_n = coder.layers[n]
                W = own_n.W_dec[:, (layer - n) * WIDTH : (layer - n + 1) * WIDTH]
                made = made + own_n.encode(x_NSD.flatten(0, 1)).unflatten(0, x_NSD.shape[:2]) @ W
            return torch.where(trainable_NS[..., None], made, own)

        return hook

    layers = lm.model.model.layers
    hooks = [layer.mlp.register_forward_hook(replaced(n)) for n, layer in enumerate(layers)]
    logits = lm.model(input_ids=ids_NS).logits
    for hook in hooks:
        hook.remove()
    nll_NS = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), ids_NS[:, 1:].flatten(), reduction="none"
    )
    expected = float(nll_NS.mean()) - found["clean_loss"]
    assert found["delta_loss"] == pytest.approx(expected, rel=1e-4)
    assert abs(found["zero_ablation_loss"] - found["clean_loss"]) > 1e-3


@pytest.mark.parametrize("kind", ["jumprelu", "batchtopk"])
def test_circuit_tracer_is_handed_each_layer(kind: str, tmp_path: Path) -> None:
    coder, run = tiny_transcoder(kind), tmp_path / "r"
    save(run, coder)
    handoff = handoff_named("circuit_tracer")
    handoff.check(run, ["clt"])
    handoff.write(tmp_path / "out", run, ["clt"], None)
    for n, layer in enumerate(coder.layers):
        one = load_file(tmp_path / "out" / f"W_enc_{n}.safetensors")
        torch.testing.assert_close(one[f"W_enc_{n}"], layer.W_enc)
        torch.testing.assert_close(one[f"b_enc_{n}"], layer.b_enc)
        torch.testing.assert_close(one[f"b_dec_{n}"], coder.b_dec.chunk(NUM_LAYERS)[n])
        threshold_F = layer.threshold.float().expand(16)
        torch.testing.assert_close(one[f"threshold_{n}"], threshold_F)
        two = load_file(tmp_path / "out" / f"W_dec_{n}.safetensors")[f"W_dec_{n}"]
        assert two.shape == (16, NUM_LAYERS - n, WIDTH)
        torch.testing.assert_close(two.flatten(1), layer.W_dec)
    config = (tmp_path / "out" / "config.yaml").read_text()
    assert "model_kind: cross_layer_transcoder" in config
    assert "feature_output_hook: hook_mlp_out" in config


def save(run: Path, coder: CrossLayerTranscoder, lm: str = "tiny") -> None:
    from sae_dist.coders import save_coder

    told = {"lm": {"name": lm, "commit": "0" * 40, "fold_norms": False}}
    about = {"site": mlps("in"), "target": mlps("out"), "run": run.name, "source": told}
    save_coder(run / "coders" / "clt", coder, coder.state_dict(), about)


@pytest.mark.parametrize("is_crosscoder", [False, True])
def test_one_is_trained_on_a_language_model_and_measured_in_it(
    is_crosscoder: bool, tmp_path: Path
) -> None:
    """A weakly causal crosscoder reads what it writes."""
    residuals = "+".join(f"resid_post.{layer}" for layer in range(NUM_LAYERS))
    site, target = (residuals, residuals) if is_crosscoder else (mlps("in"), mlps("out"))
    lm, sites = tiny_lm(), list(dict.fromkeys([*site.split("+"), *target.split("+")]))
    ids_NS = torch.randint(1, VOCAB, (256, 8), generator=torch.Generator().manual_seed(0))
    acts = Capture(lm.model, [resolve(lm.model, site) for site in sites])(ids_NS)
    told = {"lm": {"name": "tiny", "commit": "none"}}
    arrays = {site: x_NSD.numpy() for site, x_NSD in acts.items()}
    sizes = {"held_out": 0.25, "shard_mib": 0.1, "chunk_mib": 0.02}
    path = tmp_path / "store"
    write_store(path, arrays, dtype="float32", input_ids=ids_NS.numpy(), provenance=told, **sizes)
    config = across("topk", num_sites=NUM_LAYERS, num_latents=NUM_LAYERS * 96, k=8)
    config = replace(config, name="clt", site=site, target=target)
    config.optim = Adam(lr=1e-2, warmup_steps=10)
    training_run(alone(), path, tmp_path / "run", [config], 150).run()
    source = StoredActivations(open_store(path))
    asked = EvaluationConfig(max_sequences=16, lm_sequences=16, batch_tokens=64)
    candidates = finished(tmp_path / "run", torch.device("cpu"))
    (found,) = evaluate(candidates, source, lambda: lm, asked, alone())
    figures = found["rungs"]["clt"]
    assert 0 < figures["l0"] <= 8 * NUM_LAYERS and figures["fvu"] < 0.8
    assert figures["kl_score"] > 0.2 and "uniformity" not in figures


# What is asked for.


def test_patterns_stand_for_all_layers() -> None:
    widths = dict.fromkeys((*READ, *WRITTEN), 8)
    coder = config_of_kind("batchtopk", form=Form.cross_layer_transcoder, num_latents=48, k=2)

    def laid_out(**told: object) -> RungConfig:
        (found,) = lay_out(TrainConfig(run="r", coder=coder, **told), widths)
        return found

    found = laid_out(site="mlp_in.*", target="mlp_out.*", expansion=4)
    assert (found.site, found.target) == ("+".join(READ), "+".join(WRITTEN))
    assert (found.coder.num_sites, found.coder.num_latents) == (L, 4 * 8 * L)
    assert found.name == "batchtopk_cross_layer_transcoder-96-k2-mlp_in.0-2"
    with pytest.raises(UserError, match="found 3 sites and 2 targets of a cross-layer_transcoder"):
        laid_out(site="mlp_in.*", target="mlp_out.0-1")
    with pytest.raises(UserError, match="needs target=… beside site="):
        laid_out(site="mlp_in.*")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"num_latents": 25},
            r"found coder.num_latents 25 of a cross-layer transcoder of 3 layers",
        ),
        (
            {"multi_topk": True},
            r"with a second pass; expected one.*set coder.multi_topk=false",
        ),
    ],
)
def test_what_cannot_be_is_refused(settings: dict, message: str) -> None:
    given = {"num_latents": 24, "k": 2, "num_sites": 3, "aux_coefficient": 0.0} | settings
    config = config_of_kind("topk", form=Form.cross_layer_transcoder, **given)
    with pytest.raises(UserError, match=message):
        make_coder(config, 12, 12)
