"""Files that go on where they were survive a writer that died in a line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from harness.ablation_record import Tried, read_tried
from harness.json_lines import append_line, append_to, whole_lines
from harness.provenance import provenance
from harness.record import Outcome
from sweeps.verify import Verified, read_verified

CONFIG = {"stages": 2}
VERIFIED = Verified("f", "sm_100a", "p", 512, CONFIG, Outcome.OK)
TRIED = Tried("f", "sm_100a", "p", "all allowed", 0, CONFIG, provenance())


@pytest.mark.parametrize("torn", [b"", b"{", b'{"a": 1}'])
def test_a_torn_line_is_gone_before_the_next_is_written(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "new folder" / "lines.jsonl"
    append_to(path)
    assert whole_lines(path) == []
    append_line(path, b'{"first": 1}')
    with path.open("ab") as file:
        file.write(torn)
    assert whole_lines(path) == [b'{"first": 1}']
    append_to(path)
    append_line(path, b'{"second": 2}')
    assert path.read_bytes() == b'{"first": 1}\n{"second": 2}\n'


@pytest.mark.parametrize(("read", "one"), [(read_verified, VERIFIED), (read_tried, TRIED)])
def test_a_torn_line_is_not_read(tmp_path: Path, read, one) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "lines.jsonl"
    assert read(path) == []
    line = msgspec.json.encode(one)
    path.write_bytes(line + b"\n" + line[:-3])
    assert read(path) == [one]
