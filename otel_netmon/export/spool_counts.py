"""What has become of the requests of a lane, to the request and to the item."""

from __future__ import annotations

from dataclasses import dataclass, field

from otel_netmon.export.spool_cursor import Position


@dataclass(slots=True)
class Tally:
    """Requests and the items in them."""

    records: int = 0
    items: int = 0

    def add(self, begin: Position, end: Position) -> None:
        """Counts what lies between two places."""
        self.records += end.sequence - begin.sequence
        self.items += end.items - begin.items


@dataclass(slots=True)
class Counts:
    """What has become of a lane's requests: found + appended = acknowledged + evicted + damaged + those between read and written.

    Attributes:
        found: were there when the spool was opened.
        appended: written since, and those that were evicted before they were written.
        acknowledged: sent, or refused by the receiver.
        evicted: given up for the size limit.
        damaged: no longer readable.
    """

    found: Tally = field(default_factory=Tally)
    appended: Tally = field(default_factory=Tally)
    acknowledged: Tally = field(default_factory=Tally)
    evicted: Tally = field(default_factory=Tally)
    damaged: Tally = field(default_factory=Tally)
