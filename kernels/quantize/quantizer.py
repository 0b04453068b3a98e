"""Quantizing activations: bf16 [M, K] -> a router GEMM's operand and alpha, bit for bit as `kernels.nvfp4`.

    largest     the largest finite magnitude of each CTA's share -> partials
    quantize    all partials -> global scale; a block's largest magnitude -> its scale -> its elements

Without a calibrated global scale nothing can be quantized before everything has been read once, hence two
kernels. The second is a programmatic dependent of the first: its CTAs take their multiprocessors early, load
their first elements, and wait. With a calibrated one `quantize` runs alone.

A thread takes eight elements at a time, one 16-byte load; two neighbours share a block of 16 and exchange its
largest magnitude by shuffle.
"""

from __future__ import annotations

from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Float32, Float64, Int32, Uint8
from cutlass.cutlass_dsl import select_
from cutlass.memory import SmemAllocator

from kernels.family import OperandFormat
from kernels.nvfp4 import E2M1_MAX, E4M3_MAX
from kernels.nvfp4_layout import SCALE_COLUMNS
from kernels.quantize.formats import (
    E4M3_NAN,
    ELEMENTS,
    KEYS_OF_ZEROS,
    NOT_FINITE,
    TWO_BF16_NANS,
    bf16_value,
    decode_e2m1,
    dequantize_e2m1,
    e4m3_code,
    e4m3_value,
    finite_keys,
    larger,
    largest_magnitude,
    magnitude_of_keys,
    pack_e2m1,
)
from kernels.quantize.places import WORDS, bytes_of, scale_offset, vector_of, words_of

THREADS = 256
WARP = 32
# What an H100's 132 multiprocessors hold at once: 32 registers a thread let eight CTAs in.
MAX_CTAS = 8 * 132
FLOAT32_MAX = 3.4028234663852886e38


class ActivationQuantizer:
    """The kernels for one K and output format; `calibrated` ones take the global scale from the caller."""

    def __init__(self, hidden: int, output: OperandFormat, calibrated: bool) -> None:
        self.output = output
        self.calibrated = calibrated
        self.row_vectors = hidden // ELEMENTS

    @cute.jit
    def __call__(
        self,
        x: cute.Tensor,
        weight_scale: cute.Tensor,
        global_scale: cute.Tensor,
        partials: cute.Tensor,
        elements: cute.Tensor,
        scales: cute.Tensor,
        alpha: cute.Tensor,
        stream: Any,
    ) -> None:
        """Launch on `stream`; `kernels.quantize.launch` says what the tensors are."""
        vectors = x.shape[0] * self.row_vectors
        parts = cutlass.min(cute.ceil_div(vectors, THREADS), MAX_CTAS)
        work = vectors
        if cutlass.const_expr(self.output is OperandFormat.NVFP4):
            work = cutlass.max(vectors, padding_words(scales, x.shape[0]))
        block = (THREADS, 1, 1)
        if cutlass.const_expr(not self.calibrated):
            self.largest(x, partials, vectors).launch(grid=(parts, 1, 1), block=block, stream=stream)
        self.quantize(
            x, weight_scale, global_scale, partials, parts, elements, scales, alpha, vectors
        ).launch(
            grid=(cutlass.min(cute.ceil_div(work, THREADS), MAX_CTAS), 1, 1),
            block=block,
            stream=stream,
            use_pdl=not self.calibrated,
        )

    @cute.kernel
    def largest(self, x: cute.Tensor, partials: cute.Tensor, vectors: Int32) -> None:
        cute.arch.griddepcontrol_launch_dependents()
        thread, _, _ = cute.arch.thread_idx()
        cta, _, _ = cute.arch.block_idx()
        ctas, _, _ = cute.arch.grid_dim()
        keys = Int32(KEYS_OF_ZEROS)
        for vector in cutlass.range(cta * THREADS + thread, vectors, ctas * THREADS, unroll=4):
            loaded = cute.make_rmem_tensor((WORDS,), Int32)
            cute.autovec_copy(vector_of(x, vector), loaded)
            for word in cutlass.range_constexpr(WORDS):
                keys = larger(keys, finite_keys(loaded[word]))
        top = largest_of_cta(magnitude_of_keys(keys), thread)
        if thread == 0:
            partials[cta] = top

    @cute.kernel
    def quantize(
        self,
        x: cute.Tensor,
        weight_scale: cute.Tensor,
        global_scale: cute.Tensor,
        partials: cute.Tensor,
        parts: Int32,
        elements: cute.Tensor,
        scales: cute.Tensor,
        alpha: cute.Tensor,
        vectors: Int32,
    ) -> None:
        thread, _, _ = cute.arch.thread_idx()
        cta, _, _ = cute.arch.block_idx()
        ctas, _, _ = cute.arch.grid_dim()
        first = cta * THREADS + thread
        stride = ctas * THREADS
        steps = cute.ceil_div(vectors, stride)
        # From the end: what `largest` has read last may be in the L2 still. 6 % at 4,096 tokens of 7168,
        # as much as an H200's L2 holds (2026-11-29).
        vector = (steps - 1) * stride + first
        loaded = cute.make_rmem_tensor((WORDS,), Int32)
        following = cute.make_rmem_tensor((WORDS,), Int32)
        # `largest` does not write x: the first elements need not wait for it.
        load_existing(x, vector, vectors, loaded)
        if cutlass.const_expr(self.calibrated):
            scale = global_scale[0]
        else:
            cute.arch.griddepcontrol_wait()
            scale = scale_of_partials(partials, parts, thread)
        if (cta == 0) & (thread == 0):
            if cutlass.const_expr(not self.calibrated):
                global_scale[0] = scale
            alpha[0] = alpha_of(scale, weight_scale[0])
        if cutlass.const_expr(self.output is OperandFormat.NVFP4):
            clear_padding(scales, x.shape[0], first, stride)
        # Every thread takes as many steps as the others: whole warps stay together for the shuffle.
        for _ in cutlass.range(steps):
            load_existing(x, vector - stride, vectors, following)
            self.quantize_vector(loaded, scale, vector, vectors, elements, scales)
            loaded.store(following.load())
            vector -= stride

    @cute.jit
    def quantize_vector(
        self,
        loaded: cute.Tensor,
        global_scale: Float32,
        vector: Int32,
        vectors: Int32,
        elements: cute.Tensor,
        scales: cute.Tensor,
    ) -> None:
        top = largest_magnitude(loaded)
        top = cutlass.max(top, cute.arch.shuffle_sync_bfly(top, 1))
        finite = top < NOT_FINITE
        wanted = global_scale * bf16_value(top) * Float32(1 / E2M1_MAX)
        code = e4m3_code(cute.arch.fmin(wanted, Float32(E4M3_MAX)))
        scale = e4m3_value(code)
        # A zero scale divides by 1 instead, as in `kernels.nvfp4`.
        divisor = select_(code == 0, Float32(1.0), scale)
        if vector < vectors:
            if cutlass.const_expr(self.output is OperandFormat.NVFP4):
                packed = pack_e2m1(loaded, global_scale, divisor)
                words_of(elements)[vector] = select_(finite, packed, Int32(0))
                if vector % 2 == 0:
                    row, column = vector // self.row_vectors, vector % self.row_vectors // 2
                    byte = select_(finite, code, Int32(E4M3_NAN))
                    bytes_of(scales)[scale_offset(scales, row, column)] = Uint8(byte)
            else:
                out = cute.make_rmem_tensor((WORDS,), Int32)
                dequantize_e2m1(loaded, global_scale, divisor, scale, out)
                for word in cutlass.range_constexpr(WORDS):
                    out[word] = select_(finite, out[word], Int32(TWO_BF16_NANS))
                cute.autovec_copy(out, vector_of(elements, vector))


class ActivationDequantizer:
    """The kernel of one K for activations that are quantized already: to exact bf16, and alpha."""

    def __init__(self, hidden: int) -> None:
        self.row_vectors = hidden // ELEMENTS

    @cute.jit
    def __call__(
        self,
        packed: cute.Tensor,
        scales: cute.Tensor,
        weight_scale: cute.Tensor,
        global_scale: cute.Tensor,
        elements: cute.Tensor,
        alpha: cute.Tensor,
        stream: Any,
    ) -> None:
        vectors = packed.shape[0] * self.row_vectors
        self.dequantize(packed, scales, weight_scale, global_scale, elements, alpha, vectors).launch(
            grid=(cutlass.min(cute.ceil_div(vectors, THREADS), MAX_CTAS), 1, 1),
            block=(THREADS, 1, 1),
            stream=stream,
        )

    @cute.kernel
    def dequantize(
        self,
        packed: cute.Tensor,
        scales: cute.Tensor,
        weight_scale: cute.Tensor,
        global_scale: cute.Tensor,
        elements: cute.Tensor,
        alpha: cute.Tensor,
        vectors: Int32,
    ) -> None:
        thread, _, _ = cute.arch.thread_idx()
        cta, _, _ = cute.arch.block_idx()
        ctas, _, _ = cute.arch.grid_dim()
        if (cta == 0) & (thread == 0):
            alpha[0] = alpha_of(global_scale[0], weight_scale[0])
        for vector in cutlass.range(cta * THREADS + thread, vectors, ctas * THREADS):
            row, column = vector // self.row_vectors, vector % self.row_vectors // 2
            byte = Int32(bytes_of(scales)[scale_offset(scales, row, column)])
            out = cute.make_rmem_tensor((WORDS,), Int32)
            decode_e2m1(words_of(packed)[vector], byte, out)
            cute.autovec_copy(out, vector_of(elements, vector))


def alpha_of(global_scale: Float32, weight_scale: Float32) -> Float32:
    """What undoes both global scales, their product in float64, as `kernels.nvfp4.global_alpha`."""
    return Float32(Float64(1.0) / (Float64(global_scale) * Float64(weight_scale)))


@cute.kernel
def write_alpha(global_scale: cute.Tensor, weight_scale: cute.Tensor, alpha: cute.Tensor) -> None:
    thread, _, _ = cute.arch.thread_idx()
    if thread == 0:
        alpha[0] = alpha_of(global_scale[0], weight_scale[0])


@cute.jit
def launch_alpha(
    global_scale: cute.Tensor, weight_scale: cute.Tensor, alpha: cute.Tensor, stream: Any
) -> None:
    """Alpha alone, for activations that are multiplied as they come."""
    write_alpha(global_scale, weight_scale, alpha).launch(grid=(1, 1, 1), block=(WARP, 1, 1), stream=stream)


@cute.jit
def load_existing(x: cute.Tensor, vector: Int32, vectors: Int32, loaded: cute.Tensor) -> None:
    """Load a vector, zeros past the last one."""
    loaded.fill(0)
    if (vector >= 0) & (vector < vectors):
        cute.autovec_copy(vector_of(x, vector), loaded)


@cute.jit
def largest_of_cta(top: Int32, thread: Int32) -> Int32:
    """The largest of all threads' values, for every thread."""
    warps = THREADS // WARP
    tops = SmemAllocator().allocate_tensor(Int32, cute.make_layout(warps), 4)
    top = cute.arch.warp_redux_sync(top, kind="max")
    if thread % WARP == 0:
        tops[thread // WARP] = top
    cute.arch.sync_threads()
    return cute.arch.warp_redux_sync(tops[thread % warps], kind="max")


@cute.jit
def scale_of_partials(partials: cute.Tensor, parts: Int32, thread: Int32) -> Float32:
    """The global scale: 448 * 6 / the largest magnitude, as torch divides a number, by a reciprocal."""
    top = Int32(0)
    for part in cutlass.range(thread, parts, THREADS):
        top = cutlass.max(top, partials[part])
    amax = bf16_value(largest_of_cta(top, thread))
    scale = Float32(1.0) / amax * Float32(E4M3_MAX * E2M1_MAX)
    return select_(amax > Float32(0.0), cute.arch.fmin(scale, Float32(FLOAT32_MAX)), Float32(1.0))


def padding_words(scales: cute.Tensor, rows: Int32) -> Int32:
    """The words of the scales of rows past the last one."""
    return (scales.shape[0] - rows) * (scales.shape[1] // SCALE_COLUMNS)


@cute.jit
def clear_padding(scales: cute.Tensor, rows: Int32, first: Int32, stride: Int32) -> None:
    """Zero the scales of rows past the last one, four columns of a row at once."""
    columns = scales.shape[1] // SCALE_COLUMNS
    words = words_of(scales)
    for place in cutlass.range(first, padding_words(scales, rows), stride):
        row, column = rows + place // columns, place % columns * SCALE_COLUMNS
        words[scale_offset(scales, row, column) // 4] = Int32(0)
