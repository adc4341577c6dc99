"""tc programs by clsact filters, for kernels without TCX (before 6.6).

A filter is not a link: it outlives the process that made it, and the hook is shared with everybody who uses tc. So each of
ours has a handle and a name of its own, is removed by that handle only, and what a killed run has left is found again.

The handle is 0x6e6d (``nm``) followed by 16 bits of the running agent, which holds an abstract Unix socket of that number
as long as it lives: a filter whose number nobody holds is a leftover. The name says whether the agent made the clsact qdisc
too. Two agents know of each other if they run in one network namespace.

pyroute2 is imported when the first filter is needed and not before: it costs 24 MB.
Sources: tc-bpf(8), tc-clsact(8), net/sched/cls_bpf.c and sch_ingress.c of the kernel.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from otel_netmon.abi.enums import Direction
from otel_netmon.errors import KernelLacksError, PrivilegeError
from otel_netmon.kernel.closing import Closing
from otel_netmon.kernel.namespaces import Namespace, opened_in
from otel_netmon.kernel.rtnetlink import RtnetlinkError

FILTER_NAME = "otel_netmon"
FILTER_NAME_WITH_QDISC = "otel_netmon+clsact"

_HANDLE_PREFIX = 0x6E6D
_QDISC_PARENT = 0xFFFFFFF1
_FILTER_PARENTS = {Direction.RECEIVE: 0xFFFFFFF2, Direction.TRANSMIT: 0xFFFFFFF3}
_ETH_P_ALL = 3
_OWN_PRIORITY = 2
"""Before every priority but the one that others ask for by number."""
_LAST_PRIORITY = 0xFFFF

Key = tuple[tuple[int, int], int]
"""(identity of the namespace, ifindex)."""


@dataclass(frozen=True, slots=True)
class ClsactFilter:
    """A filter that this process made.

    Attributes:
        namespace, index: where, by the namespace's identity and the ifindex.
        direction: at which hook.
        priority: the place among the filters of the hook, a lower number is asked earlier.
    """

    namespace: tuple[int, int]
    index: int
    direction: Direction
    priority: int


class Leftover(NamedTuple):
    """A filter of a run that has ended, now removed."""

    namespace_name: str
    ifindex: int
    direction: Direction
    handle: int


class _Filter(NamedTuple):
    """One row of the kernel's list, in its order; a row of handle 0 stands for all filters of one priority."""

    priority: int
    protocol: int
    kind: str
    handle: int
    name: str


class Clsact(Closing):
    """Filters of this process, in any number of namespaces. Not for use by several threads.

    Closing it removes all of them. A forked child that lives on calls `leave_to_parent` first.
    """

    def __init__(self) -> None:
        self._handle, self._lock = _take_handle()
        self._routes: dict[tuple[int, int], Any] = {}
        self._filters: list[ClsactFilter] = []
        self._made_qdiscs: set[Key] = set()

    def close(self) -> None:
        """Remove every filter of this process, and the qdiscs that it made and nobody else uses."""
        for made in list(self._filters):
            self.detach(made)
        self.leave_to_parent()

    def leave_to_parent(self) -> None:
        """Close what is open and touch no filter: in a forked child, so that it neither owns nor holds the handle."""
        for route in self._routes.values():
            route.close()
        self._routes.clear()
        self._filters.clear()
        self._lock.close()

    def attach(self, namespace: Namespace, index: int, direction: Direction, program: int) -> ClsactFilter:
        """Run a program on every frame of one direction; its verdict must be TC_ACT_UNSPEC (-1), so that others are asked too.

        The filter stands before all others where that takes nothing from them: at a priority of its own, or next to a
        filter of the same kind at priority 1. `is_first` tells whether it is asked first.

        Args:
            program: file descriptor of a loaded program of type BPF_PROG_TYPE_SCHED_CLS.

        Raises:
            PrivilegeError: CAP_NET_ADMIN is missing.
            KernelLacksError: the kernel has no clsact or no bpf filters, or a qdisc without egress holds their place.
            RtnetlinkError: anything else that the kernel says, ENODEV where the interface is gone.
        """
        route = self._route(namespace)
        key = namespace.identity, index
        self._need_qdisc(route, key, direction)
        name = FILTER_NAME_WITH_QDISC if key in self._made_qdiscs else FILTER_NAME
        present = _filters(route, index, direction)
        priority = _choose_priority(present)
        parent = _FILTER_PARENTS[direction]
        try:
            _request(
                "attach a program",
                lambda: route.tc(
                    "add-filter",
                    "bpf",
                    index,
                    self._handle,
                    fd=program,
                    name=name,
                    parent=parent,
                    direct_action=True,
                    prio=priority,
                    protocol=_ETH_P_ALL,
                ),
            )
        except Exception:
            self._drop_qdisc(route, key)
            raise
        made = ClsactFilter(namespace.identity, index, direction, priority)
        self._filters.append(made)
        return made

    def is_first(self, made: ClsactFilter) -> bool:
        """Whether no other filter is asked before: one that is may end the matter with a verdict of its own."""
        present = _filters(self._routes[made.namespace], made.index, made.direction)
        handles = [each.handle for each in present if each.handle]
        return handles[:1] == [self._handle]

    def detach(self, made: ClsactFilter) -> None:
        """Remove a filter of this process; nothing happens if it or its interface is already gone.

        Raises:
            PrivilegeError, RtnetlinkError: as `attach`.
        """
        self._filters.remove(made)
        route = self._routes[made.namespace]
        _remove(route, made.index, made.direction, made.priority, self._handle)
        if not any((other.namespace, other.index) == (made.namespace, made.index) for other in self._filters):
            self._drop_qdisc(route, (made.namespace, made.index))

    def sweep_leftovers(self, namespaces: Iterable[Namespace]) -> list[Leftover]:
        """Remove the filters of runs that have ended without removing them, and the qdiscs that those runs made.

        Raises:
            PrivilegeError, RtnetlinkError: as `attach`.
        """
        swept: list[Leftover] = []
        for namespace in namespaces:
            route = self._route(namespace)
            for index in _indexes_with_qdisc(route):
                swept.extend(self._sweep(route, namespace, index))
        return swept

    def _sweep(self, route: Any, namespace: Namespace, index: int) -> list[Leftover]:
        swept: list[Leftover] = []
        made_qdisc = False
        for direction in Direction:
            for each in _filters(route, index, direction):
                if _is_ours(each) and not _is_held(each.handle):
                    _remove(route, index, direction, each.priority, each.handle)
                    made_qdisc |= each.name == FILTER_NAME_WITH_QDISC
                    swept.append(Leftover(namespace.name, index, direction, each.handle))
        if made_qdisc:
            _remove_empty_qdisc(route, index)
        return swept

    def _route(self, namespace: Namespace) -> Any:
        route = self._routes.get(namespace.identity)
        if route is None:
            from pyroute2 import IPRoute

            route = self._routes[namespace.identity] = opened_in(namespace, IPRoute)
        return route

    def _need_qdisc(self, route: Any, key: Key, direction: Direction) -> None:
        _, index = key
        kind = _qdisc_kind(route, index)
        if kind is None:
            try:
                _request("make the clsact qdisc", lambda: route.tc("add", "clsact", index))
            except RtnetlinkError as error:
                if error.errno != errno.EEXIST:
                    raise
                kind = _qdisc_kind(route, index)
            else:
                self._made_qdiscs.add(key)
        if kind == "ingress" and direction is Direction.TRANSMIT:
            # It would take the filter and run it on received frames.
            raise KernelLacksError(
                f"the ingress qdisc of interface index {index} leaves no hook for transmitted frames",
                "let the program that made it use clsact, or run a kernel with TCX (6.6)",
            )

    def _drop_qdisc(self, route: Any, key: Key) -> None:
        if key in self._made_qdiscs and not any((made.namespace, made.index) == key for made in self._filters):
            self._made_qdiscs.remove(key)
            _remove_empty_qdisc(route, key[1])


def _take_handle() -> tuple[int, socket.socket]:
    """A handle that no living agent has, and the socket that says so."""
    while True:
        handle = _HANDLE_PREFIX << 16 | 1 + secrets.randbelow(0xFFFF)
        lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            lock.bind(_lock_name(handle))
        except OSError as error:
            lock.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return handle, lock


def _is_held(handle: int) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.bind(_lock_name(handle))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            return True
        return False


def _lock_name(handle: int) -> str:
    return f"\0otel-netmon/clsact/{handle:08x}"


def _is_ours(each: _Filter) -> bool:
    return (
        each.kind == "bpf"
        and each.handle >> 16 == _HANDLE_PREFIX
        and each.name in (FILTER_NAME, FILTER_NAME_WITH_QDISC)
    )


def _choose_priority(present: list[_Filter]) -> int:
    """Before all others if possible, at a number of our own.

    Only at priority 1 there is no room before another. A bpf filter for all protocols shares its priority, and the newest
    is asked first; any other kind does not, and then ours comes after.
    """
    taken = {each.priority: each for each in present}
    lowest = min(taken, default=_LAST_PRIORITY)
    if lowest > 1:
        return min(_OWN_PRIORITY, lowest - 1)
    if taken[1].kind == "bpf" and taken[1].protocol == _ETH_P_ALL:
        return 1
    return next(priority for priority in range(2, _LAST_PRIORITY + 1) if priority not in taken)


def _filters(route: Any, index: int, direction: Direction) -> list[_Filter]:
    rows = _request("list filters", lambda: list(route.get_filters(index, parent=_FILTER_PARENTS[direction])))
    found = []
    for row in rows:
        options = row.get_attr("TCA_OPTIONS")
        name = options.get_attr("TCA_BPF_NAME") if row.get_attr("TCA_KIND") == "bpf" and options else None
        protocol = socket.ntohs(row["info"] & 0xFFFF)
        found.append(_Filter(row["info"] >> 16, protocol, row.get_attr("TCA_KIND"), row["handle"], name or ""))
    return found


def _qdisc_kind(route: Any, index: int) -> str | None:
    for row in _request("list qdiscs", lambda: list(route.get_qdiscs(index))):
        if row["index"] == index and row["parent"] == _QDISC_PARENT:
            return str(row.get_attr("TCA_KIND"))
    return None


def _indexes_with_qdisc(route: Any) -> list[int]:
    rows = _request("list qdiscs", lambda: list(route.get_qdiscs()))
    return sorted({row["index"] for row in rows if row["parent"] == _QDISC_PARENT})


def _remove(route: Any, index: int, direction: Direction, priority: int, handle: int) -> None:
    parent = _FILTER_PARENTS[direction]
    _unless_gone(
        "remove a filter",
        lambda: route.tc("del-filter", "bpf", index, handle, parent=parent, prio=priority, protocol=_ETH_P_ALL),
    )


def _remove_empty_qdisc(route: Any, index: int) -> None:
    if not any(_filters(route, index, direction) for direction in Direction):
        _unless_gone("remove the clsact qdisc", lambda: route.tc("del", "clsact", index))


def _unless_gone(what: str, call: Callable[[], Any]) -> None:
    try:
        _request(what, call)
    except RtnetlinkError as error:
        # ENODEV: the interface; ENOENT: the filter; EINVAL: the qdisc with all that hung on it.
        if error.errno not in (errno.ENODEV, errno.ENOENT, errno.EINVAL):
            raise


def _request(what: str, call: Callable[[], Any]) -> Any:
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        return call()
    except NetlinkError as error:
        number = int(error.code)
        message = f"the kernel refused to {what}: {os.strerror(number)}"
        if number in (errno.EPERM, errno.EACCES):
            raise PrivilegeError(message, "give the agent CAP_NET_ADMIN") from error
        if number in (errno.EOPNOTSUPP, errno.ENOENT) and not what.startswith("remove"):
            remedy = "use a kernel with CONFIG_NET_CLS_ACT, CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF"
            raise KernelLacksError(message, remedy) from error
        raise RtnetlinkError(message, errno=number) from error
