"""The fused attention examples: O = softmax(scale Q K^T) V, for each batch and head."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from harness.simulator.witness.case import Case, Prepared
from harness.simulator.witness.dense import compile_host
from harness.simulator.witness.matrices import (
    BITS,
    ROUNDING,
    TMA_ALIGNMENT,
    element_type,
    elements,
    empty_matrix,
    random_matrix,
)

Launch: TypeAlias = Callable[[Any, Any, Any, Any, Any, Any], None]

# Of the softmax in fp32: exp2 by approximation (2 ulp), exponents up to some ten, sums over keys.
SOFTMAX_ERROR = 2.0**-18


@dataclass(frozen=True)
class Attention(Case):
    """Batches, queries, keys, query heads, key heads and the head's size; elements in one format."""

    problem: tuple[int, int, int, int, int, int] = (1, 256, 256, 2, 1, 64)
    element: str = "f16"
    causal: bool = False
    persistent: bool = False

    @abstractmethod
    def launch(self, example: ModuleType) -> Launch:
        """What the host function does with Q, K, V, O, the sums' logarithms and the stream.

        The first four are [batch, sequence, heads, size], the fifth points to fp32 [batch, sequence, heads].
        """

    @property
    def scale(self) -> float:
        """The scores' factor."""
        return 1 / math.sqrt(self.problem[-1])

    def prepare(self, example: ModuleType) -> Prepared:
        batches, queries, keys, heads, key_heads, size = self.problem
        q = random_matrix(self.element, (batches, queries, heads * size), 1)
        k = random_matrix(self.element, (batches, keys, key_heads * size), 2)
        v = random_matrix(self.element, (batches, keys, key_heads * size), 3)
        o, output = empty_matrix(self.element, (batches, queries, heads * size))
        sums, _ = empty_matrix("f32", (batches, 1, queries * heads))
        expected, bound = self._reference(q.values, k.values, v.values)
        run = self.launch(example)

        def host(q_data: Any, k_data: Any, v_data: Any, o_data: Any, sums_data: Any, stream: Any) -> None:
            counts = (heads, key_heads, key_heads, heads)
            q_view, k_view, v_view, o_view = (
                self._heads(data, count)
                for data, count in zip((q_data, k_data, v_data, o_data), counts, strict=True)
            )
            run(q_view, k_view, v_view, o_view, elements(sums_data, "f32").iterator, stream)

        arguments = (q.data, k.data, v.data, o, sums)
        return Prepared(compile_host(host, len(arguments)), arguments, output, expected, bound)

    def _heads(self, data: Any, heads: int) -> Any:
        """[batch, sequence, heads, size] of the bytes passed."""
        import cutlass.cute as cute

        size = self.problem[-1]
        pointer = cute.recast_ptr(data.iterator, dtype=element_type(self.element))
        batches, sequence = data.shape[0], data.shape[1]
        stride = (cute.assume(sequence * heads * size, TMA_ALIGNMENT * 8 // BITS[self.element]),)
        shape = (batches, sequence, heads, size)
        return cute.make_tensor(pointer, cute.make_layout(shape, stride=(*stride, heads * size, size, 1)))

    def _reference(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """O [batch, queries, heads * size] and its bound: probabilities and O are rounded once."""
        batches, queries, keys, heads, key_heads, size = self.problem
        share = heads // key_heads
        by_head = q.view(batches, queries, heads, size).transpose(1, 2)
        k, v = (
            x.view(batches, keys, key_heads, size).transpose(1, 2).repeat_interleave(share, 1) for x in (k, v)
        )
        scores = self.scale * by_head @ k.mT
        if self.causal:
            scores = scores.masked_fill(~torch.ones(queries, keys).tril().bool(), -math.inf)
        probabilities = scores.softmax(-1)
        expected, magnitude = probabilities @ v, probabilities @ v.abs()
        unit = ROUNDING[self.element]
        bound = (2 * unit + SOFTMAX_ERROR) * magnitude + unit * expected.abs()
        flat = (batches, queries, heads * size)
        return expected.transpose(1, 2).reshape(flat), bound.transpose(1, 2).reshape(flat)


@dataclass(frozen=True)
class AmpereAttention(Attention):
    """FlashAttention 2 with `mma.sync`, which Hopper executes as well."""

    target: ClassVar[str] = "sm_90a"

    def launch(self, example: ModuleType) -> Launch:
        kernel = example.FlashAttentionForwardAmpere(self.problem[-1], 64, 64, 128, self.causal)
        return lambda q, k, v, o, sums, stream: kernel(q, k, v, o, self.scale, stream)


@dataclass(frozen=True)
class HopperAttention(Attention):
    """Two consumer warpgroups with `wgmma`; the second product takes the probabilities from registers."""

    target: ClassVar[str] = "sm_90a"
    tile: tuple[int, int] = (64, 128)

    def launch(self, example: ModuleType) -> Launch:
        import cutlass.cute as cute
        from cutlass import Float32, Int32

        _, queries, keys, heads, key_heads, size = self.problem
        masks = example.fmha_utils.MaskEnum
        mask = masks.RESIDUAL_MASK if keys % self.tile[1] else masks.WINDOW_MASK
        kernel = example.HopperFusedMultiHeadAttentionForward(
            Float32, Float32, (*self.tile, size), self.persistent, masks.WINDOW_MASK if self.causal else mask
        )
        log2 = self.scale * math.log2(math.e)

        right = Int32(0) if self.causal else None

        def run(q: Any, k: Any, v: Any, o: Any, sums: Any, stream: Any) -> None:
            q, k, v, o = (
                cute.make_tensor(
                    x.iterator, cute.select(_with_group(x, key_heads).layout, mode=[1, 4, 3, 2, 0])
                )
                for x in (q, k, v, o)
            )
            by_token = (queries, 1, heads // key_heads, key_heads, q.shape[4])
            stride = (heads, 1, 1, heads // key_heads, queries * heads)
            lse = cute.make_tensor(sums, cute.make_layout(by_token, stride=stride))
            kernel(q, k, v, o, lse, log2, self.scale, 1.0, None, right, stream)

        return run


@dataclass(frozen=True)
class BlackwellAttention(Attention):
    """`tcgen05`, the probabilities in tensor memory; softmax and correction have their own warpgroups."""

    target: ClassVar[str] = "sm_100a"
    tile: tuple[int, int] = (128, 128)
    emulated_exp2: bool = False
    skip_correction: bool = False

    def launch(self, example: ModuleType) -> Launch:
        import cutlass.cute as cute
        from cutlass import Float32, Int32

        _, _, keys, heads, key_heads, size = self.problem
        masks = example.fmha_utils.MaskEnum
        mask = masks.RESIDUAL_MASK if keys % self.tile[1] and not self.causal else masks.WINDOW_MASK
        kernel = example.BlackwellFusedMultiHeadAttentionForward(
            Float32,
            Float32,
            self.tile,
            size,
            self.persistent,
            mask,
            self.emulated_exp2,
            self.skip_correction,
        )
        log2 = self.scale * math.log2(math.e)
        right = Int32(0) if self.causal else None

        def run(q: Any, k: Any, v: Any, o: Any, sums: Any, stream: Any) -> None:
            tensors = [_with_group(x, key_heads) for x in (q, k, v, o)]
            sizes = (q.shape[0], q.shape[1], q.shape[1], k.shape[1], heads, key_heads, size, size)
            kernel(
                *tensors,
                tuple(map(Int32, sizes)),
                None,
                None,
                cute.make_tensor(sums, cute.make_layout(q.shape[:3])),
                None,
                Float32(log2),
                Float32(self.scale),
                Float32(1.0),
                None,
                None,
                right,
                None,
                None,
                stream,
                False,
            )

        return run


def _with_group(tensor: Any, key_heads: int) -> Any:
    """[batch, sequence, key heads, heads to a key head, size] of [batch, sequence, heads, size]."""
    import cutlass.cute as cute

    batches, sequence, heads, size = tensor.shape
    by_batch, by_token, by_head, _ = tensor.stride
    share = heads // key_heads
    shape = (batches, sequence, key_heads, share, size)
    stride = (by_batch, by_token, share * by_head, by_head, 1)
    return cute.make_tensor(tensor.iterator, cute.make_layout(shape, stride=stride))
