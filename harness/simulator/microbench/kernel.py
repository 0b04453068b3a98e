"""Compiling a micro: a CuTe DSL kernel around its PTX, with the tensor map that the DSL makes."""

from __future__ import annotations

from typing import Any

import cutlass.cute as cute
import cutlass.utils.hopper_helpers as sm90_utils
from cutlass import BFloat16, Int32, Int64, Uint8, const_expr
from cutlass._mlir.dialects import cute as cute_ir
from cutlass._mlir.dialects import cute_nvgpu as cute_nvgpu_ir
from cutlass._mlir.dialects import llvm
from cutlass.cute.nvgpu import cpasync
from cutlass.cute.runtime import make_fake_compact_tensor, make_fake_stream
from cutlass.cute.typing import AddressSpace
from cutlass.cutlass_dsl import dsl_user_op
from cutlass.utils import LayoutEnum

from harness.simulator.microbench.micro import OUT_COLUMNS, PARAMETERS, SOURCE_COLUMNS, TILE_COLUMNS, Micro


def compile_micro(micro: Micro) -> Any:
    """The compiled `launch(out, src, parameters)`: int64 [ctas, OUT_COLUMNS], bf16, int32 [PARAMETERS]."""

    @cute.kernel  # type: ignore[untyped-decorator]
    def kernel(
        atom: Any, source: cute.Tensor, out: cute.Tensor, src: cute.Tensor, parameters: cute.Tensor
    ) -> None:
        place = cute.arch.get_dyn_smem(Uint8, 1024).toint() if const_expr(micro.smem_bytes > 0) else Int32(0)
        tensor_map = descriptor_address(atom) if const_expr(micro.box_rows > 0) else Int64(0)
        block, _, _ = cute.arch.block_idx()
        row = (out.iterator + block * OUT_COLUMNS).toint()
        execute(micro.body, row, src.iterator.toint(), tensor_map, Int32(place), parameters.iterator.toint())

    @cute.jit  # type: ignore[untyped-decorator]
    def launch(out: cute.Tensor, src: cute.Tensor, parameters: cute.Tensor, stream: Any) -> None:
        atom, source = None, src
        if const_expr(micro.box_rows > 0):
            tile = (micro.box_rows, 64, TILE_COLUMNS)
            layout = sm90_utils.make_smem_layout_a(LayoutEnum.ROW_MAJOR, tile, BFloat16, 1)
            stage = cute.slice_(layout, (None, None, 0))
            box = (micro.box_rows, TILE_COLUMNS)
            atom, source = cpasync.make_tiled_tma_atom(cpasync.CopyBulkTensorTileG2SOp(), src, stage, box)
        kernel(atom, source, out, src, parameters).launch(
            grid=(out.shape[0], 1, 1),
            block=(micro.threads, 1, 1),
            cluster=(micro.cluster, 1, 1),
            smem=micro.smem_bytes,
            stream=stream,
        )

    def tensor(dtype: Any, shape: tuple[Any, ...], align: int) -> Any:
        order = (1, 0) if len(shape) == 2 else (0,)
        return make_fake_compact_tensor(dtype, shape, stride_order=order, assumed_align=align)

    return cute.compile(
        launch,
        tensor(Int64, (cute.sym_int32(), OUT_COLUMNS), 16),
        tensor(BFloat16, (cute.sym_int32(), SOURCE_COLUMNS), 16),
        tensor(Int32, (PARAMETERS,), 16),
        make_fake_stream(use_tvm_ffi_env_stream=True),
        options="--enable-tvm-ffi",
    )


@dsl_user_op  # type: ignore[untyped-decorator]
def descriptor_address(atom: Any, *, loc: Any = None, ip: Any = None) -> Any:
    """The generic address of a TMA atom's descriptor."""
    kind = cute_ir.PtrType.get(cute_nvgpu_ir.TmaDescriptorTiledType.get(), AddressSpace.generic, 64)
    executable = cute_nvgpu_ir.atom_make_exec_tma(atom._trait.value, loc=loc, ip=ip)
    return cute_nvgpu_ir.get_tma_desc_addr(kind, executable, loc=loc, ip=ip).toint(loc=loc, ip=ip)


@dsl_user_op  # type: ignore[untyped-decorator]
def execute(
    body: str,
    out: Any,
    src: Any,
    tensor_map: Any,
    smem: Any,
    parameters: Any,
    *,
    loc: Any = None,
    ip: Any = None,
) -> None:
    """Run the body with its registers set."""
    loads = "".join(f"ld.global.b32 p{i}, [$4+{4 * i}];\n" for i in range(PARAMETERS))
    text = f"""{{
.reg .b64 out, src, map;
.reg .b32 smem, tid;
.reg .b32 {", ".join(f"p{i}" for i in range(PARAMETERS))};
mov.b64 out, $0;
mov.b64 src, $1;
mov.b64 map, $2;
mov.b32 smem, $3;
mov.u32 tid, %tid.x;
{loads}{body}
}}"""
    values = [Int64(out), Int64(src), Int64(tensor_map), Int32(smem), Int64(parameters)]
    llvm.inline_asm(
        None,
        [value.ir_value(loc=loc, ip=ip) for value in values],
        text,
        "l,l,l,r,l,~{memory}",
        has_side_effects=True,
        loc=loc,
        ip=ip,
    )
