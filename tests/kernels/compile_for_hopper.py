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

from sae_dist.kernels import triton_product, triton_search, triton_sparse, triton_update

TYPES = {
    **dict.fromkeys(["x_ptr", "z_ptr", "half_ptr"], "*bf16"),
    **dict.fromkeys(["begins_ptr", "ends_ptr", "offsets_ptr", "rows_ptr"], "*i64"),
    **dict.fromkeys(["latents_ptr", "sources_ptr", "seen_ptr"], "*i64"),
    **dict.fromkeys(["counts_ptr", "groups_ptr", "num_listed_ptr"], "*i32"),
    **dict.fromkeys(["held_latents_ptr", "held_todo_ptr", "place_ptr"], "*i32"),
    **dict.fromkeys(["num_rows", "num_latents", "num_groups", "num_entries"], "i32"),
    **dict.fromkeys(["num_places", "num_sources", "k", "width"], "i32"),
    "number_ptr": "*i64",
    "skip_ptr": "*i1",
}  # all others are float32
SPANS = {"GROUP": 32, "SPAN": 1024, "TILE": 64}
SEGMENTS = {"PIECE": 512, "TILE_N": 8, "TILE_D": 512}
RANKING = {"GROUP": 32, "TILE_G": 16, "TILE_N": 8, "TILE_D": 256, "IS_EXACT": True}
RANKED = [
    ("k = 32", {"ROOM": 1024, "TILE_K": 32}),
    ("k = 512", {"ROOM": 2048, "TILE_K": 512}),
    ("k = 32, rounded", {"ROOM": 1024, "TILE_K": 32, "IS_EXACT": False}),
]
UPDATE = {"UNIT_NORM": True, "TILE_D": 4096}


def kernels() -> dict[str, tuple[Any, dict[str, Any], dict[str, str], dict[str, int]]]:
    """Name: the kernel, its constants, what differs from `TYPES`, the compiler's options."""
    sums, no_pieces = triton_sparse._segment_sums, {"pieces_ptr": None, "offsets_ptr": None}
    listed = {
        "count": (triton_product._count, SPANS, {}, {}),
        "write": (triton_product._write, SPANS, {}, {}),
        "write in places": (triton_product._write, SPANS | {"rows_ptr": None}, {}, {}),
        "groups": (triton_search._groups, {"TILE": 2048}, {}, {}),
        **{
            f"largest, {name}": (triton_search._largest, RANKING | constants, {}, {})
            for name, constants in RANKED
        },
        "entry dots": (triton_sparse._entry_dots, {"TILE_N": 8, "TILE_D": 256}, {}, {}),
        "sums": (sums, SEGMENTS | no_pieces, {"table_ptr": "*bf16"}, {}),
        "sums with pieces": (sums, SEGMENTS, {}, {}),
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
