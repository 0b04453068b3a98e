"""`tcgen05.mma`: products of shared-memory operands into tensor memory, dense and block-scaled.

Numbers are exact products of the formats (times exact scale factors), summed by numpy in float32; the order
of accumulation is not modelled.

Source: PTX ISA "TensorCore 5th Generation Matrix Multiply and accumulate Operations".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.simulator.errors import SimulationError
from harness.simulator.number_formats import F16, F32, UE8M0, FloatArray, decode, encode
from harness.simulator.operand import Packing, SharedArray, unpack
from harness.simulator.tcgen05_instruction import Mma
from harness.simulator.tcgen05_layout import DataPath, LaneLayout, read_scales
from harness.simulator.tensor_memory import TensorMemory, WordArray, column_of


@dataclass(frozen=True)
class Scales:
    """Tensor-memory addresses of the scale factors of S instructions: uint32 [G, S] each."""

    a: NDArray[Any]
    b: NDArray[Any]


@dataclass(frozen=True)
class TensorCore:
    """The memories that `tcgen05.mma` works on: `shared` uint8 [C, bytes] and `memory`, of all C CTAs."""

    shared: SharedArray
    memory: TensorMemory

    def multiply(
        self,
        mma: Mma,
        ctas: NDArray[Any],
        d: NDArray[Any],
        a: NDArray[Any],
        b: NDArray[Any],
        *,
        accumulate: NDArray[np.bool_],
        scales: Scales | None = None,
        a_in_tensor_memory: bool = False,
        scale_input: int = 0,
        disabled_lanes: NDArray[Any] | None = None,
    ) -> None:
        """D = A B^T (+ D 2^-scale_input where `accumulate` [G]) by S instructions that share D.

        `ctas` int [G, cta_group]: the CTAs' rows, the even-ranked first. `d` uint32 [G]: D's address.
        `a`, `b` uint64 [G, S]: descriptors (or uint32 addresses of A in tensor memory), read in each CTA of a
        pair. `accumulate` is the first instruction's enable-input-d; the others accumulate. `disabled_lanes`
        uint32 [G, 4]: a mask of lanes of D to leave alone, of one CTA.
        """
        if (scales is None) != (mma.scale is None):
            raise SimulationError(f"scale factors given for .kind::{mma.kind.value}: {scales is not None}")
        if disabled_lanes is not None and disabled_lanes.any() and mma.cta_group == 2:
            raise SimulationError("disable-output-lane of a CTA pair is not simulated")
        a_matrix = self._a_from_tensor_memory(mma, ctas, a) if a_in_tensor_memory else self._a(mma, ctas, a)
        b_matrix = self._per_group(mma.b.read(self.shared, ctas.reshape(-1), _per_cta(b, ctas)), ctas)
        if scales is not None:
            a_matrix, b_matrix = self._scaled(mma, ctas, scales, a_matrix, b_matrix)
        if mma.negate_a != mma.negate_b:
            b_matrix = -b_matrix
        product = np.matmul(a_matrix, b_matrix.swapaxes(1, 2)).astype(np.float32, copy=False)
        self._store(mma, ctas, d, product, accumulate, scale_input, disabled_lanes)

    def _a(self, mma: Mma, ctas: NDArray[Any], descriptors: NDArray[Any]) -> FloatArray:
        return self._per_group(mma.a.read(self.shared, ctas.reshape(-1), _per_cta(descriptors, ctas)), ctas)

    def _a_from_tensor_memory(self, mma: Mma, ctas: NDArray[Any], addresses: NDArray[Any]) -> FloatArray:
        """A, float32 [G, m, S * k], of addresses [G, S]."""
        if mma.a.packing is Packing.PADDED:
            raise SimulationError(f"{mma.a_format.name} of A in tensor memory is not simulated")
        if mma.transpose_a:
            raise SimulationError("A in tensor memory cannot be transposed")
        layout = LaneLayout.of(mma)
        steps = _per_cta(addresses, ctas).T
        words = [layout.read_a(self.memory, ctas.reshape(-1), address) for address in steps]
        data = np.concatenate(words, axis=2).view(np.uint8)
        return self._per_group(unpack(data, mma.a_format, mma.a.packing), ctas)

    @staticmethod
    def _per_group(per_cta: FloatArray, ctas: NDArray[Any]) -> FloatArray:
        """[G, cta_group * rows, K] of the CTAs' parts, [G * cta_group, rows, K]."""
        return per_cta.reshape(len(ctas), -1, per_cta.shape[2])

    def _scaled(
        self, mma: Mma, ctas: NDArray[Any], scales: Scales, a: FloatArray, b: FloatArray
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """A and B times their scale factors. ue8m0 factors need float64: their products leave float32."""
        scale = mma.scale
        assert scale is not None
        split = LaneLayout.of(mma).path is DataPath.TWO_BY_TWO
        flat = ctas.reshape(-1)
        per_cta_rows = mma.m // mma.cta_group
        a_address, b_address = _per_cta(scales.a, ctas), _per_cta(scales.b, ctas)
        a_factors = read_scales(self.memory, flat, a_address, per_cta_rows, scale.a_byte, scale, False)
        copies = read_scales(self.memory, flat, b_address, mma.n, scale.b_byte, scale, split)
        copies = copies.reshape(len(ctas), mma.cta_group, mma.n, -1)
        if mma.cta_group == 2 and not np.array_equal(copies[:, 0], copies[:, 1], equal_nan=True):
            raise SimulationError("B's scale factors differ between the CTAs of a pair")
        dtype = np.float64 if scale.number_format is UE8M0 else np.float32
        return _times_blocks(a, self._per_group(a_factors, ctas), dtype), _times_blocks(
            b, copies[:, 0], dtype
        )

    def _store(
        self,
        mma: Mma,
        ctas: NDArray[Any],
        d: NDArray[Any],
        product: FloatArray,
        accumulate: NDArray[np.bool_],
        scale_input: int,
        disabled_lanes: NDArray[Any] | None,
    ) -> None:
        """Add D where it accumulates, and write it to every CTA's tensor memory."""
        layout = LaneLayout.of(mma)
        flat, address = ctas.reshape(-1), _per_cta(d[:, None], ctas)[:, 0]
        values = product.reshape(len(flat), layout.rows, mma.n)
        lanes, column = layout.lanes(address), column_of(address)
        adds = np.repeat(accumulate, mma.cta_group)
        if disabled_lanes is not None and not disabled_lanes.any():
            disabled_lanes = None
        if adds.all() and mma.d_format is F32 and scale_input == 0 and disabled_lanes is None:
            summands = layout.to_lanes(values.view(np.uint32)).view(np.float32)
            self.memory.add(flat, lanes, column, summands)
            return
        if adds.any():
            words = self.memory.read(flat[adds], lanes[adds], column[adds], layout.columns(mma.n))
            before = decode(layout.to_rows(words), mma.d_format) * np.float32(2.0**-scale_input)
            values[adds] += before
        words = layout.to_lanes(_words(values, mma))
        if disabled_lanes is None:
            self.memory.write(flat, lanes, column, words)
            return
        for group in range(len(flat)):
            mask = disabled_lanes[group].astype(np.int64)[lanes[group] // 32] >> lanes[group] % 32 & 1
            kept = np.flatnonzero(mask == 0)
            one = slice(group, group + 1)
            self.memory.write(flat[one], lanes[one, kept], column[one], words[one, kept])


def _per_cta(per_group: NDArray[Any], ctas: NDArray[Any]) -> NDArray[Any]:
    """[G * cta_group, S] of operands [G, S]: both CTAs of a pair use the same descriptors and addresses."""
    return np.repeat(per_group, ctas.shape[1], axis=0)


def _times_blocks(matrix: FloatArray, factors: FloatArray, dtype: type[np.floating[Any]]) -> NDArray[Any]:
    """[G, rows, K] with each of the equal blocks along K times its factor, [G, rows, blocks]."""
    # Multiplying whole rows is twice as fast as broadcasting over blocks of 16.
    along_k = factors.astype(dtype, copy=False).repeat(matrix.shape[2] // factors.shape[2], axis=2)
    return np.multiply(matrix, along_k, out=along_k)


def _words(values: FloatArray, mma: Mma) -> WordArray:
    """D in tensor memory: a 32-bit word an element, f16 in its low half."""
    return values.view(np.uint32) if mma.d_format is F32 else encode(values, F16)
