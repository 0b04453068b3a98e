"""What the Blackwell test GEMMs are made of: operand formats, tile shapes, clusters. Imports no compiler."""

from __future__ import annotations

from dataclasses import dataclass

# Bytes of K in one stage: four MMA instructions of 32 bytes, one row of the 128-byte swizzle.
STAGE_K_BYTES = 128
SMEM_BYTES = 227 * 1024
ACCUMULATOR_BYTES = 4
# The epilogue's subtile: all 128 rows of a CTA's accumulator, 128 bytes of each.
SUBTILE_ROWS = 128
SUBTILE_COLUMNS = 32
STORE_STAGES = 2


@dataclass(frozen=True)
class Format:
    """An operand format of `tcgen05.mma` (PTX ISA, "tcgen05.mma kinds").

    `bits` of one element in memory, `mma_k` elements of K in one instruction; for block-scaled kinds one
    scale for `scale_block` elements along K, else 0.
    """

    bits: int
    mma_k: int
    scale_block: int = 0


FORMATS: dict[str, Format] = {
    "f16": Format(16, 16),
    "bf16": Format(16, 16),
    "tf32": Format(32, 8),
    "f8": Format(8, 32),
    "nvf4": Format(4, 64, scale_block=16),
    "mxf4": Format(4, 64, scale_block=32),
    "mxf8": Format(8, 32, scale_block=32),
}


@dataclass(frozen=True)
class GemmParams:
    """One test GEMM: C[M, N] (fp32) = A[M, K] @ B[N, K]^T, all sizes dynamic.

    `mma_m` is 128 for one CTA and 256 for a pair (`two_cta`), `cluster` counts CTAs along M and N.
    """

    format: str = "f16"
    mma_n: int = 128
    two_cta: bool = False
    cluster: tuple[int, int] = (1, 1)
    stages: int = 3

    @property
    def operand(self) -> Format:
        return FORMATS[self.format]

    @property
    def scaled(self) -> bool:
        return self.operand.scale_block > 0

    @property
    def mma_m(self) -> int:
        return 256 if self.two_cta else 128

    @property
    def stage_k(self) -> int:
        """Elements of K in one stage."""
        return STAGE_K_BYTES * 8 // self.operand.bits

    @property
    def scale_rows_n(self) -> int:
        """Rows of B's scale factors that a tile loads: whole atoms of 128."""
        return -(-self.mma_n // 128) * 128

    @property
    def scale_columns(self) -> int:
        """Scale factors along K in one stage."""
        return self.stage_k // self.operand.scale_block if self.scaled else 0

    @property
    def k_alignment(self) -> int:
        """What K must be a multiple of: TMA wants rows of 16 bytes, and scales whole blocks."""
        return max(128 // self.operand.bits, self.operand.scale_block)

    @property
    def stage_bytes(self) -> int:
        """Shared memory of one stage in one CTA."""
        rows_of_b = self.mma_n // (2 if self.two_cta else 1)
        scales = (SUBTILE_ROWS + self.scale_rows_n) * self.scale_columns
        return (SUBTILE_ROWS + rows_of_b) * STAGE_K_BYTES + scales

    @property
    def smem_bytes(self) -> int:
        """Shared memory of one CTA, the small things rounded up."""
        stores = STORE_STAGES * SUBTILE_ROWS * SUBTILE_COLUMNS * ACCUMULATOR_BYTES
        return self.stages * self.stage_bytes + stores + 4096

    @property
    def tmem_columns(self) -> int:
        """Tensor memory to allocate: accumulator and scale factors, a power of two of at least 32 columns.

        Four scale factors of 32 rows take a column (PTX ISA, "tcgen05.mma scale factor layouts").
        """
        columns = self.mma_n + (SUBTILE_ROWS + self.scale_rows_n) // 32 * (self.scale_columns // 4)
        return max(32, 1 << (columns - 1).bit_length())

    @property
    def name(self) -> str:
        ctas = "2cta" if self.two_cta else "1cta"
        return f"gemm_{self.format}_{ctas}_n{self.mma_n}_c{self.cluster[0]}x{self.cluster[1]}_s{self.stages}"

    def why_illegal(self) -> str:
        """The reason this kernel does not exist; "" when it does."""
        if self.format not in FORMATS:
            return f"format = {self.format!r}: known are {', '.join(FORMATS)}"
        if self.mma_n not in (64, 128, 192, 256):
            return f"mma_n = {self.mma_n}: must be 64, 128, 192 or 256"
        if self.two_cta and self.cluster[0] % 2:
            return f"cluster = {self.cluster}: a pair of CTAs needs an even number along M"
        if self.stages < 1:
            return f"stages = {self.stages}: must be at least 1"
        if self.smem_bytes > SMEM_BYTES:
            return f"{self.smem_bytes} bytes of shared memory: a CTA has {SMEM_BYTES}"
        return ""


def _variants() -> list[GemmParams]:
    """Each format, tile width, pair of CTAs and cluster at least once, and the combinations that interact."""
    single = [GemmParams(name) for name in FORMATS]
    for name in ("f16", "nvf4"):
        single += [GemmParams(name, mma_n=n) for n in (64, 192, 256)]
        single += [GemmParams(name, stages=1)]
        single += [GemmParams(name, cluster=cluster) for cluster in ((2, 1), (1, 2), (2, 2))]
        single += [GemmParams(name, mma_n=64, cluster=(2, 2))]
        single += [GemmParams(name, mma_n=n, two_cta=True, cluster=(2, 1)) for n in (64, 128, 192, 256)]
        single += [GemmParams(name, mma_n=n, two_cta=True, cluster=(2, 2)) for n in (128, 192)]
        single += [GemmParams(name, two_cta=True, cluster=(4, 1), stages=4)]
    for name in ("tf32", "f8", "mxf4", "mxf8"):
        single += [GemmParams(name, mma_n=192, two_cta=True, cluster=(2, 2))]
    return single


GEMMS: dict[str, GemmParams] = {params.name: params for params in _variants()}
