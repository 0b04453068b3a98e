"""What can go wrong for a user, one exception and one exit status per class.

Each message is one line that says what was wrong, with the value, and what to do; the command line prints it
without a traceback.
"""

from __future__ import annotations

from typing import ClassVar


class UserError(Exception):
    """Something the user can put right. `exit_status` is the command's."""

    exit_status: ClassVar[int] = 1


class SpecError(UserError):
    """A sweep's description that cannot be read or makes no sense."""

    exit_status = 3


class StudyError(UserError):
    """A storage that cannot be used, or a study that is not the one asked for."""

    exit_status = 4


class DeviceError(UserError):
    """No device, or one that cannot be used."""

    exit_status = 5
