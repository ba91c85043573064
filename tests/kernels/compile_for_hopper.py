"""Compiles every kernel for sm_90, no GPU needed, and prints what each takes, as JSON.

A process of its own: where kernels are interpreted they cannot be compiled.
"""

import json
import re
import subprocess
import tempfile
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sae_dist.kernels import (
    triton_bound,
    triton_counts,
    triton_loss,
    triton_product,
    triton_search,
    triton_sparse,
    triton_update,
)

TYPES = {
    **dict.fromkeys(["x_ptr", "z_ptr", "half_ptr"], "*bf16"),
    **dict.fromkeys(["order_ptr", "segments_ptr", "offsets_ptr", "rows_ptr"], "*i64"),
    **dict.fromkeys(["silent_ptr", "fired_ptr", "window_ptr", "now_ptr", "active_ptr"], "*i64"),
    **dict.fromkeys(["latents_ptr", "sources_ptr", "seen_ptr"], "*i64"),
    **dict.fromkeys(["counts_ptr", "groups_ptr", "num_listed_ptr"], "*i32"),
    **dict.fromkeys(["held_latents_ptr", "held_todo_ptr", "place_ptr", "keys_ptr"], "*i32"),
    **dict.fromkeys(["num_rows", "num_latents", "num_groups", "num_entries"], "i32"),
    **dict.fromkeys(["num_places", "num_sources", "num_segments", "num_tokens"], "i32"),
    **dict.fromkeys(["k", "width"], "i32"),
    **dict.fromkeys(["number_ptr", "num_held_ptr"], "*i64"),
    "skip_ptr": "*i1",
}  # all others are float32
SPANS = {"GROUP": 32, "SPAN": 1024, "TILE": 64}
SEGMENTS = {"PIECE": 128, "TILE_N": 8, "TILE_D": 512, "NUM_EACH": 32}
NO_PIECES = {"pieces_ptr": None, "piece_totals_ptr": None}
NO_GRADIENT = {"unit_ptr": None, "norms_ptr": None, "totals_ptr": None, "WRITES_EMPTY": 1}
RANKING = {"GROUP": 32, "TILE_G": 16, "TILE_N": 8, "TILE_D": 256, "IS_EXACT": True}
RANKED = [
    ("k = 32", {"ROOM": 1024, "TILE_K": 32}),
    ("k = 512", {"ROOM": 2048, "TILE_K": 512}),
    ("k = 32, rounded", {"ROOM": 1024, "TILE_K": 32, "IS_EXACT": False}),
]
UPDATE = {"UNIT_NORM": True, "TILE_D": 4096, "lr_ptr": None}
DOUBLE = dict.fromkeys(["out_ptr", "moments_ptr", "error_ptr", "loss_ptr"], "*fp64")


def kernels() -> dict[str, tuple[Any, dict[str, Any], dict[str, str], dict[str, int]]]:
    """Name: the kernel, its constants, what differs from `TYPES`, the compiler's options."""
    sums = triton_sparse._segment_sums
    runs = {"NUM_STEPS": 18, "TILE": 256}
    listed = {
        "count": (triton_product._count, SPANS, {}, {}),
        "write": (triton_product._write, SPANS, {}, {}),
        "write in places": (triton_product._write, SPANS | {"rows_ptr": None}, {}, {}),
        "groups": (triton_search._groups, {"TILE": 2048}, {}, {}),
        **{
            f"largest, {name}": (triton_search._largest, RANKING | constants, {}, {})
            for name, constants in RANKED
        },
        "entry dots": (
            triton_sparse._entry_dots,
            {"TILE_N": 8, "TILE_D": 256, "NUM_EACH": 1},
            {},
            {},
        ),
        "rows' sums": (
            sums,
            SEGMENTS | NO_PIECES | NO_GRADIENT | {"order_ptr": None, "segments_ptr": None},
            {"table_ptr": "*bf16"},
            {},
        ),
        "pieces": (triton_sparse._pieces, SEGMENTS | {"sources_ptr": None}, {}, {}),
        "gradient by latent": (
            sums,
            SEGMENTS | {"segments_ptr": None, "sources_ptr": None, "WRITES_EMPTY": 0},
            {},
            {},
        ),
        "gradient by place": (sums, SEGMENTS | {"WRITES_EMPTY": 0}, {}, {}),
        "weighted rows": (
            triton_sparse._weighted_rows,
            {"PIECE": 128, "TILE_N": 8, "TILE_D": 512},
            {},
            {},
        ),
        "runs by latent": (
            triton_sparse._latent_runs,
            runs | {"IS_BY_LATENT": True},
            {"counts_ptr": "*i64"},
            {},
        ),
        "runs by place": (
            triton_sparse._latent_runs,
            runs | {"IS_BY_LATENT": False},
            {"counts_ptr": "*i64"},
            {},
        ),
        "rounding": (
            triton_bound._round_rows,
            {"HAS_COPY": True, "TILE_D": 1024},
            {},
            {},
        ),
        "groups' errors": (
            triton_bound._group_errors,
            {"GROUP": 32, "IS_ROUNDED": True, "TILE_G": 16},
            {},
            {},
        ),
        "errors": (triton_loss._moments, {"ROWS": 16, "TILE_E": 128}, DOUBLE, {}),
        "shares": (triton_loss._explained, {"ROUNDING": 1e-12, "TILE_E": 1024}, DOUBLE, {}),
        "decision": (
            triton_counts._decide,
            {"MAY_HOLD": True},
            {"loss_ptr": "*fp64", "counts_ptr": "*i64"},
            {},
        ),
        "counting": (triton_counts._count_fired, {"TILE": 1024}, {}, {}),
        "update of some rows": (
            triton_update._update_rows,
            UPDATE | {"exp_avg_ptr": None, "place_ptr": None},
            {},
            {"num_warps": 8},
        ),
        "update of every row": (
            triton_update._update_rows,
            UPDATE | {"rows_ptr": None, "place_ptr": None, "seen_ptr": None},
            {},
            {"num_warps": 8},
        ),
        "update by places": (
            triton_update._update_rows,
            UPDATE | {"rows_ptr": None, "seen_ptr": None},
            {},
            {"num_warps": 8},
        ),
        "update at a rate on the device": (
            triton_update._update_rows,
            {"UNIT_NORM": True, "TILE_D": 4096, "rows_ptr": None, "seen_ptr": None},
            {},
            {"num_warps": 8},
        ),
        "squares": (triton_update._squares, {"TILE_D": 4096}, {}, {"num_warps": 8}),
    }
    for tiling in triton_product._tilings():
        constants = tiling.kwargs | {"GROUP": 32}
        options = {"num_warps": tiling.num_warps, "num_stages": tiling.num_stages}
        tile = [constants[name] for name in ("TILE_B", "TILE_F", "TILE_D")]
        listed[f"product {tile} {options}"] = (
            triton_product._product.fn,
            constants,
            {"W_ptr": "*bf16"},
            options,
        )
    return listed


def compiled(
    kernel: Any, constants: dict[str, Any], types: dict[str, str], options: dict[str, int]
) -> dict[str, Any]:
    """A kernel's registers a thread, what it spills, its shared memory, whether it has `wgmma`."""
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        pointer = "*fp32" if name.endswith("_ptr") else "fp32"
        signature[name] = (TYPES | types).get(name, pointer)
        if name in constants:
            signature[name] = "constexpr"
        elif name.endswith("_ptr") or name in ("width", "num_latents"):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    options = options | {"enable_fp_fusion": True}
    binary = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    taken = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    return {
        "registers": int(taken["REG"]),
        "spilled": int(taken["STACK"]) + int(taken["LOCAL"]),
        "shared": binary.metadata.shared,
        "threads": 32 * binary.metadata.num_warps,
        "wgmma": "wgmma" in binary.asm["ptx"],
    }


if __name__ == "__main__":
    print(json.dumps({name: compiled(*given) for name, given in kernels().items()}))
