"""One followed namespace: its devices, kept up to date, and what it calls the other namespaces."""

from __future__ import annotations

from collections.abc import Mapping

from otel_netmon.kernel.link_monitor import LinkMonitor
from otel_netmon.kernel.namespaces import Namespace
from otel_netmon.kernel.rtnetlink import Link


class FollowedNamespace:
    """One namespace, the sockets open in it, and its devices; made while the thread is inside the namespace.

    Attributes:
        namespace: closed by `close`, with the sockets.
        links: the devices by ifindex, as of the last `read`.
        namespace_ids: our numbers of other namespaces, by the ids that this one has for them.
    """

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        self.monitor = LinkMonitor()
        self.links: dict[int, Link] = {}
        self.namespace_ids: dict[int, int] = {}
        self._unknown_ids: set[int] = set()
        self._touched: set[int] = set()
        self._dump_due = True

    def close(self) -> None:
        """Close the sockets and let go of the namespace."""
        self.monitor.close()
        self.namespace.close()

    def read(self) -> tuple[set[int], set[int]]:
        """Bring `links` up to date; the indexes that may differ now, and those that were removed and made again."""
        self._unknown_ids.clear()
        # What an error leaves half done, the next call does anew.
        dump_due, self._dump_due = self._dump_due, True
        gone: set[int] = set()
        recreated: set[int] = set()
        changes, overrun = self.monitor.read()
        for removed, link in changes:
            self._touched.add(link.index)
            if not removed:
                self.links[link.index] = link
                recreated.update(gone & {link.index})
            elif self.links.pop(link.index, None) is not None:
                gone.add(link.index)
        if overrun or dump_due:
            self._touched.update(self.links)
            self.links = {link.index: link for link in self.monitor.dump()}
            self._touched.update(self.links)
        self._dump_due = False
        touched, self._touched = self._touched, set()
        return touched, recreated & self.links.keys()

    def read_one(self, index: int) -> None:
        """Bring one entry of `links` up to date."""
        link = self.monitor.get(index)
        if link is None:
            self.links.pop(index, None)
        else:
            self.links[index] = link

    def find_namespace_id(self, namespace_id: int, followed: Mapping[int, FollowedNamespace]) -> int | None:
        """Our number of the followed namespace that this one knows as `namespace_id`, None if it is none of them.

        The kernel gives ids when they are first needed and keeps them while both namespaces live; the id of one that is
        not followed may later become another's, so it is remembered only until the next `read`.
        """
        if namespace_id not in self.namespace_ids and namespace_id not in self._unknown_ids:
            for number, other in followed.items():
                known_as = self.monitor.namespace_id(other.namespace.fd)
                if known_as is not None:
                    self.namespace_ids[known_as] = number
            if namespace_id not in self.namespace_ids:
                self._unknown_ids.add(namespace_id)
        return self.namespace_ids.get(namespace_id)
