"""Routes by rules and learned ones."""

from __future__ import annotations

import random

import pytest

from otel_netmon.analysis.routes import VARIETY_MAX, LearnedRoutes, RouteRules
from otel_netmon.config.routes import RouteRule, parse_rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("/", (None, None, "/")),
        ("GET /users/{id}", ("GET", None, "/users/{id}")),
        ("POST A.example/b/{rest...}", ("POST", "a.example", "/b/{rest...}")),
        ("a.example/", (None, "a.example", "/")),
    ],
)
def test_what_a_rule_says(text: str, rule: RouteRule) -> None:
    assert parse_rule(text) == rule


@pytest.mark.parametrize("text", ["", "GET", "/a{b}", "/{a}{b}", "/{rest...}/a", "/a?b", "GET /a b", "/{a", "/{{a}}"])
def test_what_is_no_rule(text: str) -> None:
    with pytest.raises(ValueError, match=r"route|placeholder|segment|query"):
        parse_rule(text)


RULES = RouteRules(
    map(
        parse_rule,
        [
            "/",
            "/users/{id}",
            "/users/me",
            "GET /users/{id}/orders/{order}",
            "b.example/users/{name}",
            "/static/{file...}",
            "/static/logo.png",
            "/{tenant}/users/{id}",
        ],
    )
)


@pytest.mark.parametrize(
    ("method", "host", "path", "template"),
    [
        ("GET", None, "/", "/"),
        ("GET", "a.example", "/users/42", "/users/{id}"),
        ("GET", "a.example", "/users/me", "/users/me"),
        ("GET", "a.example", "/users/", None),
        ("GET", "a.example", "/users", None),
        ("GET", "a.example", "/users/1/orders/2", "/users/{id}/orders/{order}"),
        ("POST", "a.example", "/users/1/orders/2", None),
        ("GET", "a.example", "/static/a/b/c", "/static/{file...}"),
        ("GET", "a.example", "/static", "/static/{file...}"),
        ("GET", "a.example", "/static/logo.png", "/static/logo.png"),
        ("GET", "a.example", "/static/users/7", "/static/{file...}"),
        ("GET", "a.example", "/blue/users/7", "/{tenant}/users/{id}"),
        ("GET", "a.example", "//users/7", None),
    ],
)
def test_rules(method: str, host: str | None, path: str, template: str | None) -> None:
    assert RULES.template(method, host, path) == template


def test_of_one_template_the_first_rule_that_fits_counts() -> None:
    rules = RouteRules(map(parse_rule, ["b.example/users/{name}", "/users/{id}", "/users/{other}"]))
    assert rules.template("GET", "b.example", "/users/7") == "/users/{name}"
    assert rules.template("GET", None, "/users/7") == "/users/{id}"


def test_many_alternatives_cost_no_more_than_there_are_rules() -> None:
    rules = RouteRules(map(parse_rule, ["/a/{b}/a/{d}" * 5, "/{a}/b" * 10, "/{a}/{b}" * 10]))
    assert rules.template("GET", None, "/a/b" * 10) == "/a/{b}/a/{d}" * 5
    assert rules.template("GET", None, "/c/b" * 10) == "/{a}/b" * 10
    assert rules.template("GET", None, "/a" * 1000) is None


def test_only_what_was_found_is_learned() -> None:
    routes = LearnedRoutes(100)
    assert routes.template("/users/42", was_found=False) is None
    assert routes.template("/users/42", was_found=True, number=3) == "/users/{number}"
    assert routes.template("/users/7", was_found=False) == "/users/{number}"
    assert routes.template("/users", was_found=False) is None
    assert routes.counts == {"/users/{number}": 4}
    assert routes.refused == 0


def test_a_place_of_many_words_is_one_of_values_and_stays_so() -> None:
    routes = LearnedRoutes(1000)
    words = [
        begin + end
        for begin in ("re", "in", "de", "pre", "con")
        for end in ("form", "tend", "serve", "fine", "cede", "side", "tain", "fer")
    ]
    assert len(words) > VARIETY_MAX
    for number, word in enumerate(words):
        made = routes.template(f"/shop/{word}/price", was_found=True)
        assert made == (f"/shop/{word}/price" if number < VARIETY_MAX else "/shop/{value}/price")
    assert routes.counts == {"/shop/{value}/price": len(words)}
    assert routes.template(f"/shop/{words[0]}/price", was_found=False) == "/shop/{value}/price"
    assert routes.template("/shop/entirely/new", was_found=False) is None
    assert routes.template("/other/price", was_found=True) == "/other/price"


def test_templates_are_bounded() -> None:
    routes = LearnedRoutes(17)
    generator = random.Random(29)  # noqa: S311
    words = ["user", "order", "item", "cart", "list", "test", "note", "page", "tag", "rule"]
    for _ in range(5003):
        routes.template("/" + "/".join(generator.choices(words, k=generator.randrange(1, 20))), was_found=True)
    assert len(routes.counts) <= 17
    assert sum(routes.counts.values()) + routes.refused == 5003


def test_another_process_goes_on() -> None:
    routes = LearnedRoutes(100)
    generator = random.Random(31)  # noqa: S311
    first = ["shop", "blog", "api"]
    second = [
        a + b
        for a in ("re", "in", "de", "pre", "con")
        for b in ("form", "tend", "serve", "fine", "cede", "side", "tain", "fer")
    ]
    paths = [f"/{generator.choice(first)}/{generator.choice(second)}/{generator.randrange(9)}" for _ in range(503)]
    for path in paths:
        routes.template(path, was_found=True)
    other = LearnedRoutes(100)
    other.restore(routes.state())
    assert other.counts == routes.counts
    for path in paths:
        assert other.template(path, was_found=False) == routes.template(path, was_found=False)
