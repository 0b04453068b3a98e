"""What can go wrong for a user, and the exit status of the command for each class.

    0    done
    1    a bug: the traceback is shown
    2    usage: an unknown command, option or argument (click's own)
    3    a sweep's description, parameter or problem that cannot be read or makes no sense
    4    a storage that cannot be used, or a study that is not the one asked for
    5    no device, or one that cannot be used
    6    a part of the toolchain, an artifact, cache or pack that is missing, altered or unreadable
    7    results that cannot be read or must not be combined
    8    any other file that cannot be read or written, or a file of weights that does not hold what it must
    9    done, and the trace found a step out of its band
    130  stopped by Ctrl-C or SIGTERM; everything told is stored

Each message is one line that says what was wrong, with the value, and what to do.
"""

from __future__ import annotations

from typing import ClassVar

STOPPED = 130
FILE_ERROR = 8
OUT_OF_BAND = 9

# By the names of the other rooms' exceptions, so that looking one up imports nothing that was not in use.
OTHER_ROOMS = {
    "ExecutorError": 5,
    "ToolchainError": 6,
    "ArtifactError": 6,
    "CacheError": 6,
    "PackError": 6,
    "RecordError": 7,
    "ResultsError": 7,
    "DispatchTableError": 7,
    "TraceError": 8,
}


class UserError(Exception):
    """Something the user can put right. `exit_status` is the command's."""

    exit_status: ClassVar[int]


class SpecError(UserError):
    """A sweep's description that cannot be read or makes no sense."""

    exit_status = 3


class StudyError(UserError):
    """A storage that cannot be used, or a study that is not the one asked for."""

    exit_status = 4


class DeviceError(UserError):
    """No device, or one that cannot be used."""

    exit_status = 5


def exit_status(error: BaseException) -> int | None:
    """The command's exit status for `error`; None for one that is a bug."""
    if isinstance(error, UserError):
        return error.exit_status
    for kind in type(error).__mro__:
        if kind.__name__ in OTHER_ROOMS:
            return OTHER_ROOMS[kind.__name__]
    return FILE_ERROR if isinstance(error, OSError) else None
