"""Passwords in the URLs of storages: used, and neither shown nor recorded."""

from __future__ import annotations

import re

# scheme://user:password@host, of which the password goes; what a user writes without one is left alone.
_PASSWORD = re.compile(r"(://[^\s:/@]*:)[^\s@]+(?=@)")


def without_passwords(text: str) -> str:
    """`text` with *** for every password in a URL."""
    return _PASSWORD.sub(r"\1***", text)
