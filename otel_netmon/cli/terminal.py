"""What reaches a program that draws on a terminal: keys, signals, a new size. And the terminal's own settings, given back.

Sources: termios(3), signal(7), signal.set_wakeup_fd of Python's library.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import time
import tty
from types import FrameType, TracebackType
from typing import Literal, Self

Event = Literal["time", "stop", "resize", "suspend"]

STOP_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
STOP_KEYS = frozenset(b"qQ")
_HANDLED = (*STOP_SIGNALS, signal.SIGWINCH, signal.SIGTSTP)


class Events:
    """While it is entered, signals wait to be asked for and keys are read one by one and not shown.

    Keys are read from standard input where that is a terminal; elsewhere only signals tell.
    """

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._old_handlers = {number: signal.signal(number, _take_note) for number in _HANDLED}
        self._keys = sys.stdin.fileno() if sys.stdin is not None and sys.stdin.isatty() else None
        self._settings = termios.tcgetattr(self._keys) if self._keys is not None else None
        self._set_keys()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore_keys()
        signal.set_wakeup_fd(self._old_wakeup)
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def wait(self, seconds: float) -> Event:
        """The next thing that happens within this time, or ``time``."""
        deadline = time.monotonic() + seconds
        while True:
            inputs = [self._read] if self._keys is None else [self._read, self._keys]
            ready = select.select(inputs, [], [], max(0.0, deadline - time.monotonic()))[0]
            if self._read in ready:
                return _meaning(os.read(self._read, 4096))
            if self._keys is not None and self._keys in ready:
                keys = os.read(self._keys, 4096)
                if STOP_KEYS & set(keys):
                    return "stop"
                if not keys:
                    self._keys = None  # the terminal has hung up; SIGHUP says so too
            elif not ready:
                return "time"

    def suspend(self) -> None:
        """Stops this process as Ctrl-Z asks; returns when it is continued."""
        self._restore_keys()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._set_keys()

    def _set_keys(self) -> None:
        if self._keys is not None:
            tty.setcbreak(self._keys)

    def _restore_keys(self) -> None:
        if self._keys is not None and self._settings is not None:
            termios.tcsetattr(self._keys, termios.TCSADRAIN, self._settings)


def _take_note(_number: int, _frame: FrameType | None) -> None:
    """The wakeup descriptor carries the number; a handler has to be there for that."""


def _meaning(numbers: bytes) -> Event:
    if STOP_SIGNALS & set(numbers):
        return "stop"
    return "suspend" if signal.SIGTSTP in numbers else "resize"
