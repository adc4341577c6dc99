"""Paths with what identifies somebody or something folded."""

from __future__ import annotations

import random
import string

import pytest

from otel_netmon.analysis.http_paths import SEGMENTS_MAX, VALUE, folded_path, folded_segment, target_path


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/", "/"),
        ("/a/b?c=/d", "/a/b"),
        ("/a#b?c", "/a"),
        ("/?a", "/"),
        ("http://a.example/b?c", "/b"),
        ("http://user:secret@a.example:80?c", "/"),
        ("http://a.example", "/"),
        ("*", None),
        ("a.example:443", None),
        ("", None),
    ],
)
def test_paths_of_targets(target: str, path: str | None) -> None:
    assert target_path(target) == path


@pytest.mark.parametrize(
    ("path", "folded"),
    [
        ("/", "/"),
        ("/users/42/orders/-7", "/users/{number}/orders/{number}"),
        ("/api/v1/users", "/api/v1/users"),
        ("/v1.2.3/index.html", "/v1.2.3/index.html"),
        ("/2024-01-31/2024.01.31/2024-01-31T12:00:00Z", "/{date}/{date}/{date}"),
        ("/550e8400-e29b-41d4-a716-446655440000", "/{uuid}"),
        ("/550E8400e29b41d4a716446655440000", "/{uuid}"),
        ("/commit/deadbeef01", "/commit/{hash}"),
        ("/getUserById/XMLHttpRequest", "/getUserById/XMLHttpRequest"),
        ("/hipstershop.CartService/GetCart", "/hipstershop.CartService/GetCart"),
        ("/.well-known/openid-configuration", "/.well-known/openid-configuration"),
        ("/graphql/oauth2/token/zh-CN/", "/graphql/oauth2/token/zh-CN/"),
        ("/user42/me@example.com/%20a/a=b/hunter2", "/" + "/".join([VALUE] * 5)),
        ("/static/main.3f2a1b9c.js", "/static/{value}"),
        ("/aZbQxTkW", "/{value}"),
    ],
)
def test_what_is_no_word_is_folded(path: str, folded: str) -> None:
    assert folded_path(path) == folded


def test_very_long_paths_keep_their_begin() -> None:
    assert folded_path("/a" * SEGMENTS_MAX) == "/a" * SEGMENTS_MAX
    assert folded_path("/a" * 10_000) == "/a" * SEGMENTS_MAX + "/{rest...}"


@pytest.mark.parametrize(
    ("letters", "length", "share"),
    [
        (string.hexdigits[:16], 16, 0.005),
        (string.ascii_letters + string.digits + "-_", 22, 0.005),
        (string.ascii_lowercase, 16, 0.02),
        (string.ascii_letters, 16, 0.02),
    ],
)
def test_letters_at_random_are_seldom_words(letters: str, length: int, share: float) -> None:
    generator = random.Random(23)  # noqa: S311
    made = ["".join(generator.choices(letters, k=length)) for _ in range(5003)]
    assert sum(folded_segment(each) == each for each in made) < share * len(made)
