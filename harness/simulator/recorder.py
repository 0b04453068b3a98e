"""Running an artifact's own host code without a GPU, to learn the launches that it would make.

The launcher leaves the CUDA runtime's symbols undefined. `recorder.c` defines them in place of the DSL's
runtime library and hands each launch to Python. So the host code's checks of dtypes, shapes and strides, its
grid arithmetic and its packing of TMA descriptors are the real ones. A process may both record and launch on
a GPU: it is a copy of the launcher that records, whose undefined symbols have names of the recorder's own.

Tensors live in host memory and are handed over as CUDA tensors with their real addresses: what a kernel would
read through a parameter is what numpy reads at that address.
"""

from __future__ import annotations

import ctypes
import re
import tempfile
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from harness.artifact import ENTRY, LAUNCHER
from harness.oneline import one_line
from harness.simulator import c_library
from harness.simulator.cuda_tensor import as_cuda
from harness.simulator.errors import SimulationError
from harness.simulator.launch import Dim3, Launch, check_limits
from harness.simulator.ptx import Kernel, parse
from harness.toolchain import ToolchainError

# A name in the launcher's string table. Undefined symbols are in no hash table, so names may change in place.
_CUDA_SYMBOL = re.compile(rb"\0[_cC]((?:cu(?:da)?(?=[A-Z])|uda_dialect_|uteDSLRT_)\w+)(?=\0)")

CUDA_SUCCESS, CUDA_ERROR_UNKNOWN = 0, 999
# cudaLaunchAttributeID (driver_types.h)
IGNORED, COOPERATIVE, CLUSTER_DIMENSION, PROGRAMMATIC_SERIALIZATION = 0, 2, 4, 6


class _Attribute(ctypes.Structure):
    """cudaLaunchAttribute (driver_types.h)."""

    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_char * 4), ("value", ctypes.c_ubyte * 64))


class _Config(ctypes.Structure):
    """cudaLaunchConfig_t (driver_types.h)."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("dynamic_smem_bytes", ctypes.c_size_t),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("attribute_count", ctypes.c_uint),
    )


_SINK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(_Config), ctypes.POINTER(ctypes.c_void_p)
)


def load_recorder() -> ctypes.CDLL:
    """The recorder, with global symbols; raises `ToolchainError` when it cannot be built or loaded."""
    import tvm_ffi  # noqa: F401 - the launchers need its library to be global

    return c_library.load("recorder", ctypes.RTLD_GLOBAL)


class Recorder:
    """The host code of one artifact. A process holds any number of them; they record one at a time."""

    def __init__(self, launcher: Path, kernels: Iterable[Kernel]) -> None:
        """`kernels` are those of the artifact's PTX.

        Raises `ToolchainError` where the recorder cannot be built or the launcher not be loaded.
        """
        self._parameter_sizes = {
            kernel.name: tuple(param.size for param in kernel.params) for kernel in kernels
        }
        self._library = load_recorder()
        import tvm_ffi

        with tempfile.TemporaryDirectory(prefix="routertune-recorder-") as folder:
            renamed = Path(folder) / launcher.name
            renamed.write_bytes(_CUDA_SYMBOL.sub(rb"\0r\1", launcher.read_bytes()))
            try:
                self._launch = tvm_ffi.load_module(str(renamed))[ENTRY]
            except (OSError, RuntimeError, AttributeError) as error:
                raise ToolchainError(f"{launcher} does not load: {one_line(str(error))}") from None

    @classmethod
    def of_artifact(cls, folder: Path) -> Recorder:
        """The recorder of an artifact's folder (`harness.artifact`)."""
        return cls(folder / LAUNCHER, parse((folder / "kernel.ptx").read_text()).kernels.values())

    def record(self, args: Sequence[Any]) -> list[Launch]:
        """The launches that the host code makes for `args`, in order; torch tensors must lie on the CPU.

        Raises what the host code raises for arguments that it refuses (`TypeError`, `ValueError`), and
        `SimulationError` for a launch that a GPU would refuse.
        """
        launches: list[Launch] = []
        errors: list[Exception] = []

        def sink(name: bytes, config: Any, params: Any) -> int:
            try:
                launches.append(self._read(name.decode(), config.contents, params))
            except Exception as error:  # ctypes would print it and go on
                errors.append(error)
                return CUDA_ERROR_UNKNOWN
            return CUDA_SUCCESS

        with _lock:
            slot = ctypes.c_void_p.in_dll(self._library, "recorder_sink")
            callback = _SINK(sink)
            slot.value = ctypes.cast(callback, ctypes.c_void_p).value
            try:
                self._launch(*map(as_cuda, args))
            except Exception:
                if not errors:
                    raise
            finally:
                slot.value = None
        if errors:
            raise errors[0]
        return launches

    def _read(self, kernel: str, config: _Config, params: Any) -> Launch:
        if kernel not in self._parameter_sizes:
            raise SimulationError(f"the host code launches {kernel}, which is no entry of the PTX")
        values = {config.attributes[i].id: config.attributes[i] for i in range(config.attribute_count)}
        raw = {number: bytes(attribute.value) for number, attribute in values.items() if number != IGNORED}
        cooperative = raw.pop(COOPERATIVE, b"\0")
        programmatic = raw.pop(PROGRAMMATIC_SERIALIZATION, b"\0")
        cluster = raw.pop(CLUSTER_DIMENSION, None)
        launch = Launch(
            kernel=kernel,
            grid=_dim3(bytes(config.grid)),
            block=_dim3(bytes(config.block)),
            cluster=_dim3(cluster) if cluster else (1, 1, 1),
            dynamic_smem_bytes=config.dynamic_smem_bytes,
            params=tuple(
                ctypes.string_at(params[i], size) for i, size in enumerate(self._parameter_sizes[kernel])
            ),
            cooperative=_int(cooperative) != 0,
            programmatic=_int(programmatic) != 0,
            attributes=raw,
        )
        check_limits(launch)
        return launch


# The recorder library has one sink for the process.
_lock = threading.Lock()


def _int(raw: bytes) -> int:
    return int.from_bytes(raw[:4], "little", signed=True)


def _dim3(raw: bytes) -> Dim3:
    x, y, z = (int.from_bytes(raw[i : i + 4], "little") for i in (0, 4, 8))
    return x, y, z
