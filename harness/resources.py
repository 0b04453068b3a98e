"""What compiled kernels use, read from a cubin and, where it does not tell, from PTX and host code.

A cubin is an ELF file. Its `.nv.info` section is a sequence of records: format (1 byte), attribute (1 byte),
then a size and payload for format 4 (EIFMT_SVAL) or a 2-byte value in place for the others. The attributes
read here carry (symbol index, value) as two 32-bit words. Static shared memory is the size of the section
`.nv.shared.<kernel>`. NVIDIA does not document the format; names and layout are those that `cuobjdump -elf`
prints, and the values are those of `cuobjdump -res-usage` (CUDA 13.5).
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import replace

from harness.record import Resources

EIFMT_SVAL = 0x04
EIATTR_REGCOUNT = 0x2F
EIATTR_FRAME_SIZE = 0x11


def read_resources(cubin: bytes) -> tuple[Resources, ...]:
    """One entry per kernel of `cubin`, in the order of its symbols; raises `ValueError` for anything else."""
    from elftools.common.exceptions import ELFError
    from elftools.elf.elffile import ELFFile

    try:
        elf = ELFFile(io.BytesIO(cubin))
        if elf.header["e_machine"] != "EM_CUDA":
            raise ValueError(f"an ELF file for {elf.header['e_machine']}, not a cubin")
        symbols = elf.get_section_by_name(".symtab")
        info = elf.get_section_by_name(".nv.info")
        if symbols is None or info is None:
            raise ValueError("a cubin without .symtab or .nv.info")
        registers: dict[int, int] = {}
        frames: dict[int, int] = {}
        for attribute, payload in _records(info.data()):
            if attribute in (EIATTR_REGCOUNT, EIATTR_FRAME_SIZE):
                symbol, value = struct.unpack("<II", payload)
                (registers if attribute == EIATTR_REGCOUNT else frames)[symbol] = value
        resources = []
        for index in sorted(registers):
            name = symbols.get_symbol(index).name
            shared = elf.get_section_by_name(f".nv.shared.{name}")
            resources.append(
                Resources(
                    kernel=name,
                    registers=registers[index],
                    local_bytes=frames.get(index, 0),
                    static_smem_bytes=int(shared["sh_size"]) if shared is not None else 0,
                )
            )
        return tuple(resources)
    except (ELFError, struct.error) as error:
        raise ValueError(f"not a readable cubin: {error}") from None


# cudaLaunchConfig_t in the host code's LLVM dialect; field 2 is dynamicSmemBytes.
_LAUNCH_CONFIG = r"!llvm\.struct<\(array<3 x i32>, array<3 x i32>, i64, ptr, ptr, i32\)>"
_DYNAMIC_SMEM = re.compile(
    r"(?P<field>%\d+) = llvm\.getelementptr %\d+\[0, 2\] : \(!llvm\.ptr\) -> !llvm\.ptr, "
    + _LAUNCH_CONFIG
    + r"\s+llvm\.store (?P<value>%\d+), (?P=field) : i64"
)


def with_dynamic_smem(resources: tuple[Resources, ...], host_ir: str) -> tuple[Resources, ...]:
    """`resources` with what each kernel's launch asks for, read from the host code in MLIR's LLVM dialect.

    The bytes are a constant that the host code stores into the launch's config; the kernel launched is the
    one named next. A launch whose size is not a constant leaves its kernel at 0.
    """
    asked: dict[str, int] = {}
    for launch in _DYNAMIC_SMEM.finditer(host_ir):
        before, after = host_ir[: launch.start()], host_ir[launch.end() :]
        named = [resource.kernel for resource in resources if resource.kernel in after]
        constants = re.findall(re.escape(launch["value"]) + r" = llvm\.mlir\.constant\((\d+) : i64\)", before)
        if named and constants:
            asked[min(named, key=after.find)] = int(constants[-1])
    return tuple(
        replace(resource, dynamic_smem_bytes=asked.get(resource.kernel, 0)) for resource in resources
    )


_TMEM_ALLOCATION = re.compile(r"tcgen05\.alloc\.\S+\s+\[[^\]]+\],\s*(?P<columns>%?\w+);")


def with_tensor_memory(resources: tuple[Resources, ...], ptx: str) -> tuple[Resources, ...]:
    """`resources` with the tensor-memory columns that each kernel's PTX allocates: 0 where it allocates none.

    A cubin does not tell. Raises `ValueError` when a number of columns is not a constant.
    """
    _, *parts = re.split(r"\.entry\s+(\w+)", ptx)
    columns = {
        kernel: sum(_constant(found["columns"], body) for found in _TMEM_ALLOCATION.finditer(body))
        for kernel, body in zip(parts[::2], parts[1::2], strict=True)
    }
    return tuple(replace(resource, tmem_columns=columns.get(resource.kernel, 0)) for resource in resources)


def _constant(operand: str, body: str) -> int:
    if not operand.startswith("%"):
        return int(operand)
    values = re.findall(rf"mov\.b32\s+{re.escape(operand)}, (\d+);", body)
    if len(values) != 1:
        raise ValueError(f"{operand} of a tensor-memory allocation is not a constant")
    return int(values[0])


def _records(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(attribute, payload) of each record with a payload."""
    offset = 0
    while offset < len(data):
        fmt, attribute, value = struct.unpack_from("<BBH", data, offset)
        offset += 4
        if fmt == EIFMT_SVAL:
            yield attribute, data[offset : offset + value]
            offset += value
