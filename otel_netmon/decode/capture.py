"""Reading capture files: pcap and pcapng, from a path or a pipe, exact about what is broken in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from otel_netmon.decode.capture_source import Fault, Frame, Source
from otel_netmon.decode.linktype import to_ethernet
from otel_netmon.decode.pcap import FILE_HEADER_BYTES, is_pcap, pcap_frames, pcap_header
from otel_netmon.decode.pcapng import is_pcapng, pcapng_frames
from otel_netmon.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

__all__ = ["Capture", "Fault", "Frame", "to_ethernet"]

_STANDARD_INPUT = 0

_COMPRESSED = (
    (b"\x1f\x8b", "gzip", "gzip -dc"),
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -dc"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -dc"),
    (b"\xfd7zXZ\x00", "xz", "xz -dc"),
    (b"BZh", "bzip2", "bzip2 -dc"),
)


class Capture:
    """A capture file, open for one pass over its frames.

    Iterating gives each packet record as a Frame, in the order of the file. Whatever is broken in the file is kept in
    ``faults``; where a fault makes the rest unreadable, the iteration ends there, after all frames before it.

    Args:
        path: a file, a FIFO, or ``-`` for standard input.

    Raises:
        CaptureError: the file cannot be opened, is empty, or is no capture of a known format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        name = "standard input" if self.path == "-" else self.path
        self._owned = self.path != "-"
        self._descriptor = _open(self.path) if self._owned else _STANDARD_INPUT
        self._source = Source(self._descriptor)
        try:
            head = self._source.fill(b"", FILE_HEADER_BYTES)
            if is_pcap(head):
                self.format = "pcap"
                self._frames = pcap_frames(self._source, head, pcap_header(self._source, head, name))
            elif is_pcapng(head):
                self.format = "pcapng"
                self._frames = pcapng_frames(self._source, head)
            else:
                raise self._no_capture(name, head)
        except CaptureError:
            self.close()
            raise

    @property
    def faults(self) -> list[Fault]:
        """What stopped or disturbed reading so far; the first 256, ``fault_count`` has the number of all."""
        return self._source.faults

    @property
    def fault_count(self) -> int:
        """Number of faults met so far."""
        return self._source.fault_count

    @property
    def skipped(self) -> int:
        """Packet records met so far that a fault (in ``faults``) kept from being given while reading went on."""
        return self._source.skipped

    def __iter__(self) -> Iterator[Frame]:
        return self._frames

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; standard input stays open. Further calls do nothing."""
        if self._owned:
            os.close(self._descriptor)
            self._owned = False

    def _no_capture(self, name: str, head: bytes) -> CaptureError:
        if self.faults:
            offset, message = self.faults[0]
            return CaptureError(f"{name}: {message}", "check the file and its medium", offset)
        if not head:
            return CaptureError(f"{name} is empty", "take the capture again: even one without packets has a header")
        for magic, compression, command in _COMPRESSED:
            if head.startswith(magic):
                return CaptureError(
                    f"{name} is compressed with {compression}", f"pipe it: {command} FILE | otel-netmon replay -"
                )
        return CaptureError(
            f"{name} is neither pcap nor pcapng: it begins with {head[:12].hex(' ', 4)}",
            "editcap -F pcapng IN OUT turns captures of other formats into one",
        )


def _open(path: str) -> int:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        remedy = "read permission is needed" if isinstance(error, PermissionError) else "check the path"
        raise CaptureError(f"{path} cannot be opened: {error.strerror}", remedy) from error
    return descriptor
