"""What the tc hooks of the running kernel see of a packet: a counting program, put together by hand."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from otel_netmon.abi.enums import Direction
from otel_netmon.kernel import syscalls
from otel_netmon.kernel.interfaces import Interface, InterfaceTable
from otel_netmon.kernel.namespaces import opened_in

_KEY = struct.Struct("<4I")
_ATTACH = {Direction.RECEIVE: syscalls.ATTACH_TCX_INGRESS, Direction.TRANSMIT: syscalls.ATTACH_TCX_EGRESS}


class Sightings:
    """Counters by (ifindex, ingress_ifindex, namespace and direction, frame length)."""

    def __init__(self, table: InterfaceTable) -> None:
        self._table = table
        self._map = syscalls.map_create(syscalls.MAP_TYPE_HASH, _KEY.size, 8, 4096)
        self._fds = [self._map]

    def attach(self, interface: Interface) -> None:
        """Count at both hooks of the interface from now on."""
        for direction in Direction:
            program = self.program(interface, direction)
            namespace = self._table.namespaces[interface.namespace]
            attach = partial(syscalls.link_create, program, interface.index, _ATTACH[direction])
            self._fds.append(opened_in(namespace, attach))

    def program(self, interface: Interface, direction: Direction) -> int:
        """A program that counts for that hook and gives TC_ACT_UNSPEC; its file descriptor is closed by `close`."""
        mark = interface.namespace << 8 | direction
        program, _ = syscalls.program_load(syscalls.PROG_TYPE_SCHED_CLS, _counting(self._map, mark), "sighting")
        self._fds.append(program)
        return program

    def close(self) -> None:
        """Detach everything."""
        for fd in self._fds:
            os.close(fd)

    def rows(self) -> dict[tuple[tuple[int, int], Direction, int, int], int]:
        """Frames by ((namespace, ifindex), direction, ingress_ifindex, length)."""
        found = {}
        for key in self._keys():
            index, ingress, mark, length = _KEY.unpack(key)
            value = syscalls.map_lookup(self._map, key, 8)
            assert value is not None
            found[(mark >> 8, index), Direction(mark & 0xFF), ingress, length] = int.from_bytes(value, "little")
        return found

    def _keys(self) -> Iterator[bytes]:
        key: bytearray | None = None
        while True:
            following = bytearray(_KEY.size)
            attribute = struct.pack("<IIQQ", self._map, 0, 0 if key is None else _address(key), _address(following))
            try:
                syscalls.bpf(syscalls.MAP_GET_NEXT_KEY, attribute)
            except FileNotFoundError:
                return
            yield bytes(following)
            key = following


@contextmanager
def sightings(table: InterfaceTable) -> Iterator[Sightings]:
    """Counters at every interface that the table monitors in the followed namespaces, the test's own left out."""
    seen = Sightings(table)
    try:
        for interface in table.monitored.values():
            if interface.namespace:
                seen.attach(interface)
        yield seen
    finally:
        seen.close()


def _address(buffer: bytearray) -> int:
    return ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    return struct.pack("<BBhi", code, source << 4 | target, offset, immediate)


def _counting(counters: int, mark: int) -> bytes:
    """Adds one to the counter of this frame and gives TCX_NEXT; offsets are those of struct __sk_buff."""
    load, store, move, add, call = 0x61, 0x63, 0xBF, 0x07, 0x85
    map_pointer = _instruction(0x18, 1, 1, 0, counters) + _instruction(0)
    key_pointer = _instruction(move, 2, 10) + _instruction(add, 2, 0, 0, -16)
    return b"".join(
        [
            _instruction(move, 6, 1),
            _instruction(load, 1, 6, 40) + _instruction(store, 10, 1, -16),  # ifindex
            _instruction(load, 1, 6, 36) + _instruction(store, 10, 1, -12),  # ingress_ifindex
            _instruction(0x62, 10, 0, -8, mark),
            _instruction(load, 1, 6, 0) + _instruction(store, 10, 1, -4),  # len
            map_pointer + key_pointer + _instruction(call, immediate=1),  # bpf_map_lookup_elem
            _instruction(0x15, 0, 0, 3, 0),  # none yet: skip three
            _instruction(0xB7, 1, 0, 0, 1) + _instruction(0xDB, 0, 1, 0, 0) + _instruction(0x05, offset=9),
            _instruction(0x7A, 10, 0, -24, 1),
            map_pointer + key_pointer + _instruction(move, 3, 10) + _instruction(add, 3, 0, 0, -24),
            _instruction(0xB7, 4) + _instruction(call, immediate=2),  # bpf_map_update_elem
            _instruction(0xB7, 0, 0, 0, -1) + _instruction(0x95),
        ]
    )
