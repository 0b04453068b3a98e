"""Files of JSON lines that only grow: a line whose writer died in it is as if it had never been begun."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec

from harness.record import RecordError


class _WithSchema(Protocol):
    @property
    def schema(self) -> str: ...


Line = TypeVar("Line", bound=_WithSchema)


def whole_lines(path: Path) -> list[bytes]:
    """Every line of `path` that has its end, without it."""
    return path.read_bytes().split(b"\n")[:-1]


def read_lines(path: Path, kind: type[Line], schemas: Collection[str]) -> list[Line]:
    """Every whole line of `path` as a `kind`; none where there is no such file.

    Raises `RecordError` naming the first line that is something else, or of a schema not among `schemas`.
    """
    found = []
    for number, line in enumerate(whole_lines(path) if path.exists() else [], start=1):
        try:
            one = msgspec.json.decode(line, type=kind)
        except msgspec.MsgspecError as error:
            what = kind.__name__.lower()
            raise RecordError(f"{path}, line {number}, is no {what}: {error}: name another file") from None
        if one.schema not in schemas:
            want = " or ".join(repr(schema) for schema in schemas)
            raise RecordError(f"{path}, line {number}: schema {one.schema!r} is not {want}")
        found.append(one)
    return found


def append_to(path: Path, kind: type[Any]) -> None:
    """Make `path` ready for lines of the dataclass `kind`: its folder exists, and a torn last line is gone.

    Read what it holds first: a file of something else is to be refused as it was. Raises `RecordError`,
    leaving it so, where what would be dropped does not begin as every line does, with the first field's name.
    """
    begin = f'{{"{fields(kind)[0].name}":'.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        file.seek(0)
        contents = file.read()
        whole = contents.rfind(b"\n") + 1
        torn = contents[whole : whole + len(begin)]
        if not begin.startswith(torn):
            raise RecordError(f"{path} ends in something else than a torn line: name another file")
        file.truncate(whole)


def append_line(path: Path, line: bytes) -> None:
    """Add one line; it is on disk when this returns."""
    with path.open("ab") as file:
        file.write(line + b"\n")
        file.flush()
        os.fsync(file.fileno())
