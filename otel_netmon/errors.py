"""Every error this project raises on purpose, drawn as a tree.

NetmonError                     exit 1, the base: what failed, where, and what to do about it
├── UsageError                  exit 2, the command line is wrong
├── KernelLacksError            exit 69, the running kernel refuses or lacks a feature
├── PrivilegeError              exit 77, a capability is missing
├── ConfigError                 exit 78, a configuration value is wrong (file, line and column where known)
├── ImageError                  exit 1, a program image is damaged, of another ABI, or cannot be compiled
├── CaptureError                exit 1, a capture file cannot be read at all (offset in the file)
├── SpoolError                  exit 78, the folder of a spool cannot be used, or a file in it cannot be written or read
└── ListenError                 exit 1, an address cannot be bound

Exit codes follow sysexits.h (EX_UNAVAILABLE 69, EX_NOPERM 77, EX_CONFIG 78).
"""

from __future__ import annotations


class NetmonError(Exception):
    """What failed, with a remedy that a stranger can act on.

    Args:
        message: one sentence that says what failed and where.
        remedy: what the reader can do about it; empty where nothing is known.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class UsageError(NetmonError):
    """The command line is wrong."""

    exit_code = 2


class KernelLacksError(NetmonError):
    """The running kernel refuses or lacks a feature."""

    exit_code = 69


class PrivilegeError(NetmonError):
    """A capability is missing."""

    exit_code = 77


class ConfigError(NetmonError):
    """A configuration value is wrong; the message begins with ``file:line:column:`` where they are known."""

    exit_code = 78


class ImageError(NetmonError):
    """A program image is damaged, made for another ABI version, or cannot be compiled."""


class CaptureError(NetmonError):
    """A capture file cannot be read at all.

    Args:
        offset: byte offset in the file at which reading failed.
    """

    def __init__(self, message: str, remedy: str = "", offset: int = 0) -> None:
        super().__init__(message, remedy)
        self.offset = offset


class SpoolError(NetmonError):
    """The folder of a spool cannot be used; while the agent runs, a file in it cannot be written or read."""

    exit_code = 78


class ListenError(NetmonError):
    """An address cannot be bound."""
