"""Published suites by short names: the paths they stand for, and what is said of other names."""

import os
import re
from collections import defaultdict
from pathlib import Path, PurePosixPath

import pytest
import yaml

from sae_dist.common.errors import UserError
from sae_dist.interop import all_formats, coders_in, load_coder, suite_names
from sae_dist.interop.hub import _WHERE
from sae_dist.interop.suites import address_of

DOCS = Path(__file__).parents[2] / "docs/interop.md"
ENDS = (".pt", ".pth", ".safetensors")
KNOWN = {
    "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82": (
        "google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82"
    ),
    "gemma-scope-9b-it-res/layer_20/width_131k/average_l0_81": (
        "google/gemma-scope-9b-it-res/layer_20/width_131k/average_l0_81"
    ),
    "gemma-scope-2b-pt-transcoders/layer_0/width_16k/average_l0_76": (
        "google/gemma-scope-2b-pt-transcoders/layer_0/width_16k/average_l0_76"
    ),
    "gemma-scope-2-1b-pt/resid_post/layer_13_width_65k_l0_medium": (
        "google/gemma-scope-2-1b-pt/resid_post/layer_13_width_65k_l0_medium"
    ),
    "gemma-scope-2-4b-it/transcoder_all/layer_33_width_262k_l0_big_affine": (
        "google/gemma-scope-2-4b-it/transcoder_all/layer_33_width_262k_l0_big_affine"
    ),
    "gemma-scope-2-27b-pt/resid_post/layer_40_width_262k_l0_medium_seed_1": (
        "google/gemma-scope-2-27b-pt/resid_post/layer_40_width_262k_l0_medium_seed_1"
    ),
    "llama-scope-lxr-8x/L15R-8x": "fnlp/Llama3_1-8B-Base-LXR-8x/Llama3_1-8B-Base-L15R-8x",
    "llama-scope-r1-distill/400M-Slimpajama-400M-OpenR1-Math-220k/L15R": (
        "fnlp/Llama-Scope-R1-Distill/400M-Slimpajama-400M-OpenR1-Math-220k/L15R"
    ),
    "qwen-scope-3-1.7b-base-w32k-l50/layer27": (
        "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50/layer27.sae.pt"
    ),
    "goodfire-llama-3.1-8b-instruct/l19": (
        "Goodfire/Llama-3.1-8B-Instruct-SAE-l19/Llama-3.1-8B-Instruct-SAE-l19.pth"
    ),
    "saes-llama-3.1-8b-instruct/resid_post_layer_3/trainer_1": (
        "andyrdt/saes-llama-3.1-8b-instruct/resid_post_layer_3/trainer_1/ae.pt"
    ),
    "gpt2-small-res-jb/blocks.8.hook_resid_pre": (
        "jbloom/GPT2-Small-SAEs-Reformatted/blocks.8.hook_resid_pre"
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_short_name_is_an_address_on_the_hub(name: str) -> None:
    assert address_of(f"published:{name}") == f"hub:{KNOWN[name]}"
    assert address_of(f"published:{name}@v1.0") == f"hub:{KNOWN[name]}@v1.0"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "gemma-scope-2b-pt-rez/layer_12/width_16k/average_l0_82",
            "no published suite 'gemma-scope-2b-pt-rez'; .*did you mean gemma-scope-2b-pt-res",
        ),
        (
            "gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_83",
            "no coder 'layer_12.*83' in gemma-scope-2b-pt-res; .*did you mean .*/average_l0_82",
        ),
        ("gemma-scope-2b-pt-res/layer_12/width_16k", "did you mean layer_12/width_16k/average_l"),
        ("goodfire-llama-3.1-8b-instruct", "no coder '' in .*expected one of its 1, as l19"),
        ("qwen-scope-3-1.7b-base-w32k-l50/layer28", "its 28; did you mean layer"),
        ("", "no published suite ''; expected one of .*, as gemma-scope"),
        ("../../etc/passwd", "no published suite '..'"),
        ("zzz\n/x", r"no published suite 'zzz\\n'"),
    ],
)
def test_other_names_are_answered_with_the_nearest(name: str, told: str) -> None:
    with pytest.raises(UserError, match=told) as error:
        load_coder(f"published:{name}")
    assert str(error.value).isprintable() and len(str(error.value)) < 600


def test_all_addresses_name_a_folder_or_a_file_that_is_fetched_by_its_name() -> None:
    addresses = set()
    by_file = [one.weights for one in all_formats() if one.is_fetched_by_file]
    for suite in suite_names():
        names = coders_in(suite)
        assert len(names) == len(set(names)) > 0
        for name in names:
            address = address_of(f"published:{suite}/{name}")
            addresses.add(address)
            place = PurePosixPath(address)
            is_file = any(place.match(pattern) for pattern in by_file)
            assert _WHERE.fullmatch(address) and is_file == (place.suffix in ENDS)
    assert len(addresses) == sum(len(coders_in(suite)) for suite in suite_names()) > 10_000


def test_the_docs_list_them_all() -> None:
    begin, end = "<!-- suites: begin -->", "<!-- suites: end -->"
    table = DOCS.read_text().partition(begin)[2].partition(end)[0]
    rows = [row.split("|")[2:4] for row in table.splitlines() if "`" in row]
    assert [name for names, _ in rows for name in re.findall("`(.+?)`", names)] == suite_names()
    counts = [sum(map(len, map(coders_in, re.findall("`(.+?)`", names)))) for names, _ in rows]
    assert [f"{count:,}" for count in counts] == [count.strip() for _, count in rows]


@pytest.mark.slow
@pytest.mark.skipif("SAE_DIST_CLIENTS" not in os.environ, reason="run `make test-interop`")
def test_they_are_those_that_saelens_lists() -> None:
    """Of the repositories that both know; the coders of embeddings are left out here."""
    home = Path(os.environ["SAE_DIST_CLIENTS"]).absolute().parents[1]
    (path,) = home.glob("lib/python*/site-packages/sae_lens/pretrained_saes.yaml")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    theirs, ours = defaultdict(set), defaultdict(set)
    for release in yaml.load(path.read_text(), loader).values():
        is_pickle = release.get("conversion_func") == "dictionary_learning_1"
        for place in (str(one["path"]) for one in release["saes"]):
            if not place.startswith("embedding/"):
                theirs[release["repo_id"]].add(place + ("/ae.pt" if is_pickle else ""))
    for suite in suite_names():
        for name in coders_in(suite):
            found = re.fullmatch(r"hub:([^/]+/[^/]+)/(.*)", address_of(f"published:{suite}/{name}"))
            assert found is not None
            ours[found[1]].add(found[2])
    assert {repo for repo in ours if ours[repo] != theirs[repo]} == {
        "fnlp/Llama3_1-8B-Base-LXTC-8x",
        "fnlp/Llama3_1-8B-Base-LXTC-32x",
    }
