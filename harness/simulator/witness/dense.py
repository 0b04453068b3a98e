"""The dense GEMM examples of both architectures: C [M, N, L] = A [M, K, L] B [N, K, L]^T."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from types import ModuleType
from typing import Any, ClassVar

from harness.simulator.witness.case import Case, Prepared
from harness.simulator.witness.matrices import (
    element_type,
    elements,
    empty_matrix,
    fake_bytes,
    product_bound,
    random_matrix,
)

# Fewer clusters than there are tiles: a persistent kernel's CTAs take several each.
ACTIVE_CLUSTERS = 2


@dataclass(frozen=True)
class Gemm(Case):
    """A GEMM of M, N, K and L, in the formats of A and B, of the accumulator and of C."""

    problem: tuple[int, int, int, int] = (256, 256, 256, 1)
    tile: tuple[int, int] = (128, 128)
    cluster: tuple[int, int] = (1, 1)
    ab: str = "f16"
    c: str = "f16"
    acc: str = "f32"
    majors: str = "kkn"  # of A (k or m), B (k or n) and C (n or m)

    @abstractmethod
    def launch(self, example: ModuleType) -> Callable[[Any, Any, Any, Any], None]:
        """What the host function does with A, B, C and the stream."""

    def prepare(self, example: ModuleType) -> Prepared:
        m, n, k, batches = self.problem
        k_major_a, k_major_b, n_major_c = (
            major == wanted for major, wanted in zip(self.majors, "kkn", strict=True)
        )
        a = random_matrix(self.ab, (batches, m, k), seed=1, row_major=k_major_a)
        b = random_matrix(self.ab, (batches, n, k), seed=2, row_major=k_major_b)
        c, output = empty_matrix(self.c, (batches, m, n), n_major_c)
        expected = a.values @ b.values.mT
        run = self.launch(example)

        def host(a_data: Any, b_data: Any, c_data: Any, stream: Any) -> None:
            run(
                elements(a_data, self.ab, k_major_a),
                elements(b_data, self.ab, k_major_b),
                elements(c_data, self.c, n_major_c),
                stream,
            )

        return Prepared(
            compile_host(host, 3),
            (a.data, b.data, c),
            output,
            expected,
            product_bound(a.values, b.values, expected, self.c, self.acc),
        )


def compile_host(host: Callable[..., None], tensors: int, dimensions: int = 3) -> Any:
    """`host(*tensors of bytes, stream)`, compiled for the process's target."""
    import cutlass.cute as cute
    from cutlass.cute.runtime import make_fake_stream

    stream = make_fake_stream(use_tvm_ffi_env_stream=True)
    fakes = [fake_bytes(dimensions) for _ in range(tensors)]
    return cute.compile(cute.jit(host), *fakes, stream, options="--enable-tvm-ffi")


@dataclass(frozen=True)
class BlackwellGemm(Gemm):
    """The `dense_gemm*` examples for Blackwell; `kernel` is the class in the example's file."""

    target: ClassVar[str] = "sm_100a"
    kernel: str = "PersistentDenseGemmKernel"
    two_cta: bool = False
    tma_store: bool = True

    def launch(self, example: ModuleType) -> Callable[[Any, Any, Any, Any], None]:
        gemm = getattr(example, self.kernel)(
            element_type(self.acc), self.two_cta, self.tile, self.cluster, self.tma_store
        )
        limited = (ACTIVE_CLUSTERS,) if "max_active_clusters" in signature(gemm.__call__).parameters else ()
        return lambda a, b, c, stream: gemm(a, b, c, *limited, stream)


@dataclass(frozen=True)
class HopperGemm(Gemm):
    """The `dense_gemm` and `dense_gemm_persistent` examples for Hopper."""

    target: ClassVar[str] = "sm_90a"
    persistent: bool = False

    def launch(self, example: ModuleType) -> Callable[[Any, Any, Any, Any], None]:
        accumulator = element_type(self.acc)
        if not self.persistent:
            simple = example.HopperWgmmaGemmKernel(accumulator, self.tile, self.cluster)
            return lambda a, b, c, stream: simple(a, b, c, stream)
        gemm = example.HopperWgmmaGemmPersistentKernel(accumulator, self.tile, self.cluster, 1, True)
        return lambda a, b, c, stream: gemm(a, b, c, ACTIVE_CLUSTERS, stream)


@dataclass(frozen=True)
class TutorialGemm(Gemm):
    """The GEMMs of Blackwell's tutorial: matrices without L, everything else fixed in the example's file."""

    target: ClassVar[str] = "sm_100a"

    def call(self) -> dict[str, Any]:
        return {"problem": self.problem}

    def launch(self, example: ModuleType) -> Callable[[Any, Any, Any, Any], None]:
        limited = (ACTIVE_CLUSTERS,) * (len(signature(example.host_function).parameters) - 3)

        def run(a: Any, b: Any, c: Any, stream: Any) -> None:
            example.host_function(*map(_first, (a, b, c)), *limited)

        return run


@dataclass(frozen=True)
class TensorOpGemm(Gemm):
    """The GEMM example for Ampere's tensor cores (`ldmatrix`, `mma.sync`), which Hopper executes as well."""

    target: ClassVar[str] = "sm_90a"

    def launch(self, example: ModuleType) -> Callable[[Any, Any, Any, Any], None]:
        formats = element_type(self.ab), element_type(self.c), element_type(self.acc)
        gemm = example.TensorOpGemm(*formats, (2, 2, 1), self.majors[2] == "m")
        return lambda a, b, c, stream: gemm(a, b, c, stream)


@dataclass(frozen=True)
class SimtGemm(Gemm):
    """The fp32 GEMM example without tensor cores (`cp.async`, `fma`)."""

    target: ClassVar[str] = "sm_90a"

    def launch(self, example: ModuleType) -> Callable[[Any, Any, Any, Any], None]:
        gemm = example.SGemm()
        return lambda a, b, c, stream: gemm(*map(_first, (a, b, c)), stream=stream)


def _first(matrices: Any) -> Any:
    """The first matrix of a batch."""
    return matrices[(None, None, 0)]
