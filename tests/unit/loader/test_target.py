from __future__ import annotations

import pytest

from loader import Target, UsageError, parse_target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("app->app", Target("app", ("app",))),
        ("app:app", Target("app", ("app",))),
        ("  app -> app ", Target("app", ("app",))),
        ("app : app", Target("app", ("app",))),
        ("pkg.mod->app", Target("pkg.mod", ("app",))),
        ("pkg.mod:obj.attribute.app", Target("pkg.mod", ("obj", "attribute", "app"))),
        ("app:make()", Target("app", ("make",), is_factory=True)),
        ("app->make()", Target("app", ("make",), is_factory=True)),
        ("pkg.mod:maker.make( )", Target("pkg.mod", ("maker", "make"), is_factory=True)),
        ("app:make ()", Target("app", ("make",), is_factory=True)),
        ("größe:über", Target("größe", ("über",))),
        ("_a1:_b2", Target("_a1", ("_b2",))),
    ],
)
def test_every_form_of_a_target_is_understood(text: str, target: Target) -> None:
    assert parse_target(text) == target


@pytest.mark.parametrize("text", ["app:app", "pkg.mod:a.b", "pkg.mod:make()"])
def test_the_text_of_a_target_reads_back_as_the_same_target(text: str) -> None:
    assert str(parse_target(text)) == text
    assert parse_target(str(parse_target(text))) == parse_target(text)


def test_quoted_is_the_form_for_a_shell() -> None:
    assert parse_target("pkg.mod:make()").quoted() == "'--lode:pkg.mod->make()'"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "say what to serve"),
        ("app", "say which callable: app:app"),
        ("pkg.web", "say which callable: pkg.web:app, or pkg:web"),
        ("app.py", "say which callable: app:app"),
        ("./app.py", "say which callable: app:app"),
        ("sub/web.py", "say which callable: sub.web:app"),
        ("app:", "say which callable: app:app"),
        ("app->", "say which callable: app:app"),
        ("./app.py:", "say which callable: app:app"),
        (":app", "say which module: app:app"),
        ("->serve", "say which module: app:serve"),
        ("app.py:serve", "not as a file: app:serve"),
        ("./app.py:serve", "not as a file: app:serve"),
        ("/srv/web/app.py->app", "not as a file: srv.web.app:app"),
        (".app:app", "without a dot in front: app:app"),
        ("..pkg.app:app", "without a dot in front: pkg.app:app"),
        ("my-app:app", "'my-app' cannot be the name of a Python module; write as in my_app:app"),
        ("class:app", "'class' cannot be the name of a Python module"),
        ("a..b:app", "'a..b' cannot be the name of a Python module"),
        ("app:my-app", "'my-app' cannot be the name of a callable"),
        ("app:lambda", "'lambda' cannot be the name of a callable"),
        ("app:a..b", "'a..b' cannot be the name of a callable"),
        ("app:()", "'()' cannot be the name of a callable; write as in app:app"),
        ("app:make('production')", "without arguments: app:make()"),
        ("app:make(", "without arguments: app:make()"),
        ("app:make()()", "without arguments: app:make()"),
        ("app->pkg:app", "one '->' or ':' is enough"),
        ("app:app->app", "one '->' or ':' is enough"),
        ("app-", "quote it: '--lode:app->app'"),
        ("---", "quote it: '--lode:app->app'"),
    ],
)
def test_a_wrong_target_is_answered_with_the_right_form(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_target(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    "text", ["app", "app.py:x", "my-app", "a/b/c.py", ".x:y", "app:a-b", "1:2"]
)
def test_the_form_that_is_offered_is_itself_a_right_one(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_target(text)
    assert parse_target(caught.value.message.rsplit(" ", 1)[1])
