"""What is typed stays as it was typed where a text is wanted; counts and lists are read as such."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sae_dist.apps import cli
from sae_dist.apps.foreign import KEYS
from sae_dist.apps.keys import choices, keys
from sae_dist.apps.overrides import Typed, read
from sae_dist.common.errors import UserError
from sae_dist.common.hooks import hook_name, require_site, site_of
from sae_dist.common.names import require_plain, require_repo
from sae_dist.common.settings import Allowed

AS_TYPED = [
    *("1e5", "true", "007", "1_000", "null", "2024-01-01", "yes", "0x1F", "~", "1:30", "w+plus"),
    *("a b", "a,b", "a=b", "a=b (1).txt", "run[1]/{x}", "#x", "it's", 'say "x"', "a\\b", "é/ü"),
    *("[a", "{a", "a]", "'tis", "100%", "$HOME", "*.jsonl", "@x", "a: b", "coder:runs/a/b"),
]
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)


def text_of(typed: str) -> Any:
    config = cli.compose_config("train", [f"runs={typed}", "store=s", "run=r"])
    return cli.to_dataclass(config).runs


@pytest.mark.parametrize("typed", AS_TYPED)
def test_a_text_stays_as_it_was_typed(typed: str) -> None:
    assert text_of(typed) == typed


def test_quotes_keep_what_else_would_mean_something() -> None:
    read_as = {"'null'": "null", '"a"': "a", r"'it\'s'": "it's", "''": "", "'${run}'": "${run}"}
    assert {typed: text_of(typed) for typed in read_as} == read_as
    assert text_of("${run}/store") == "r/store"
    assert cli.compose_config("train", ["site=null"]).site is None
    assert cli.compose_config("train", ["site='null'"]).site == "null"


@pytest.mark.parametrize(
    ("typed", "names"),
    [
        ("a", ["a"]),
        ("[a]", ["a"]),
        ("a,b", ["a", "b"]),
        ("[ 1e5 , true,007]", ["1e5", "true", "007"]),
    ],
)
def test_one_value_stands_for_a_list_of_it(typed: str, names: list[str]) -> None:
    assert cli.to_dataclass(cli.compose_config("compare", [f"run={typed}", "to=x"])).run == names


def test_maps_and_lists_without_a_type_hold_what_is_spelled() -> None:
    typed = "{a:1,b:-1.5e-3,c:[true,null,007],d:'1',e:{f:x y}}"
    found = {"a": 1, "b": -1.5e-3, "c": [True, None, "007"], "d": "1", "e": {"f": "x y"}}
    assert read("k", Typed(typed), dict[str, Any], Allowed()) == found
    given = ["architecture.hidden_size=64", "architecture={model_type:llama}", "architecture.x.y=1"]
    config = cli.compose_config("harvest", given)
    assert config.architecture == {"hidden_size": 64, "model_type": "llama", "x": {"y": 1}}


def test_a_group_s_map_is_its_keys() -> None:
    config = cli.compose_config("train", ["coder=topk", "coder={num_latents:2K}", "+coder.k=7"])
    assert (config.coder.kind, config.coder.num_latents, config.coder.k) == ("topk", 2048, 7)


def from_experiment(folder: Path, section: dict[str, Any], **style: Any) -> Any:
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({"harvest": section}, allow_unicode=True, **style))
    asked = [f"+experiment={path}", "store=s", "sites=embed", "lm.name=x"]
    return cli.to_dataclass(cli.compose_config("harvest", asked))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("experiments")


@settings(max_examples=40, deadline=None)
@given(TEXTS)
@example('### User\n{document}\n### Assistant: yes, "so" it\'s; a=b (1) #c ${d} \\${e} \\')
@example("my data, v2.txt")
@example("a=b (1).txt")
@example("null")
def test_an_experiment_holds_any_text(folder: Path, text: str) -> None:
    section = {"text.path": text, "text": {"template": text}}
    quoted = from_experiment(folder, section, default_style='"')
    assert (quoted.text.path, quoted.text.template) == (text, text)
    held = {"text.path": "x", "architecture": {"a": [text], "b": {"c": text}}}
    assert from_experiment(folder, held, default_style='"').architecture == held["architecture"]


@pytest.mark.parametrize(
    "text", [t for t in AS_TYPED if t == t.strip("#@*'[{~%") and ": " not in t]
)
def test_an_experiment_s_plain_texts_are_as_on_the_command_line(folder: Path, text: str) -> None:
    path = folder / "plain.yaml"
    path.write_text(
        f"harvest:\n  text.path: {text}\n  tokens: 16K\n  text: {{sequence_length: 1K}}"
    )
    asked = [f"+experiment={path}", "store=s", "sites=embed", "lm=gpt2"]
    config = cli.to_dataclass(cli.compose_config("harvest", asked))
    assert (config.text.path, config.tokens, config.text.sequence_length) == (text, 16_000, 1024)


def test_a_sweep_holds_any_text(folder: Path) -> None:
    path = folder / "sweep.yaml"
    grid = {"init_from": "a, b=(1)/${x}", "coder.num_latents": ["16K", 512]}
    said = {"train": {"store": "s", "run": "r", "sweep": {"grids": [grid]}}}
    path.write_text(yaml.safe_dump(said, default_style='"'))
    config = cli.to_dataclass(cli.compose_config("train", [f"+experiment={path}"]))
    assert config.sweep.grids == [grid]
    rungs = cli.compose("train", [f"+experiment={path}"]).ladder
    assert [rung.coder.num_latents for rung in rungs] == [2**14, 512]
    assert {rung.init_from for rung in rungs} == {grid["init_from"]}
    own = [("init_from", grid["init_from"])]
    told = cli.compose_config("train", [f"+experiment={path}", *own])
    assert cli.to_dataclass(told).init_from == grid["init_from"]


def test_other_libraries_names_are_answered_with_keys_that_exist() -> None:
    known = {
        key for root in ("harvest", "train", "export") for key in (*keys(root), *choices(root))
    }
    assert {ours for names in KEYS.values() for ours in names} <= known
    asked = "d_sae dict_size expansion_factor l1_coefficient hook_name hook_layer context_size"
    asked += " train_batch_size_tokens training_tokens model_name dataset_path hookpoints"
    assert set(f"{asked} wandb_project".split()) <= KEYS.keys()
    for short in ("lr", "k", "num_latents"):
        with pytest.raises(UserError, match=rf"did you mean \w+\.{short}\?"):
            cli.compose_config("train", [f"{short}=1"])


@pytest.mark.parametrize(
    ("name", "site"),
    [
        ("blocks.3.hook_resid_post", "resid_post.3"),
        ("blocks.3.hook_resid_pre", "resid_pre.3"),
        ("blocks.3.hook_mlp_out", "mlp_out.3"),
        ("blocks.3.attn.hook_z", "attn_z.3"),
        ("blocks.3.ln2.hook_normalized", "mlp_in.3"),
        ("hook_embed", "embed"),
        *((name, "resid_post.3") for name in ("layers.3", "h.3", "gpt_neox.layers.3")),
        *((name, "resid_post.3") for name in ("model.layers.3", "transformer.h.3")),
        ("model.layers.3.mlp", "mlp_out.3"),
    ],
)
def test_other_libraries_sites_are_answered_with_ours(name: str, site: str) -> None:
    assert site_of(name) == site
    with pytest.raises(UserError, match=f"^sites={name}; expected a site .*; that is {site} here$"):
        require_site("sites", name)
    require_site("sites", site)
    assert site_of(hook_name(site)) == site


@pytest.mark.parametrize("name", ["resid_post.03x", "layers", "gpt_neox.layers.3.attention", "x"])
def test_what_is_no_site_has_none(name: str) -> None:
    assert site_of(name) == name
    with pytest.raises(UserError, match="see .*harvest --help"):
        require_site("sites", name)
    require_site("sites", f"{name}.output")


@pytest.mark.parametrize(
    "repo", ["a", "a/b/c", "a/b.git", "a/b--c", "a/.b", "a/b-", "a/" + 99 * "b"]
)
def test_a_repository_that_the_hub_refuses_is_refused_first(repo: str) -> None:
    with pytest.raises(UserError, match="^push=.*expected USER/REPO"):
        require_repo("push", repo)
    require_repo("push", "user/a.b_c-d")
    require_plain("run", "w+plus")


def test_choices_may_be_files_of_one_s_own(tmp_path: Path) -> None:
    own = tmp_path / "it's, mine" / "coder"
    own.mkdir(parents=True)
    recipe = "# @package _global_\ndefaults: [jumprelu, _self_]\ncoder: {num_latents: 64}"
    (own / "narrow.yaml").write_text(recipe)
    found = [f"hydra.searchpath=['{str(own.parent).replace(chr(39), chr(92) + chr(39))}']"]
    config = cli.compose_config("train", [*found, "coder=narrow", "store=s", "run=r"])
    assert cli.to_dataclass(config).coder.num_latents == 64
    with pytest.raises(UserError, match="expected one of .*, narrow; did you mean narrow"):
        cli.compose_config("train", [*found, "coder=narow"])
    with pytest.raises(UserError, match="hydra.searchpath=nowhere; expected a folder like conf/"):
        cli.compose_config("train", ["hydra.searchpath=[nowhere]", "coder=narrow"])
