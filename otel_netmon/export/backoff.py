"""How long to wait before a request is tried again.

OTLP specification 1.x, "OTLP/HTTP Throttling" and "Retryable Response Codes": exponential backoff with jitter, and no sooner than the
receiver asked for.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

FIRST_SECONDS: Final = 1.0
LONGEST_SECONDS: Final = 30.0

LONGEST_ASKED_SECONDS: Final = 300.0
"""What a receiver may ask for and gets; a longer wait is more likely its mistake than its wish."""


class Backoff:
    """The waits of one queue. Full jitter: each is drawn from zero up to a ceiling that doubles from 1 s to 30 s.

    Args:
        draw: gives a number in [0, 1).
    """

    def __init__(self, draw: Callable[[], float] = random.random) -> None:
        self._draw = draw
        self._ceiling = FIRST_SECONDS

    def next(self, asked_seconds: float | None = None) -> tuple[float, float]:
        """The next wait.

        Args:
            asked_seconds: how long the receiver asked to wait; None where it said nothing.

        Returns:
            Seconds to wait, and how many of them the receiver asked for. The jitter comes on top of these, so that many agents
            do not come back together.
        """
        asked = min(max(asked_seconds or 0.0, 0.0), LONGEST_ASKED_SECONDS)
        wait = asked + self._draw() * self._ceiling
        self._ceiling = min(2 * self._ceiling, LONGEST_SECONDS)
        return wait, asked

    def reset(self) -> None:
        """A request was answered: the next trouble begins anew."""
        self._ceiling = FIRST_SECONDS
