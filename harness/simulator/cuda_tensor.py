"""CPU tensors handed to host code as CUDA tensors, at the host addresses where they lie.

The host code checks a tensor's device through DLPack and otherwise only passes its address on, so a capsule
whose device says CUDA is all that the disguise takes.
"""

from __future__ import annotations

import ctypes
from typing import Any

# kDLCUDA, device 0 (DLDevice, dlpack.h)
_CUDA = (2, 0)
_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = (ctypes.py_object, ctypes.c_char_p)


class _DLTensorHead(ctypes.Structure):
    """The first fields of DLTensor (dlpack.h)."""

    _fields_ = (("data", ctypes.c_void_p), ("device_type", ctypes.c_int), ("device_id", ctypes.c_int))


class _CudaTensor:
    """A CPU tensor that says it lies on CUDA device 0, at the address where it does lie."""

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA

    def __dlpack__(self, **_: Any) -> Any:
        capsule = self._tensor.__dlpack__()
        head = _DLTensorHead.from_address(_capsule_pointer(capsule, b"dltensor"))
        head.device_type, head.device_id = _CUDA
        return capsule


def as_cuda(argument: Any) -> Any:
    """`argument` itself, or its disguise where it is a torch tensor; raises `ValueError` for a GPU's."""
    import torch
    import tvm_ffi

    if not isinstance(argument, torch.Tensor):
        return argument
    if argument.device.type != "cpu":
        raise ValueError(f"the simulator takes tensors on the CPU, not on {argument.device}")
    return tvm_ffi.from_dlpack(_CudaTensor(argument))
