"""Device facts and conditions by NVML, tolerant of whatever a driver or a virtualized device withholds."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pynvml

from harness.record import Conditions, DeviceFacts

# nvmlClocksEventReason bits (NVML API reference, "Clocks event reasons"; the same values were called
# throttle reasons before driver 535).
EVENT_REASONS: dict[int, str] = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}


def reason_names(bits: int) -> tuple[str, ...]:
    """The names of the reasons set in `bits`; one that NVML has added since is shown as its value."""
    known = tuple(name for bit, name in EVENT_REASONS.items() if bits & bit)
    unknown = bits & ~sum(EVENT_REASONS)
    return (*known, hex(unknown)) if unknown else known


class DeviceMonitor:
    """NVML's view of the device with this UUID ("GPU-..."), or of the first one for "".

    Where NVML itself is missing, every fact and condition has its default.
    """

    def __init__(self, uuid: str = "") -> None:
        self._handle: Any = None
        try:
            pynvml.nvmlInit()
            self._handle = _by_uuid(uuid) if uuid else pynvml.nvmlDeviceGetHandleByIndex(0)
        except pynvml.NVMLError:
            return

    def facts(self, *, name: str, **known: Any) -> DeviceFacts:
        """What NVML knows, under what the caller knows better."""
        return DeviceFacts(
            name=name,
            driver=_text(self._ask(lambda _: pynvml.nvmlSystemGetDriverVersion(), "")),
            power_limit_w=self._ask(pynvml.nvmlDeviceGetPowerManagementLimit, 0) / 1e3,
            max_sm_clock_mhz=self._ask(
                lambda handle: pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM), 0
            ),
            **known,
        )

    def conditions(self) -> Conditions:
        """The device's state now: ask while it is busy."""

        def clock(kind: int) -> int:
            return int(self._ask(lambda handle: pynvml.nvmlDeviceGetClockInfo(handle, kind), 0))

        return Conditions(
            sm_clock_mhz=clock(pynvml.NVML_CLOCK_SM),
            memory_clock_mhz=clock(pynvml.NVML_CLOCK_MEM),
            temperature_c=self._ask(
                lambda handle: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU), 0
            ),
            power_w=self._ask(pynvml.nvmlDeviceGetPowerUsage, 0) / 1e3,
            throttle_reasons=reason_names(self._ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, 0)),
        )

    def _ask(self, question: Callable[[Any], Any], default: Any) -> Any:
        if self._handle is None:
            return default
        try:
            return question(self._handle)
        except (pynvml.NVMLError, AttributeError):  # AttributeError: a binding older or newer than the name
            return default


def visible_devices() -> tuple[str, ...]:
    """Names of the NVIDIA devices that a process started here could use, without creating a CUDA context."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return ()
    try:
        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return tuple(_text(pynvml.nvmlDeviceGetName(handle)) for handle in handles)
    except pynvml.NVMLError:
        return ()


def visible_capabilities() -> tuple[tuple[int, int], ...]:
    """Compute capabilities of the devices that `visible_devices` names."""
    if not visible_devices():
        return ()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    return tuple(tuple(pynvml.nvmlDeviceGetCudaComputeCapability(handle)) for handle in handles)


def _by_uuid(uuid: str) -> Any:
    try:
        return pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except (pynvml.NVMLError, TypeError):  # bindings differ in whether they take str or bytes
        return pynvml.nvmlDeviceGetHandleByUUID(uuid.encode())


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
