"""Records as lines of JSON in a file: what a measuring host writes and its sender reads."""

from __future__ import annotations

from pathlib import Path

from harness.json_lines import append_line, append_to, whole_lines
from harness.record import RecordError, TrialRecord, from_json, to_json


def read_records(path: Path) -> list[TrialRecord]:
    """Every record in `path`, in order.

    A last line without its end was being written when its writer died; it is left out. Raises `RecordError`
    naming the file and line of anything else that is not a record.
    """
    try:
        lines = whole_lines(path)
    except OSError as error:
        raise RecordError(f"cannot read {path}: {error.strerror}") from None
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            records.append(from_json(line))
        except RecordError as error:
            raise RecordError(f"{path}, line {number}: {error}") from None
    return records


class RecordWriter:
    """Appends records to a file, each on disk before `append` returns. A torn last line is removed first."""

    def __init__(self, path: Path) -> None:
        """Raises `RecordError` when `path` cannot be written or holds something else than records."""
        self._path = path
        try:
            self.found = read_records(path) if path.exists() else []
            append_to(path, TrialRecord)
        except OSError as error:
            raise RecordError(f"cannot write {path}: {error.strerror}: name another file") from None

    def append(self, record: TrialRecord) -> None:
        append_line(self._path, to_json(record))
