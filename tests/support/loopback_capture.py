"""What goes over the loopback interface on some ports, as a capture file."""

from __future__ import annotations

import socket
import struct
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from support.capture_files import NANOSECONDS, pcap_header, pcap_record

_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_STATISTICS = 263, 6
_SO_RCVBUFFORCE, _SO_TIMESTAMPNS = 33, 35
_OUTGOING = 4
_TCP = 6
_DEADLINE_S = 20.0
_MARK = b"the end of the capture"


class LoopbackCapture:
    """Captures IPv4 TCP to and from these ports while it is entered.

    Attributes:
        packets: how many were written, known when it is left. It fails if the kernel had no place for one.
    """

    def __init__(self, path: Path, *ports: int) -> None:
        self._path = path
        self._ports = frozenset(ports)
        self.packets = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._socket.settimeout(0.1)
        self._socket.bind(("lo", 0))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        deadline = time.monotonic() + _DEADLINE_S
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mark:
            while self._thread.is_alive() and time.monotonic() < deadline:
                mark.sendto(_MARK, ("127.0.0.1", 9))
                self._thread.join(0.1)
        assert not self._thread.is_alive(), "the end of the capture was not seen"
        _, dropped = struct.unpack("II", self._socket.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._socket.close()
        if self._error is not None:
            raise self._error
        assert not dropped, f"{dropped} packets found no place"

    def _run(self) -> None:
        try:
            with self._path.open("wb") as file:
                file.write(pcap_header(magic=NANOSECONDS, snapshot=1 << 18))
                while True:
                    try:
                        data, ancillary, _, address = self._socket.recvmsg(1 << 18, 64)
                    except TimeoutError:
                        continue
                    if address[2] == _OUTGOING:  # each packet of loopback comes twice
                        continue
                    if data.endswith(_MARK):
                        return
                    if self._is_wanted(data):
                        seconds, nanoseconds = struct.unpack("ll", ancillary[0][2])
                        file.write(pcap_record(data, seconds, nanoseconds))
                        self.packets += 1
        except Exception as error:  # noqa: BLE001 - raised again where the capture is left
            self._error = error

    def _is_wanted(self, frame: bytes) -> bool:
        if frame[12:14] != b"\x08\x00" or frame[23] != _TCP:
            return False
        begin = 14 + (frame[14] & 15) * 4
        return not self._ports.isdisjoint(struct.unpack_from(">HH", frame, begin))
