"""What the tools make of files: run by a Python that has them, without sae_dist.

python tools.py TOOL JOB      where JOB is a JSON file, which says where to write what was found
"""

import asyncio
import importlib.metadata
import json
import re
import sys
import types
import urllib.request
from pathlib import Path
from typing import Any

Job = dict[str, Any]
_ABSENT = {  # what delphi imports, and its loader and scorers never call
    "vllm": ("LLM", "SamplingParams"),
    "vllm.distributed": (),
    "vllm.distributed.parallel_state": (
        "destroy_distributed_environment",
        "destroy_model_parallel",
    ),
    "vllm.inputs": ("TokensPrompt",),
    "sentence_transformers": ("SentenceTransformer",),
}


def delphi(job: Job) -> Job:
    """Load a cache, and score each latent's rule, "divides by d", with a judge that knows it."""
    for name, own in _ABSENT.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(dict.fromkeys(own, object))
    import torch
    from delphi.clients.client import Client, Response
    from delphi.config import ConstructorConfig, SamplerConfig
    from delphi.latents import LatentDataset
    from delphi.scorers import DetectionScorer, FuzzingScorer
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    class Judge(Client):
        """Says which examples have a marked token, or any, whose number divides."""

        async def generate(self, prompt: list[dict[str, str]], **_: Any) -> Response:
            asked = prompt[-1]["content"]
            divisor = int(re.search(r"explanation: (\d+)", asked)[1])
            told = re.findall(r"Example \d+: ?(.*)", asked)
            wanted = r"<<[^>]*?w(\d+)" if "<<" in asked else r"w(\d+)"
            found = [
                any(int(n) > 2 and int(n) % divisor == 0 for n in re.findall(wanted, text))
                for text in told
            ]
            return Response(str([int(one) for one in found]))

    vocabulary = {f"w{token}": token for token in range(job["vocabulary"])}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    )
    dataset = LatentDataset(
        raw_dir=job["raw_dir"],
        modules=[job["module"]],
        latents={job["module"]: torch.tensor(job["latents"])},
        sampler_cfg=SamplerConfig(n_examples_train=5, n_examples_test=10, n_quantiles=5),
        constructor_cfg=ConstructorConfig(example_ctx_len=8, min_examples=10, n_non_activating=10),
        tokenizer=tokenizer,
    )
    found = {}
    for record in dataset:
        latent = record.latent.latent_index
        record.explanation = str(latent + 2)
        scores = {}
        for scorer in (DetectionScorer, FuzzingScorer):
            made = scorer(Judge("knows"), n_examples_shown=5)
            results = asyncio.run(made(record)).score
            scores[scorer.name] = [[one.activating, one.prediction] for one in results]
        found[latent] = {
            "per_token_frequency": record.per_token_frequency,
            "max_activation": record.max_activation,
            "scores": scores,
        }
    return {"config": dataset.cache_config, "latents": found}


def saedashboard(job: Job) -> Job:
    """Read batches with the classes that its converter fills in, and tell them again."""
    from sae_dashboard.neuronpedia.neuronpedia_dashboard import NeuronpediaDashboardBatch

    files = sorted(Path(job["folder"]).glob("batch-*.json"))
    return {
        file.name: NeuronpediaDashboardBatch(**json.loads(file.read_text())).to_dict()
        for file in files
    }


def circuit_tracer(job: Job) -> Job:
    """Load a set beside its language model, attribute a prompt, and look at it in its viewer."""
    import torch
    import transformer_lens.loading_from_pretrained as loading
    import yaml
    from circuit_tracer import ReplacementModel, attribute
    from circuit_tracer.frontend import feature_models, local_server
    from circuit_tracer.transcoder.cross_layer_transcoder import load_clt
    from circuit_tracer.utils import create_graph_files
    from circuit_tracer.utils.hf_utils import load_transcoders

    folder, graphs = Path(job["folder"]), Path(job["graphs"])
    if "serve" in job:
        server = local_server.serve(data_dir=str(graphs), port=job["serve"])
        url = f"http://localhost:{job['serve']}/data"
        graph = json.load(urllib.request.urlopen(f"{url}/tiny.json"))
        scan = graph["metadata"]["scan"].removeprefix("./data/")
        nodes = [n for n in graph["nodes"] if n["feature_type"] == "cross layer transcoder"]
        shown = {
            node["node_id"]: feature_models.Model(
                **json.load(urllib.request.urlopen(f"{url}/{scan}/{node['feature']}.json"))
            ).model_dump()
            for node in nodes
        }
        server.stop()
        return {"shown": shown}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    files = sorted(folder.glob("layer_*.safetensors"), key=lambda file: int(file.stem[6:]))
    if config["model_kind"] == "transcoder_set":
        transcoders = load_transcoders({**config, "transcoders": [str(file) for file in files]})
    else:  # what `load_transcoders` calls once it has downloaded
        hooks = {key: config[key] for key in ("feature_input_hook", "feature_output_hook")}
        given = {"scan": config["scan"], "dtype": torch.float32, **hooks}
        transcoders = load_clt(str(folder), device=torch.device("cpu"), **given)
    loading.get_official_model_name = str  # of a folder: what comes behind it reads one
    model = ReplacementModel.from_pretrained_and_transcoders(
        job["lm"], transcoders, backend=job["backend"], device=torch.device("cpu")
    )
    graph = attribute(torch.tensor(job["prompt"]), model, max_n_logits=3, batch_size=64)
    create_graph_files(graph, slug="tiny", output_path=str(graphs))
    logits, acts = model.get_activations(torch.tensor(job["prompt"]))
    torch.save({"acts": acts, "logits": logits}, graphs / "found.pt")
    return {
        "features": graph.active_features.tolist(),
        "values": graph.activation_values.tolist(),
        "is_finite": bool(graph.adjacency_matrix.isfinite().all()),
        "edges": int(graph.adjacency_matrix.count_nonzero()),
        "config": config,
    }


if __name__ == "__main__":
    tool, path = sys.argv[1:]
    job = json.loads(Path(path).read_text())
    found = {"delphi": delphi, "saedashboard": saedashboard, "circuit_tracer": circuit_tracer}[
        tool
    ](job)
    found["version"] = importlib.metadata.version(job["package"])
    Path(job["out"]).write_text(json.dumps(found))
