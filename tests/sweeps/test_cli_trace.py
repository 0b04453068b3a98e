"""`routertune trace`: its report, its files, its exit statuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import save_file

from harness.record import RecordError
from harness.trace_record import Finding, TraceRecord, trace_from_json, trace_to_json
from harness.trace_weights import generate_weights
from kernels import moe_layer
from kernels.moe_shape import layer_shape
from kernels.problem import PRESETS
from results.plot_trace import draw_trace
from results.trace_text import trace_text
from sweeps.cli import main

SMALL = ("--preset", "qwen3-moe", "--scale-down", "64", "--tokens", "5")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["trace", *map(str, arguments)])


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return tmp_path


def test_a_clean_trace_ends_with_0_and_writes_its_files(here: Path) -> None:
    result = run(*SMALL, "--layers", "2", "--output", "out")
    assert result.exit_code == 0, result.output
    assert "every step is in its band" in result.output
    for layer in (0, 1):
        assert f"layer {layer}" in result.output
    record = trace_from_json((here / "out" / "trace.json").read_bytes())
    assert (record.verdict.finding, record.tokens, len(record.routers)) == (Finding.IN_BAND, 5, 2)
    assert record.problem["name"] == "qwen3-moe"
    assert record.provenance is not None
    assert trace_from_json(trace_to_json(record)) == record
    assert trace_text(record) in result.output
    assert (here / "out" / "trace.png").read_bytes().startswith(b"\x89PNG")


def test_a_defect_ends_with_9_and_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swiglu = moe_layer.swiglu
    monkeypatch.setattr(moe_layer, "swiglu", lambda gate, up: swiglu(up, gate))
    result = run(*SMALL, "--layers", "1", "--output", "out")
    assert result.exit_code == 9, result.output
    last = result.output.splitlines()[-3]
    assert last.startswith("first out of band: layer 0, experts.act: ")
    assert " times what its band allows (token " in last
    rows = {
        line.split()[0]: line for line in result.output.splitlines() if line.startswith(("experts", "ffn"))
    }
    assert rows["experts.act"].endswith("<- defect")
    assert "<-" not in rows["experts.gate"] + rows["experts.up"]
    record = trace_from_json((here / "out" / "trace.json").read_bytes())
    assert (record.verdict.step, record.verdict.layer) == ("experts.act", 0)
    # The picture marks the step that the verdict names, in every panel.
    place = [step.name for step in record.steps].index("experts.act")
    for axes in draw_trace(record).axes:
        assert any([*line.get_xdata()] == [place, place] for line in axes.get_lines())


def test_numbers_that_are_not_finite_pass_through_json_text_and_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sweeps.tracing import run_trace

    combine = moe_layer.combine
    monkeypatch.setattr(moe_layer, "combine", lambda *operands: combine(*operands) * torch.inf)
    record = run_trace(layer_shape(PRESETS["qwen3-moe"], 64), 2, 3, 0, None, "cpu", {})
    assert (record.verdict.finding, record.verdict.step) == (Finding.DEFECT, "ffn.combined")
    assert trace_from_json(trace_to_json(record)) == record
    assert "layer 0, ffn.combined: error not finite (token " in trace_text(record)
    draw_trace(record).canvas.draw()


def test_weights_and_tokens_from_a_file(here: Path) -> None:
    shape = layer_shape(PRESETS["qwen3-moe"], 64)
    tensors = {f"layers.0.{name}": tensor for name, tensor in generate_weights(shape, 4, 0).items()}
    tensors["input"] = torch.randn(3, shape.hidden, generator=torch.Generator().manual_seed(0)).bfloat16()
    save_file(tensors, here / "one.safetensors")
    result = run(*SMALL, "--layers", "1", "--weights", "one.safetensors")
    assert result.exit_code == 0, result.output
    assert "3 tokens, weights of one.safetensors" in result.output

    tensors["input"][1, 1] = torch.nan
    save_file(tensors, here / "nan.safetensors")
    assert run(*SMALL, "--layers", "1", "--weights", "nan.safetensors").exit_code == 8


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--preset", "gpt"), 3, "--preset: unknown preset 'gpt': known are deepseek-v4-pro, "),
        (
            ("--scale-down", "999"),
            3,
            "scale_down = 999 leaves too little of deepseek-v4-pro's hidden = 7168: must",
        ),
        (("--weights", "nosuch.safetensors"), 8, "nosuch.safetensors: no such file"),
        (
            (*SMALL, "--weights", "one.safetensors"),
            8,
            "the tensor layers.1.attention_norm is missing (want shape",
        ),
        (("--device", "cuda"), 5, "--device cuda: not usable here"),
        (("--device", "gpu"), 5, "--device gpu: not usable here"),
        (("--device", "meta"), 5, "--device meta: must be cpu or cuda"),
        (
            ("--seed", str(10**23)),
            2,
            "'--seed': 100000000000000000000000 is not in the range 0<=x<=4294967295",
        ),
        (("--tokens", "5000"), 2, "'--tokens': 5000 is not in the range 1<=x<=4096"),
        ((*SMALL, "--weights", "long.safetensors"), 3, "an input of 4097 tokens is too many: at most 4096"),
    ],
)
def test_a_mistake_is_one_line_with_its_own_exit_status(
    here: Path, options: tuple[str, ...], status: int, message: str
) -> None:
    shape = layer_shape(PRESETS["qwen3-moe"], 64)
    save_file(
        {f"layers.0.{name}": tensor for name, tensor in generate_weights(shape, 4, 0).items()},
        here / "one.safetensors",
    )
    save_file({"input": torch.zeros(4097, shape.hidden)}, here / "long.safetensors")
    result = run(*options)
    assert result.exit_code == status, result.output
    assert message in result.stderr.splitlines()[-1]
    if status != 2:  # click's own usage errors come with the usage
        assert result.stderr.startswith("error: ")
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not a trace: "),
        (
            '{"schema": "routertune.trace/99"}',
            "trace schema 'routertune.trace/99' is not 'routertune.trace/1'",
        ),
        ('{"schema": "routertune.trace/1"}', "malformed trace: Object missing required field"),
    ],
)
def test_json_that_is_no_trace_is_one_line(text: str, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        trace_from_json(text)


def test_a_record_keeps_its_schema() -> None:
    assert TraceRecord.__dataclass_fields__["schema"].default == "routertune.trace/1"
