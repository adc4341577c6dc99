"""What holds file descriptors of the kernel is a context manager that closes itself."""

from __future__ import annotations

from types import TracebackType
from typing import Self


class Closing:
    """Leaving the ``with`` block calls ``close``."""

    def close(self) -> None:
        """Let go of everything held."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
