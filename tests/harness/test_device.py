"""Device facts where NVML says little or nothing."""

from __future__ import annotations

import pynvml
import pytest

from harness import executors
from harness.device import DeviceMonitor, reason_names, visible_devices
from harness.executor import ExecutorError
from harness.executors import make_executor
from harness.record import Conditions, Source
from harness.toolchain import ToolchainError


def test_throttle_bits_have_names() -> None:
    assert reason_names(0) == ()
    assert reason_names(0x1 | 0x4 | 0x40) == ("gpu_idle", "sw_power_cap", "hw_thermal_slowdown")
    assert reason_names(0x8 | 0x4000) == ("hw_slowdown", "0x4000"), "a reason of a later driver is not lost"


@pytest.fixture
def no_nvml(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)


@pytest.mark.usefixtures("no_nvml")
def test_without_nvml_everything_has_its_default() -> None:
    monitor = DeviceMonitor()
    assert monitor.conditions() == Conditions()
    facts = monitor.facts(name="H100", multiprocessors=132)
    assert (facts.name, facts.multiprocessors, facts.driver) == ("H100", 132, "")
    assert visible_devices() == ()


def test_one_withheld_field_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def withheld(_: object) -> int:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda _: "handle")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetClockInfo", lambda _, kind: 1980 + kind)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTemperature", lambda *_: 41)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", withheld)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCurrentClocksThrottleReasons", lambda _: 0x4)
    assert DeviceMonitor().conditions() == Conditions(
        sm_clock_mhz=1980 + pynvml.NVML_CLOCK_SM,
        memory_clock_mhz=1980 + pynvml.NVML_CLOCK_MEM,
        temperature_c=41,
        power_w=0.0,
        throttle_reasons=("sw_power_cap",),
    )


def test_devices_hidden_from_cuda_are_not_visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: 1)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda _: "handle")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetName", lambda _: b"H100")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_devices() == ("H100",)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_devices() == ()


@pytest.mark.usefixtures("no_nvml")
@pytest.mark.parametrize("target", ["sm_90a", "sm_100a", "sm_103a"])
def test_without_a_device_auto_is_the_simulator_and_says_so(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executors, "MAX_SIMULATORS", 1)
    with make_executor("auto", target) as found:
        assert (found.name, found.source, found.lanes) == ("simulator", Source.MODELLED, 1)
        assert found.device().name.startswith(f"simulated {target} (")


@pytest.mark.usefixtures("no_nvml")
def test_without_a_device_cuda_says_why_and_what_to_do() -> None:
    with pytest.raises(ExecutorError, match=r"no NVIDIA GPU is visible: .* 9\.0, or .*`routertune pack`"):
        make_executor("cuda", "sm_90a")


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ExecutorError, match=r"unknown executor 'rocm': known are auto, cuda, simulator"):
        make_executor("rocm", "sm_90a")
    with pytest.raises(ToolchainError, match="unknown target 'sm_80'"):
        make_executor("auto", "sm_80")
