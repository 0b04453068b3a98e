"""The block-scaled GEMM examples for Blackwell: C [M, N, L] = (A * SFA) (B * SFB)^T, scales along K."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from harness.simulator.witness.case import Case, Prepared
from harness.simulator.witness.dense import ACTIVE_CLUSTERS
from harness.simulator.witness.matrices import (
    BITS,
    element_type,
    empty_matrix,
    fake_bytes,
    product_bound,
    random_matrix,
    random_scales,
)


@dataclass(frozen=True)
class BlockScaledGemm(Case):
    """The persistent example: formats of A and B, of the scales, elements to a scale, and C's format."""

    target: ClassVar[str] = "sm_100a"
    problem: tuple[int, int, int, int] = (256, 256, 512, 1)
    tile: tuple[int, int] = (128, 128)
    cluster: tuple[int, int] = (1, 1)
    a: str = "e2m1"
    b: str = "e2m1"
    scale: str = "e4m3"
    block: int = 16
    c: str = "f32"
    majors: str = "kkn"

    def launch(self, example: ModuleType, layouts: tuple[Any, Any, Any]) -> Callable[..., None]:
        """What the host function does with pointers to A, B, SFA, SFB and C, (M, N, K, L) and the stream."""
        gemm = example.Sm100BlockScaledPersistentDenseGemmKernel(self.block, self.tile, self.cluster)

        def run(a: Any, b: Any, scales_a: Any, scales_b: Any, c: Any, problem: Any, stream: Any) -> None:
            gemm(a, b, scales_a, scales_b, c, layouts, problem, ACTIVE_CLUSTERS, stream)

        return run

    def prepare(self, example: ModuleType) -> Prepared:
        m, n, k, batches = self.problem
        k_major_a, k_major_b, n_major_c = (
            major == wanted for major, wanted in zip(self.majors, "kkn", strict=True)
        )
        a = random_matrix(self.a, (batches, m, k), 1, k_major_a)
        b = random_matrix(self.b, (batches, n, k), 2, k_major_b)
        scales_a, factors_a = random_scales(self.scale, (batches, m, k), self.block, 3)
        scales_b, factors_b = random_scales(self.scale, (batches, n, k), self.block, 4)
        c, output = empty_matrix(self.c, (batches, m, n), n_major_c)
        scaled_a, scaled_b = a.values * factors_a, b.values * factors_b
        expected = scaled_a @ scaled_b.mT
        return Prepared(
            self._compile(example, k_major_a, k_major_b, n_major_c),
            (a.data, b.data, scales_a, scales_b, c),
            output,
            expected,
            product_bound(scaled_a, scaled_b, expected, self.c),
        )

    def _compile(self, example: ModuleType, k_major_a: bool, k_major_b: bool, n_major_c: bool) -> Any:
        import cutlass.cute as cute
        from cutlass.cute.nvgpu import OperandMajorMode
        from cutlass.cute.runtime import make_fake_stream
        from cutlass.tensor_utils import LayoutEnum

        layouts = (
            OperandMajorMode.K if k_major_a else OperandMajorMode.MN,
            OperandMajorMode.K if k_major_b else OperandMajorMode.MN,
            LayoutEnum.ROW_MAJOR if n_major_c else LayoutEnum.COL_MAJOR,
        )
        run = self.launch(example, layouts)

        def pointer(data: Any, format: str) -> Any:
            return cute.recast_ptr(data.iterator, dtype=element_type(format))

        @cute.jit
        def host(a: Any, b: Any, scales_a: Any, scales_b: Any, c: Any, stream: Any) -> None:
            inner = a.shape[2] * 8 // BITS[self.a]
            m, k = (a.shape[1], inner) if k_major_a else (inner, a.shape[1])
            n = c.shape[2] * 8 // BITS[self.c] if n_major_c else c.shape[1]
            run(
                pointer(a, self.a),
                pointer(b, self.b),
                pointer(scales_a, self.scale),
                pointer(scales_b, self.scale),
                pointer(c, self.c),
                (m, n, k, a.shape[0]),
                stream,
            )

        fakes = [fake_bytes(dimensions) for dimensions in (3, 3, 1, 1, 3)]
        stream = make_fake_stream(use_tvm_ffi_env_stream=True)
        return cute.compile(host, *fakes, stream, options="--enable-tvm-ffi")


@dataclass(frozen=True)
class TutorialBlockScaledGemm(BlockScaledGemm):
    """The NVFP4 GEMMs of Blackwell's tutorial: all but the problem is fixed in the example's file."""

    def call(self) -> dict[str, Any]:
        return {"problem": self.problem}

    def launch(self, example: ModuleType, layouts: tuple[Any, Any, Any]) -> Callable[..., None]:
        gemm = example.Sm100BlockScaledDenseGemmKernel()
        return lambda *operands: gemm(*operands)
