"""TMA descriptors: the 128 bytes of a CUtensorMap, taken apart and put together.

The layout is NVIDIA's own and not documented. It was read off the code that ptxas 13.0 generates for each
`tensormap.replace.tile.<field>` (PTX ISA, "tensormap.replace"), a mask and a shift of the field's bits, and
off the descriptors that the DSL's host code packs inline for tensors of known shape. Words of 32 bits:

    0-1      address, 57 bits
    2        3:0 = 2 or 0          6:4 rank - 1           10:7 data type      12:11 interleave
             14:13 swizzle span    15 fill with NaN       16 tf32             18:17 L2 promotion
             20:19 swizzle atom    21 the tensor spans 128 KiB or more
    3-6      strides / 16 of dimensions 1 to 4, low 32 bits
    7        their high 4 bits each
    8-12     extents - 1
    13       14:0 element strides - 1, 3 bits each        31:24 box[0] - 1
    14       box[1] to box[4], - 1, 8 bits each
    15       0

The last 64 bytes mean nothing: the host code leaves them as they were.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cached_property

from harness.simulator.errors import SimulationError

BYTES = 128
_WORDS = struct.Struct("<Q14I")
# What the DSL's host code writes, and what the driver does (580.159.04 on an H100): a GPU takes both.
KINDS = (2, 0)
_ADDRESS_BITS = 57
SPAN_BYTES = 128 * 1024


class DataType(Enum):
    """CUtensorMapDataType (cuda.h): the driver's number, the descriptor's 4 bits, the tf32 bit."""

    UINT8 = (0, 0, 0)
    UINT16 = (1, 1, 0)
    UINT32 = (2, 2, 0)
    INT32 = (3, 3, 0)
    UINT64 = (4, 4, 0)
    INT64 = (5, 5, 0)
    FLOAT16 = (6, 6, 0)
    FLOAT32 = (7, 7, 0)
    FLOAT64 = (8, 9, 0)
    BFLOAT16 = (9, 10, 0)
    FLOAT32_FTZ = (10, 8, 0)
    TFLOAT32 = (11, 7, 1)
    TFLOAT32_FTZ = (12, 8, 1)
    PACKED_16U4_ALIGN8B = (13, 11, 0)
    PACKED_16U4_ALIGN16B = (14, 12, 0)
    PACKED_16U6_ALIGN16B = (15, 13, 0)

    @property
    def driver_number(self) -> int:
        return self.value[0]

    @cached_property
    def global_bits(self) -> int:
        """Bits of one element in global memory."""
        return _GLOBAL_BITS.get(self, 32)

    @property
    def shared_bits(self) -> int:
        """Bits that an element takes of shared memory."""
        return 8 if self.padded else self.global_bits

    @cached_property
    def padded(self) -> bool:
        """Whether each 16 elements take 16 bytes of shared memory, data first, whatever their width."""
        return self in (DataType.PACKED_16U4_ALIGN16B, DataType.PACKED_16U6_ALIGN16B)

    @property
    def is_float(self) -> bool:
        """Whether out-of-bounds elements may be filled with NaN (cuda.h, cuTensorMapEncodeTiled)."""
        return self.name.startswith(("FLOAT", "BFLOAT", "TFLOAT"))


_GLOBAL_BITS = {
    DataType.UINT8: 8,
    DataType.UINT16: 16,
    DataType.UINT64: 64,
    DataType.INT64: 64,
    DataType.FLOAT16: 16,
    DataType.FLOAT64: 64,
    DataType.BFLOAT16: 16,
    DataType.PACKED_16U4_ALIGN8B: 4,
    DataType.PACKED_16U4_ALIGN16B: 4,
    DataType.PACKED_16U6_ALIGN16B: 6,
}


class Interleave(IntEnum):
    """CUtensorMapInterleave (cuda.h)."""

    NONE = 0
    BYTES_16 = 1
    BYTES_32 = 2


class Swizzle(Enum):
    """CUtensorMapSwizzle (cuda.h): the driver's number, the descriptor's span (2 bits) and atom (2 bits)."""

    NONE = (0, 0, 0)
    BYTES_32 = (1, 1, 0)
    BYTES_64 = (2, 2, 0)
    BYTES_128 = (3, 3, 0)
    BYTES_128_ATOM_32 = (4, 3, 1)
    BYTES_128_ATOM_32_FLIP_8 = (5, 3, 2)
    BYTES_128_ATOM_64 = (6, 3, 3)

    @property
    def driver_number(self) -> int:
        return self.value[0]

    @property
    def span_bytes(self) -> int:
        """Width of the pattern; 16 where nothing is swizzled."""
        return 16 << self.value[1]


@dataclass(frozen=True)
class TensorMap:
    """A tiled tensor map of `rank` dimensions, the fastest first; `strides` are those of dimensions 1 and up.

    Extents and boxes count elements, strides are in bytes. `l2_promotion` is CUtensorMapL2promotion's number.
    `spans_128_kib` and `kind` belong to the encoding and change nothing about what is copied.
    """

    address: int
    data_type: DataType
    extents: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]
    element_strides: tuple[int, ...]
    interleave: Interleave = Interleave.NONE
    swizzle: Swizzle = Swizzle.NONE
    l2_promotion: int = 2
    nan_fill: bool = False
    spans_128_kib: bool = True
    kind: int = KINDS[0]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        """Of what tells most maps apart: an enum's hash is slow, and every step of a copy asks a cache."""
        return hash((self.address, self.extents, self.strides, self.box))

    @property
    def rank(self) -> int:
        return len(self.extents)


# The swizzles of the types that are padded in shared memory (cuda.h, cuTensorMapEncodeTiled).
_PADDED_SWIZZLES = {
    DataType.PACKED_16U4_ALIGN16B: (Swizzle.NONE, Swizzle.BYTES_128, Swizzle.BYTES_128_ATOM_32),
    DataType.PACKED_16U6_ALIGN16B: (
        Swizzle.NONE,
        Swizzle.BYTES_128,
        Swizzle.BYTES_128_ATOM_32,
        Swizzle.BYTES_128_ATOM_64,
    ),
}
_DATA_TYPES = {kind.value[1:]: kind for kind in DataType}
_SWIZZLES = {mode.value[1:]: mode for mode in Swizzle}


def decode(raw: bytes) -> TensorMap:
    """The descriptor in `raw` (128 bytes); raises `SimulationError` for one that no driver would encode."""
    if len(raw) != BYTES:
        raise SimulationError(f"a tensor map has {BYTES} bytes, not {len(raw)}")
    address, flags, *words = _WORDS.unpack_from(raw)
    if flags & 0xF not in KINDS or flags >> 22 or address >> _ADDRESS_BITS:
        raise SimulationError(f"tensor map of unknown kind: address {address:#x}, flags {flags:#010x}")
    rank = (flags >> 4 & 7) + 1
    high, sizes = words[4], words[10]
    if rank > 5 or high >> 16 or sizes >> 15 & 0x1FF or words[12]:
        raise SimulationError(f"tensor map with unknown bits set: {raw[:64].hex()}")
    type_bits = (flags >> 7 & 15, flags >> 16 & 1)
    swizzle_bits = (flags >> 13 & 3, flags >> 19 & 3)
    interleave = flags >> 11 & 3
    if type_bits not in _DATA_TYPES or swizzle_bits not in _SWIZZLES or interleave == 3:
        raise SimulationError(f"tensor map with a reserved value in its flags {flags:#010x}")
    strides = tuple((words[i] | (high >> 4 * i & 15) << 32) * 16 for i in range(4))
    extents = tuple(word + 1 for word in words[5:10])
    box = (sizes >> 24, *(words[11] >> 8 * i & 255 for i in range(4)))
    element_strides = tuple((sizes >> 3 * i & 7) + 1 for i in range(5))
    used = ((extents, rank, 1), (strides, rank - 1, 0), (box, rank, 0), (element_strides, rank, 1))
    if any(set(values[count:]) - {unused} for values, count, unused in used):
        raise SimulationError(
            f"tensor map of rank {rank} with values in dimensions past it: {raw[:64].hex()}"
        )
    found = TensorMap(
        address,
        _DATA_TYPES[type_bits],
        extents[:rank],
        strides[: rank - 1],
        tuple(extent + 1 for extent in box[:rank]),
        element_strides[:rank],
        Interleave(interleave),
        _SWIZZLES[swizzle_bits],
        flags >> 17 & 3,
        bool(flags >> 15 & 1),
        bool(flags >> 21 & 1),
        flags & 0xF,
    )
    check(found)
    return found


def encode(tensor_map: TensorMap) -> bytes:
    """The descriptor of `tensor_map` (128 bytes); raises `SimulationError` for one that is not legal."""
    check(tensor_map)
    m = tensor_map
    type_bits, tf32 = m.data_type.value[1:]
    span, atom = m.swizzle.value[1:]
    fields = (
        (m.kind, 0),
        (m.rank - 1, 4),
        (type_bits, 7),
        (int(m.interleave), 11),
        (span, 13),
        (int(m.nan_fill), 15),
        (tf32, 16),
        (m.l2_promotion, 17),
        (atom, 19),
        (int(m.spans_128_kib), 21),
    )
    sixteenths = [stride // 16 for stride in m.strides] + [0] * (5 - m.rank)
    box = [extent - 1 for extent in m.box] + [0] * (5 - m.rank)
    words = (
        m.address,
        sum(value << shift for value, shift in fields),
        *(value & 0xFFFFFFFF for value in sixteenths),
        sum(value >> 32 << 4 * i for i, value in enumerate(sixteenths)),
        *(extent - 1 for extent in m.extents),
        *[0] * (5 - m.rank),
        sum(stride - 1 << 3 * i for i, stride in enumerate(m.element_strides)) | box[0] << 24,
        sum(value << 8 * i for i, value in enumerate(box[1:])),
        0,
    )
    return _WORDS.pack(*words).ljust(BYTES, b"\0")


def check(tensor_map: TensorMap) -> None:
    """Raises `SimulationError` for what cuTensorMapEncodeTiled refuses (cuda.h states the requirements)."""
    for reason in illegal_reasons(tensor_map):
        raise SimulationError(f"illegal tensor map: {reason}")


def illegal_reasons(m: TensorMap) -> list[str]:
    """Which requirements `m` breaks, each with its value."""
    padded = m.data_type.padded
    interleaved = m.interleave is not Interleave.NONE
    align = 32 if padded or m.interleave is Interleave.BYTES_32 else 16
    lengths = (len(m.strides) + 1, len(m.box), len(m.element_strides))
    inner_bytes = m.box[0] * m.data_type.shared_bits // 8
    multiple = {DataType.PACKED_16U4_ALIGN8B: 2}.get(m.data_type, 128 if padded else 1)
    rules = (
        (not (3 if interleaved else 1) <= m.rank <= 5, f"rank {m.rank}"),
        (set(lengths) != {m.rank}, f"{lengths} strides, box extents and element strides for rank {m.rank}"),
        (m.address % align or m.address >> _ADDRESS_BITS, f"address {m.address:#x}: a multiple of {align}"),
        (any(not 1 <= e <= 1 << 32 for e in m.extents), f"extents {m.extents}: from 1 to 2^32"),
        (m.extents[0] % multiple, f"extent {m.extents[0]} of {m.data_type.name}: a multiple of {multiple}"),
        (
            any(s % align or s >> 40 for s in m.strides),
            f"strides {m.strides}: multiples of {align} below 2^40",
        ),
        (any(not 1 <= b <= 256 for b in m.box), f"box {m.box}: from 1 to 256"),
        (padded and m.box[0] != 128, f"box {m.box} of {m.data_type.name}: 128 elements wide"),
        (any(not 1 <= s <= 8 for s in m.element_strides), f"element strides {m.element_strides}: 1 to 8"),
        (not interleaved and inner_bytes % 16, f"box of {inner_bytes} bytes: a multiple of 16"),
        (
            not interleaved and m.swizzle is not Swizzle.NONE and inner_bytes > m.swizzle.span_bytes,
            f"box of {inner_bytes} bytes under a swizzle of {m.swizzle.span_bytes}",
        ),
        (
            m.interleave is Interleave.BYTES_32 and m.swizzle is not Swizzle.BYTES_32,
            f"32-byte interleave with swizzle {m.swizzle.name}: only BYTES_32",
        ),
        (
            padded and m.swizzle not in _PADDED_SWIZZLES[m.data_type],
            f"{m.data_type.name} with swizzle {m.swizzle.name}",
        ),
        (m.nan_fill and not m.data_type.is_float, f"{m.data_type.name} filled with NaN"),
        (not 0 <= m.l2_promotion <= 3, f"L2 promotion {m.l2_promotion}"),
    )
    return [reason for broken, reason in rules if broken]
