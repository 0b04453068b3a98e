"""Files that go on where they were survive a writer that died in a line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from harness.ablation_record import Tried, read_tried
from harness.json_lines import append_line, append_to, whole_lines
from harness.provenance import provenance
from harness.record import Outcome, RecordError
from harness.records import RecordWriter
from kernels.families import family
from kernels.problem import preset
from sweeps.ablation import Ablation
from sweeps.space import Space
from sweeps.verify import Verified, read_verified
from sweeps.verify_space import Plan, verify_space

CONFIG = {"stages": 2}
VERIFIED = Verified("f", "sm_100a", "p", 512, CONFIG, Outcome.OK)
TRIED = Tried("f", "sm_100a", "p", "all allowed", 0, CONFIG, provenance())


@dataclass(frozen=True)
class A:
    """A line of these tests."""

    a: int


@pytest.mark.parametrize("torn", [b"", b"{", b'{"a": 1}', b'{"a": [1, '])
def test_a_torn_line_is_gone_before_the_next_is_written(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "new folder" / "lines.jsonl"
    append_to(path, A)
    assert whole_lines(path) == []
    append_line(path, b'{"a": 1}')
    with path.open("ab") as file:
        file.write(torn)
    assert whole_lines(path) == [b'{"a": 1}']
    append_to(path, A)
    append_line(path, b'{"a": 2}')
    assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n'


@pytest.mark.parametrize("end", [b"x = 3", b'{"precious": 1}'])
@pytest.mark.parametrize("whole", [b"", b'{"a": 1}\n'])
def test_what_is_no_torn_line_is_not_dropped(tmp_path: Path, whole: bytes, end: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(whole + end)
    with pytest.raises(RecordError, match="ends in something else than a torn line: name another file"):
        append_to(path, A)
    assert path.read_bytes() == whole + end


@pytest.mark.parametrize(("read", "one"), [(read_verified, VERIFIED), (read_tried, TRIED)])
def test_a_torn_line_is_not_read(tmp_path: Path, read, one) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "lines.jsonl"
    assert read(path) == []
    line = msgspec.json.encode(one)
    path.write_bytes(line + b"\n" + line[:-3])
    assert read(path) == [one]


def _verify(out: Path) -> object:
    space = Space(family("fused_sm90"), preset("deepseek-v4-pro"), "sm_90a", {"tile_m": (256,)})
    return next(verify_space(space, out, Plan(out.parent)))


def _ablate(out: Path) -> object:
    return Ablation(preset("deepseek-v4-pro"), (1,), out, out.parent)


@pytest.mark.parametrize("go_on", [RecordWriter, _verify, _ablate])
def test_a_file_of_something_else_is_refused_as_it_was(
    tmp_path: Path, go_on: Callable[[Path], object]
) -> None:
    path = tmp_path / "notes.txt"
    for notes in (b"notes of mine\nwithout an end", b"x = 3", b'{"precious": 1}'):
        path.write_bytes(notes)
        with pytest.raises(RecordError, match=r"line 1|name another file"):
            go_on(path)
        assert path.read_bytes() == notes
