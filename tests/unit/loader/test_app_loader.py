from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loader import AppLoader, LoadError, parse_target, shadows

ROOT = Path(__file__).resolve().parents[3]
APP = "def app(environ, start_response):\n    return [b'x']\n"

Load = Callable[..., Any]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Write files, load a target there, leave nothing imported.

    `pkg__mod=` is the text of pkg/mod.py, `pkg__init=` that of pkg/__init__.py.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", sys.path[:])
    before = dict(sys.modules)
    for name in ("app", "shop", "tool"):
        sys.modules.pop(name, None)

    def run(target: str, **files: str) -> Any:
        write(tmp_path, **files)
        return AppLoader(parse_target(target), str(tmp_path)).load()

    yield run
    sys.modules.clear()
    sys.modules.update(before)


@pytest.fixture
def refusal(load: Load) -> Callable[..., str]:
    """Load what cannot be loaded; return the message."""

    def run(target: str, **files: str) -> str:
        with pytest.raises(LoadError) as caught:
            load(target, **files)
        text = str(caught.value)
        assert text.startswith(f"cannot load {target}: ")
        # What the application's own code raised comes with a traceback, and another status.
        assert caught.value.exit_status == (3 if "\n" in text else 2)
        assert "importlib" not in text
        assert str(ROOT / "loader") not in text
        return text

    return run


def write(directory: Path, **files: str) -> None:
    for name, text in files.items():
        path = directory / f"{name.removesuffix('__init').replace('__', '/')}.py"
        if name.endswith("__init"):
            path = path.with_suffix("") / "__init__.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


Refusal = Callable[..., str]


def test_a_module_of_the_directory_is_imported_and_its_callable_returned(load: Load) -> None:
    assert load("app:app", app=APP)({}, None) == [b"x"]


def test_dotted_modules_and_attributes_are_followed(load: Load) -> None:
    source = "class site:\n    class inner:\n        app = staticmethod(lambda e, s: 'deep')\n"
    assert load("shop.web:site.inner.app", shop__web=source)({}, None) == "deep"


def test_a_factory_is_called_and_its_product_returned(load: Load) -> None:
    source = f"{APP}def make(debug=False, *args, **more):\n    return app\n"
    assert load("app:make()", app=source)({}, None) == [b"x"]


def test_a_factory_may_be_a_class_or_a_method(load: Load) -> None:
    source = (
        "class Site:\n"
        "    def __call__(self, environ, start_response): return 'site'\n"
        "    @classmethod\n"
        "    def make(cls): return cls()\n"
    )
    assert load("app:Site()", app=source)({}, None) == "site"
    assert load("app:Site.make()")({}, None) == "site"


@pytest.mark.parametrize(
    "source",
    [
        "class app:\n    def __init__(self, environ, start_response): pass\n",  # PEP 3333's own
        "def app(*args): pass",
        "def app(environ, start_response, more=None): pass",
        "import functools\ndef a(x, e, s): pass\napp = functools.partial(a, 1)",
        "class A:\n    def __call__(self, e, s): pass\napp = A()",
        "app = max",  # no readable signature: believed
        "from werkzeug.local import LocalProxy\napp = LocalProxy(lambda: undefined)",
    ],
)
def test_every_callable_of_two_arguments_will_do(load: Load, source: str) -> None:
    assert callable(load("app:app", app=source))


def test_the_directory_comes_first_and_becomes_the_current_one(load: Load, tmp_path: Path) -> None:
    below = tmp_path / "below"
    write(below, app="import os, tool\napp = tool.app\nhere = os.getcwd()\n", tool=APP)
    load_there = AppLoader(parse_target("app:app"), "below").load
    assert load_there()({}, None) == [b"x"]  # type: ignore[arg-type]
    assert sys.path[0] == str(below) == os.getcwd() == sys.modules["app"].here
    assert sys.path.count(str(below)) == 1


def test_loading_twice_puts_the_directory_on_the_path_once(load: Load, tmp_path: Path) -> None:
    load("app:app", app=APP)
    load("app:app")
    assert sys.path.count(str(tmp_path)) == 1


def test_a_directory_that_is_gone_is_said(load: Load, tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"cannot go to .*/gone: No such file"):
        AppLoader(parse_target("app:app"), str(tmp_path / "gone")).load()


def test_no_such_module(refusal: Refusal, tmp_path: Path) -> None:
    text = refusal("web:app")
    assert f"there is no module web in {tmp_path}" in text
    assert "--chdir DIR" in text
    assert "\n" not in text


def test_no_such_module_but_one_of_nearly_that_name(refusal: Refusal) -> None:
    assert "did you mean server:app?" in refusal("sever:app", server=APP)
    assert "did you mean package:app?" in refusal("pakage:app", package__init=APP)


def test_no_such_module_but_in_a_directory_below(refusal: Refusal) -> None:
    assert "but in src/: add --chdir src" in refusal("web:app", src__web=APP)


def test_no_such_module_in_a_package(refusal: Refusal) -> None:
    files = {"shop__init": "", "shop__server": APP}
    assert "no module shop.sever in" in refusal("shop.sever:app", **files)
    assert "did you mean shop.server:app?" in refusal("shop.sever:app")


def test_no_such_module_in_a_package_without_init(refusal: Refusal) -> None:
    assert "did you mean shop.server:app?" in refusal("shop.sever:app", shop__server=APP)


def test_no_such_package(refusal: Refusal) -> None:
    text = refusal("shpo.web:app", shop__init="", shop__web=APP)
    assert "there is no module shpo in" in text
    assert "did you mean shop.web:app?" in text


def test_a_module_is_no_package(refusal: Refusal) -> None:
    text = refusal("app.web:app", app=APP)
    assert "app is a module, not a package: there is no app.web in it" in text


def test_a_module_that_the_application_misses_is_told_from_the_application(
    refusal: Refusal, tmp_path: Path
) -> None:
    text = refusal("app:app", app="import no_such_library\n")
    first, *rest = text.splitlines()
    assert f"it imports no_such_library, which {sys.executable} does not find" in first
    assert rest == [
        "Traceback (most recent call last):",
        f'  File "{tmp_path}/app.py", line 1, in <module>',
        "    import no_such_library",
        "ModuleNotFoundError: No module named 'no_such_library'",
    ]


def test_a_package_that_misses_its_own_part_is_not_taken_for_missing(refusal: Refusal) -> None:
    text = refusal("shop.web:app", shop__init="import shop.web\n")
    assert "it imports shop.web" in text
    assert "shop/__init__.py" in text


def test_an_import_error_inside_comes_with_the_applications_traceback(
    refusal: Refusal, tmp_path: Path
) -> None:
    text = refusal("app:app", app="import tool\n", tool="from os import no_such_name\n")
    assert "importing it raised ImportError\n" in text
    assert f'File "{tmp_path}/app.py", line 1' in text
    assert f'File "{tmp_path}/tool.py", line 1' in text
    assert text.splitlines()[-1].startswith("ImportError: cannot import name 'no_such_name'")


def test_an_exception_while_importing_comes_with_its_causes(refusal: Refusal) -> None:
    source = (
        "try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise RuntimeError('no') from e\n"
    )
    text = refusal("app:app", app=source)
    assert "importing it raised RuntimeError\n" in text
    assert "ZeroDivisionError" in text
    assert "direct cause" in text
    assert text.endswith("RuntimeError: no")


def test_an_exception_group_is_shown_whole(refusal: Refusal) -> None:
    text = refusal(
        "app:app", app="raise ExceptionGroup('both', [ValueError('a'), KeyError('b')])\n"
    )
    assert "ValueError: a" in text
    assert "KeyError: 'b'" in text


def test_a_syntax_error_is_shown_with_its_place(refusal: Refusal, tmp_path: Path) -> None:
    text = refusal("app:app", app="x = 1\ndef app(:\n")
    assert "Python cannot read it\n" in text
    assert f'File "{tmp_path}/app.py", line 2' in text
    assert "    def app(:" in text
    assert "SyntaxError: " in text


def test_a_syntax_error_deeper_inside_says_who_imported_it(refusal: Refusal) -> None:
    text = refusal("app:app", app="import tool\n", tool="def\n")
    assert "app.py" in text
    assert "tool.py" in text


def test_a_module_that_ends_the_program_is_an_error(refusal: Refusal) -> None:
    text = refusal("app:app", app="import sys\nsys.exit(3)\n")
    assert "it ended the program while it was imported (status 3)" in text
    assert "if __name__ == '__main__'" in text
    assert 'app.py", line 2' in text


@pytest.mark.parametrize("target", ["app:app", "app:make()"])
def test_an_interrupt_passes_through(load: Load, target: str) -> None:
    source = (
        "raise KeyboardInterrupt" if target == "app:app" else "def make(): raise KeyboardInterrupt"
    )
    with pytest.raises(KeyboardInterrupt):
        load(target, app=source)


def test_no_such_attribute_with_the_nearest_names(refusal: Refusal) -> None:
    text = refusal("app:aplication", app=APP.replace("app", "application"))
    assert "app has no 'aplication': did you mean app:application?" in text
    assert "\n" not in text


def test_no_such_attribute_of_an_attribute(refusal: Refusal) -> None:
    source = "class Site:\n    def serve(self, e, s): pass\nsite = Site()\n"
    assert "app:site has no 'srve': did you mean app:site.serve?" in refusal(
        "app:site.srve", app=source
    )


def test_no_such_attribute_but_a_factory(refusal: Refusal) -> None:
    text = refusal("app:web", app="def create_app(): pass\n")
    assert "app has no 'web': did you mean 'app:create_app()'?" in text


def test_no_such_attribute_and_nothing_near_lists_what_there_is(refusal: Refusal) -> None:
    source = "from json import loads\nx = 3\n_hid = print\ndef zulu(): pass\ndef yankee(): pass\n"
    assert refusal("app:app", app=source).endswith("app has no 'app'; it has yankee, zulu, loads")


def test_no_such_attribute_in_a_module_without_callables(refusal: Refusal) -> None:
    assert "nothing else that could be called" in refusal("app:web", app="x = 1\n")


def test_a_module_that_refuses_by_itself_is_no_fault(refusal: Refusal) -> None:
    source = f"{APP}def __getattr__(name):\n    raise AttributeError(name)\n"
    text = refusal("app:ap", app=source)
    assert "did you mean app:app?" in text
    assert "Traceback" not in text


def test_an_attribute_that_fails_is_the_applications_fault(refusal: Refusal) -> None:
    source = "def __getattr__(name):\n    return make()\ndef make():\n    return None.site\n"
    assert "looking up web raised AttributeError\nTraceback" in refusal("app:web", app=source)
    source = "class Lazy:\n    @property\n    def web(self):\n        return 1 / 0\nlazy = Lazy()\n"
    assert "looking up web raised ZeroDivisionError" in refusal("tool:lazy.web", tool=source)


@pytest.mark.parametrize(
    ("source", "kind"), [("app = 'text'", "str"), ("app = None", "NoneType"), ("app = 3", "int")]
)
def test_what_is_not_callable_is_named_by_its_type(
    refusal: Refusal, source: str, kind: str
) -> None:
    assert f"it is of type {kind}, not a callable" in refusal("app:app", app=source)


def test_a_module_in_place_of_a_callable_points_inside(refusal: Refusal) -> None:
    files = {"shop__init": "from shop import web\n", "shop__web": APP}
    text = refusal("shop:web", **files)
    assert "it is a module, not a callable: did you mean shop.web:app?" in text


def test_a_factory_without_its_parentheses_is_recognised(refusal: Refusal) -> None:
    text = refusal("app:make", app="def make(): pass\n")
    assert "looks like a factory: did you mean 'app:make()'?" in text


def test_a_callable_of_other_arguments_is_refused(refusal: Refusal) -> None:
    text = refusal("app:view", app="def view(request): pass\n")
    assert "it takes (request), but a WSGI application takes (environ, start_response)" in text


@pytest.mark.parametrize(
    "source",
    [
        "async def app(scope, receive, send): pass",
        "class A:\n    async def __call__(self, scope, receive, send): pass\napp = A()",
    ],
)
def test_an_asgi_application_is_recognised(refusal: Refusal, source: str) -> None:
    assert "an ASGI application (async); this server speaks WSGI" in refusal("app:app", app=source)


def test_exceptions_are_no_candidates_and_builtin_types_are_factories_too(
    refusal: Refusal, load: Load
) -> None:
    source = "class AppError(Exception): pass\n"
    assert "nothing else that could be called" in refusal("app:app", app=source)
    assert "the factory returned a dict" in refusal("tool:make()", tool="make = dict\n")


def test_a_directory_that_cannot_be_read_has_no_names_to_offer() -> None:
    assert shadows.modules_of("/no/such/directory") == []


def test_a_factory_that_raises_comes_with_its_traceback(refusal: Refusal, tmp_path: Path) -> None:
    text = refusal("app:make()", app="def make():\n    raise LookupError('no database')\n")
    assert text.splitlines()[1:] == [
        "Traceback (most recent call last):",
        f'  File "{tmp_path}/app.py", line 2, in make',
        "    raise LookupError('no database')",
        "LookupError: no database",
    ]
    assert "the factory raised LookupError\n" in text


def test_a_factory_that_ends_the_program_is_an_error(refusal: Refusal) -> None:
    assert "the factory ended the program (status 1)" in refusal(
        "app:make()", app="def make():\n    raise SystemExit(1)\n"
    )


def test_a_factory_that_wants_arguments_says_which(refusal: Refusal) -> None:
    text = refusal("app:make()", app="def make(config, debug=False, *, name): pass\n")
    assert "the factory wants arguments (config, name), but is called without any" in text


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def make(): pass", "the factory returned None, not a WSGI application (is a `return`"),
        ("def make(): return 3", "the factory returned an int, not a WSGI application"),
        ("async def make(): pass", "the factory returned a coroutine, not a WSGI application"),
        ("make = 'text'", "app:make is a str, not a factory: serve app:make itself?"),
        ("def make(): return lambda: 1", "what the factory returned will not do: it takes no"),
    ],
)
def test_a_factory_that_makes_no_application_is_refused(
    refusal: Refusal, source: str, words: str
) -> None:
    assert words in refusal("app:make()", app=source)


def test_a_module_hidden_by_one_of_the_same_name_is_found_out(
    refusal: Refusal, tmp_path: Path
) -> None:
    text = refusal("string:app", string=APP)
    assert "another module string was imported before it" in text
    assert f"rename {tmp_path}/string.py" in text


def test_an_application_may_have_modules_of_our_names(tmp_path: Path) -> None:
    """Its `main.py` above all: the installed command's own module is called so too."""
    write(tmp_path, main="import loader, spm\napp = loader.app\n", loader=APP, spm__init="")
    program = (
        "import sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import types; ours = sys.modules['main'] = types.ModuleType('main')\n"
        "ours.__file__ = '/usr/bin/main.py'\n"
        "import loader as ours, loader.logs\n"
        f"app = ours.AppLoader(ours.parse_target('main:app'), {str(tmp_path)!r}).load()\n"
        "assert app({}, None) == [b'x']\n"
        "assert sys.modules['loader'] is not ours and 'loader.logs' not in sys.modules\n"
        "ours.logs.configure()\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=30)


def test_modules_of_ours_that_the_application_has_none_of_stay(load: Load) -> None:
    ours = sys.modules["loader"]
    load("app:app", app=APP)
    assert sys.modules["loader"] is ours
