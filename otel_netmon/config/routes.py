"""Rules for routes of HTTP requests, as the configuration has them."""

from __future__ import annotations

from typing import NamedTuple


class RouteRule(NamedTuple):
    """A template, for requests of one method or host only where these are not None; hosts in lower case, without port."""

    method: str | None
    host: str | None
    template: str


def parse_rule(text: str) -> RouteRule:
    """Reads ``[METHOD ][HOST]/TEMPLATE``: ``{name}`` stands for one segment, ``{name...}`` at the end for all that follow.

    Raises:
        ValueError: it is no rule; the message says why.
    """
    method, space, rest = text.strip().partition(" ")
    if not space:
        method, rest = "", method
    host, slash, path = rest.strip().partition("/")
    if not slash or " " in rest.strip():
        raise ValueError("a route is [METHOD ][HOST]/TEMPLATE, such as `GET /users/{id}`")
    segments = path.split("/")
    for at, segment in enumerate(segments):
        if "{" not in segment and "}" not in segment:
            continue
        if not (segment.startswith("{") and segment.endswith("}") and segment.count("{") == segment.count("}") == 1):
            raise ValueError(f"a placeholder is a whole segment, `{{name}}`: {segment}")
        if segment.endswith("...}") and at < len(segments) - 1:
            raise ValueError(f"only the last segment stands for all that follow: {segment}")
    if "?" in path or "#" in path:
        raise ValueError("a route has no query")
    return RouteRule(method or None, host.lower() or None, "/" + path)
