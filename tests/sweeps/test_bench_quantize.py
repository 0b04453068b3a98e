"""The benchmark of quantization: every way is timed at every M, and the table says which is which."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from kernels.family import OperandFormat
from sweeps import bench_quantize
from sweeps.bench_quantize import (
    QuantizationTimes,
    quantization_report,
    quantization_table,
    quantization_times,
)

M_VALUES = (1, 130)


@pytest.mark.parametrize("output", OperandFormat)
def test_every_way_is_timed_at_every_m(output: OperandFormat, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter(range(1, 100))

    def time_launches(launches: Sequence[Callable[[], object]], samples: int) -> list[float]:
        for launch in launches:
            launch()
        return [float(next(taken))] * samples

    monkeypatch.setattr(bench_quantize, "time_launches", time_launches)
    times = quantization_times(output, "cpu", copy_bytes_per_s=1e12, m_values=M_VALUES)
    assert [at.m for at in times] == list(M_VALUES)
    exact = output is OperandFormat.BF16
    first, second = (
        [at.kernels_us, at.calibrated_us, at.torch_us, *([at.dequantized_us] if exact else [])]
        for at in times
    )
    assert [*first, *second] == list(range(1, 2 * (4 if exact else 3) + 1))
    # One token of 7168 bf16, and as many of them, or 4 bits each and 128 rows of one-byte scales.
    written = 2 * 7168 if exact else 7168 // 2 + 128 * 448
    assert times[0].floor_us == pytest.approx(1e6 * (2 * 7168 + written) / 1e12)
    assert all((at.dequantized_us is None) != exact for at in times)


def test_the_table_has_a_row_for_each_m() -> None:
    rows = quantization_table(
        [
            QuantizationTimes(1, 2.5, 1.25, 190.0, 1.0, 0.01),
            QuantizationTimes(16384, 170.0, 110.0, 9100.0, None, 113.0),
        ]
    )
    assert [row.split() for row in rows[1:]] == [
        ["1", "2.50", "1.25", "190.00", "1.00", "0.01", "76.0"],
        ["16384", "170.00", "110.00", "9100.00", "113.00", "53.5"],
    ]
    assert len(set(map(len, rows))) == 1


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_quantize.torch.cuda, "is_available", lambda: False)
    assert quantization_report() == ["quantization of activations: not timed, there is no GPU"]


@pytest.mark.gpu
@pytest.mark.compiles
def test_it_runs_on_a_gpu() -> None:
    head, *table = quantization_report()
    print("\n".join((head, *table)))
    assert len(table) == 8
