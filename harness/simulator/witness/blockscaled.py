"""The block-scaled GEMM examples for Blackwell: C [M, N, L] = (A * SFA) (B * SFB)^T, scales along K."""

from __future__ import annotations

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
    """Formats of A and B, of the scales, elements to a scale, and C's format.

    `kernel` is the class in the example's file, with the persistent example's constructor and operands.
    """

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
    kernel: str = "Sm100BlockScaledPersistentDenseGemmKernel"

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

        gemm = getattr(example, self.kernel)(self.block, self.tile, self.cluster)
        layouts = (
            OperandMajorMode.K if k_major_a else OperandMajorMode.MN,
            OperandMajorMode.K if k_major_b else OperandMajorMode.MN,
            LayoutEnum.ROW_MAJOR if n_major_c else LayoutEnum.COL_MAJOR,
        )

        def pointer(data: Any, format: str) -> Any:
            return cute.recast_ptr(data.iterator, dtype=element_type(format))

        @cute.jit
        def host(a: Any, b: Any, scales_a: Any, scales_b: Any, c: Any, stream: Any) -> None:
            inner = a.shape[2] * 8 // BITS[self.a]
            m, k = (a.shape[1], inner) if k_major_a else (inner, a.shape[1])
            n = c.shape[2] * 8 // BITS[self.c] if n_major_c else c.shape[1]
            gemm(
                pointer(a, self.a),
                pointer(b, self.b),
                pointer(scales_a, self.scale),
                pointer(scales_b, self.scale),
                pointer(c, self.c),
                layouts,
                (m, n, k, a.shape[0]),
                ACTIVE_CLUSTERS,
                stream,
            )

        fakes = [fake_bytes(dimensions) for dimensions in (3, 3, 1, 1, 3)]
        stream = make_fake_stream(use_tvm_ffi_env_stream=True)
        return cute.compile(host, *fakes, stream, options="--enable-tvm-ffi")
