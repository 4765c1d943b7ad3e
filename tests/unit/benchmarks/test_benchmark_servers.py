"""The commands of the peers, and what is said of those that cannot run or have no turn."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from benchmarks import apache, mixed_app
from benchmarks.scenarios import SCENARIOS
from benchmarks.server import ROOT
from benchmarks.servers import SERVERS, ours

BY_NAME = {server.name: server for server in SERVERS}
SCENARIO = {scenario.name: scenario for scenario in SCENARIOS}


def test_a_server_gets_the_option_that_a_scenario_needs_and_only_there() -> None:
    fastpysgi = BY_NAME["fastpysgi"]
    assert "--max-content-length" in fastpysgi.argv(1, SCENARIO["upload"])
    assert "--max-content-length" not in fastpysgi.argv(1, SCENARIO["hello"])


def test_options_come_before_the_application_where_that_is_the_last_word() -> None:
    argv = BY_NAME["waitress"].argv(1, SCENARIO["idle"])
    assert argv[-1] == SCENARIO["idle"].app
    assert "--asyncore-use-poll" in argv[:-1]


def test_this_server_can_be_that_of_another_directory(tmp_path: Path) -> None:
    server = ours(tmp_path, "other")
    argv = server.argv(1, SCENARIO["hello"])
    assert argv[1] == str(tmp_path / "main.py")
    # The applications are this tree's: another tree's may lack some, or do something else.
    assert argv[argv.index("--chdir") + 1] == str(ROOT)
    assert server.version() == "unknown"


def test_every_need_of_a_scenario_is_known_to_someone() -> None:
    known = {need for server in SERVERS for need in (*server.options, *server.cannot)} | {"file"}
    assert {need for scenario in SCENARIOS for need in scenario.needs} == known


def test_a_scenario_with_waiting_says_what_is_ideal_where_it_can_be_said() -> None:
    assert SCENARIO["sleep"].ideal_rate == pytest.approx(64 / 0.010)
    assert SCENARIO["mixed"].body == mixed_app.QUICK_BODY


def test_apache_serves_what_its_configuration_says(tmp_path: Path) -> None:
    argv = apache.APACHE.argv(4711, SCENARIO["post"], tmp_path)
    assert argv[1] == "-DFOREGROUND"
    configuration = Path(argv[3]).read_text()
    assert "Listen 127.0.0.1:4711\n" in configuration
    assert "processes=1 threads=8 " in configuration
    assert "ServerLimit 34\n" in configuration
    script = (tmp_path / "served.wsgi").read_text()
    assert "from benchmarks.flask_app import app as application" in script


def test_apache_has_no_turn_where_each_connection_would_cost_a_process() -> None:
    assert apache.APACHE.unfit(SCENARIO["idle"])
    assert not apache.APACHE.unfit(SCENARIO["sleep"])


def test_the_python_of_a_module_is_read_out_of_it() -> None:
    assert apache.python_of(b"\0ELF..libpython3.11.so.1.0\0") == "3.11"
    assert apache.python_of(b"nothing") == ""


def test_a_mod_wsgi_for_another_python_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apache, "_program", lambda: "apache2")
    monkeypatch.setattr(apache, "_MODULE_DIRECTORIES", (str(tmp_path),))
    assert "mod_wsgi is not installed" in apache.APACHE.missing()
    (tmp_path / "mod_wsgi.so").write_bytes(b"libpython3.2")
    (tmp_path / "mod_mpm_prefork.so").touch()
    assert apache.APACHE.missing().startswith("mod_wsgi is for Python 3.2, this is 3.")


def test_the_version_of_a_peer_is_that_of_its_package() -> None:
    waitress = BY_NAME["waitress"]
    if waitress.missing():
        pytest.skip(waitress.missing())
    assert waitress.version() == importlib.metadata.version("waitress")
