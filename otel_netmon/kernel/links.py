"""Attaching by bpf links: they vanish with the process that holds them, kill -9 included.

Where the kernel has no TCX (before 6.6) tc programs are attached as filters of a clsact qdisc instead, see clsact.py.
"""

from __future__ import annotations

import errno
import os

from otel_netmon.abi.enums import Direction
from otel_netmon.kernel import syscalls
from otel_netmon.kernel.namespaces import Namespace, opened_in

XDP_FLAGS_SKB_MODE = 2
XDP_FLAGS_DRV_MODE = 4

ETHERNET_LIKE = frozenset({1, 772})
"""ARPHRD_ETHER and ARPHRD_LOOPBACK: frames begin with an Ethernet header."""

BARE_IP = frozenset({512, 519, 768, 769, 776, 778, 823, 0xFFFE})
"""ARPHRD_PPP, RAWIP, TUNNEL, TUNNEL6, SIT, IPGRE, IP6GRE, NONE: what tc sees begins with the IP header."""


class Refused(Exception):
    """The kernel did not attach a program: a reason in a few words, and whether it lacks the feature altogether."""

    def __init__(self, reason: str, lacks_feature: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.lacks_feature = lacks_feature


def l2_length(arphrd: int) -> int | None:
    """Bytes before the network header in what tc sees on a device of this ARPHRD type; None for types not known."""
    if arphrd in ETHERNET_LIKE:
        return 14
    return 0 if arphrd in BARE_IP else None


def attach_tcx(namespace: Namespace, ifindex: int, direction: Direction, program: int) -> int:
    """Attaches a tc program by a TCX link (kernel 6.6), before all others, and gives the link's fd.

    Before them it sees every packet, also those that another program drops or redirects, and with its verdict
    TCX_NEXT all others run as if it were not there.

    Raises:
        Refused: lacks_feature is set where the kernel has no TCX.
    """
    attach_type = syscalls.ATTACH_TCX_INGRESS if direction == Direction.RECEIVE else syscalls.ATTACH_TCX_EGRESS
    return _link(namespace, ifindex, attach_type, program, syscalls.BPF_F_BEFORE)


def attach_xdp(namespace: Namespace, ifindex: int, program: int, generic: bool) -> int:
    """Attaches an XDP program by a link (kernel 5.9), in the driver or generic; gives the link's fd.

    Raises:
        Refused: the driver has no XDP, another program is there, or the kernel lacks XDP links.
    """
    flags = XDP_FLAGS_SKB_MODE if generic else XDP_FLAGS_DRV_MODE
    return _link(namespace, ifindex, syscalls.ATTACH_XDP, program, flags)


def attach_cgroup(cgroup: int, hook: int, program: int) -> int:
    """Attaches a program to a cgroup v2 and all below it, beside those of others, by a link (kernel 5.7); gives the link's fd.

    Args:
        cgroup: the open folder.
        hook: enum bpf_attach_type.
        program: loaded for that hook.

    Raises:
        Refused: lacks_feature is set where the kernel has no such hook, or no links of cgroups.
    """
    try:
        return syscalls.link_create(program, cgroup, hook)
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise Refused("no_cgroup_hook", True) from error
        if error.errno == errno.EBADF:
            raise Refused("no_cgroup2") from error
        if (
            error.errno == errno.EPERM
        ):  # whoever may load the program may attach it, but beside one that wants to be alone
            raise Refused("another_program_attached") from error
        if error.errno == errno.E2BIG:
            raise Refused("too_many_programs") from error
        raise Refused(errno.errorcode.get(error.errno or 0, "error").lower()) from error


def _link(namespace: Namespace, ifindex: int, attach_type: int, program: int, flags: int) -> int:
    try:
        return opened_in(namespace, lambda: syscalls.link_create(program, ifindex, attach_type, flags))
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise Refused("interface_gone") from error
        if error.errno == errno.EINVAL:
            raise Refused("no_tcx" if attach_type != syscalls.ATTACH_XDP else "no_xdp_link", True) from error
        if error.errno == errno.EOPNOTSUPP:
            raise Refused("driver_has_no_xdp") from error
        if error.errno in (errno.EEXIST, errno.EBUSY):
            raise Refused("another_program_attached") from error
        if error.errno == errno.EPERM:
            raise Refused("not_permitted") from error
        raise Refused(errno.errorcode.get(error.errno or 0, "error").lower()) from error


def detach(link: int) -> None:
    """Lets go of a link: the kernel detaches the program."""
    os.close(link)
