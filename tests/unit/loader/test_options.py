from __future__ import annotations

import configparser
from pathlib import Path

import pytest

import loader
from loader import Options, StatusQuery, Target, TcpBind, UnixBind, UpgradeOrder, UsageError
from loader.cores import usable_cores
from loader.option_spec import OptionSpec
from loader.options import BY_NAME, OPTIONS, SECTIONS

ROOT = Path(__file__).resolve().parents[3]


def parse(*argv: str, **environ: str) -> Options:
    options = loader.parse(argv, environ, prog="smart-http")
    assert isinstance(options, Options)
    return options


def query(*argv: str, **environ: str) -> StatusQuery:
    found = loader.parse(("status", *argv), environ, prog="smart-http")
    assert isinstance(found, StatusQuery)
    return found


def refusal(*argv: str, **environ: str) -> str:
    with pytest.raises(UsageError) as caught:
        loader.parse(argv, environ, prog="smart-http")
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.exit_status == 2
    return text


@pytest.mark.parametrize(
    "argv",
    [
        ["--lode:app->app"],
        ["--lode:app:app"],
        ["--lode", "app->app"],
        ["--lode", "app:app"],
        ["--lode=app->app"],
        ["--lode=app:app"],
        ["app:app"],
        ["app->app"],
        ["--", "app:app"],
        ["app:app", "--lode:app->app"],
    ],
)
def test_every_way_to_name_the_application_means_the_same(argv: list[str]) -> None:
    assert parse(*argv).target == Target("app", ("app",))


def test_a_factory_and_dotted_names_come_through() -> None:
    target = Target("pkg.mod", ("maker", "make"), is_factory=True)
    assert parse("--lode:pkg.mod->maker.make()").target == target
    assert parse("pkg.mod:maker.make()").target == target


def test_the_application_can_come_from_the_environment() -> None:
    assert parse(SMART_HTTP_LODE="app->app").target == Target("app", ("app",))
    assert parse("x:y", SMART_HTTP_LODE="app->app").target == Target("x", ("y",))


def test_defaults_suit_a_laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = parse("app:app")
    assert options._asdict() == {
        **options._asdict(),
        "directory": str(tmp_path),
        "preload": True,
        "backlog": 2048,
        "min_workers": 1,
        "max_workers": max(4, 2 * usable_cores()),
        "min_threads": 1,
        "max_threads": 16,
        "max_streams": 256,
        "keep_alive_s": 75.0,
        "header_timeout_s": 15.0,
        "body_timeout_s": 30.0,
        "write_timeout_s": 60.0,
        "linger_timeout_s": 2.0,
        "min_rate": 240,
        "request_timeout_s": 0.0,
        "queue_timeout_s": 0.0,
        "worker_timeout_s": 30.0,
        "after_fork": None,
        "before_exit": None,
        "graceful_timeout_s": 30.0,
        "max_body_bytes": 1 << 30,
        "body_buffer_bytes": 512 << 10,
        "max_buffered_bytes": 128 << 20,
        "temporary_directory": None,
        "max_request_line_bytes": 8190,
        "max_header_bytes": 65536,
        "max_headers": 100,
        "max_trailer_bytes": 8192,
        "max_chunk_extension_bytes": 1024,
        "max_chunk_overhead_bytes": 65536,
        "max_connections": 10_000,
        "max_connections_per_address": 0,
        "refuse_underscores": False,
        "pass_connect": False,
        "log_level": "info",
        "access_log": None,
        "pid_file": None,
        "metrics_interval_s": 0.0,
        "check": False,
        "notices": (),
    }
    assert options.binds == (TcpBind("127.0.0.1", 8080),)


# A value for every option, other than its default, and what comes of it.
EVERY_OPTION = [
    ("chdir", "/", "directory", "/"),
    ("after-fork", "db:connect", "after_fork", Target("db", ("connect",))),
    ("before-exit", "db:pool.close", "before_exit", Target("db", ("pool", "close"))),
    ("bind", "[::1]:0", "binds", (TcpBind("::1", 0),)),
    ("port", "0", "binds", (TcpBind("127.0.0.1", 0),)),
    ("backlog", "64", "backlog", 64),
    ("min-workers", "3", "min_workers", 3),
    ("max-workers", "9", "max_workers", 9),
    ("min-threads", "2", "min_threads", 2),
    ("max-threads", "99", "max_threads", 99),
    ("max-streams", "0", "max_streams", 0),
    ("max-requests", "1000", "max_requests", 1000),
    ("max-age", "3600", "max_age_s", 3600.0),
    ("max-worker-memory", "256m", "max_worker_memory_bytes", 256 << 20),
    ("memory-limit", "2g", "memory_limit_bytes", 2 << 30),
    ("keep-alive", "0", "keep_alive_s", 0.0),
    ("header-timeout", "2.5", "header_timeout_s", 2.5),
    ("body-timeout", "7", "body_timeout_s", 7.0),
    ("write-timeout", "8", "write_timeout_s", 8.0),
    ("linger-timeout", "0.1", "linger_timeout_s", 0.1),
    ("min-rate", "2k", "min_rate", 2048),
    ("request-timeout", "30", "request_timeout_s", 30.0),
    ("queue-timeout", "1.5", "queue_timeout_s", 1.5),
    ("worker-timeout", "0", "worker_timeout_s", 0.0),
    ("graceful-timeout", "0.5", "graceful_timeout_s", 0.5),
    ("max-body", "0", "max_body_bytes", 0),
    ("body-buffer", "1m", "body_buffer_bytes", 1 << 20),
    ("max-buffered", "1g", "max_buffered_bytes", 1 << 30),
    ("temp-dir", "/tmp", "temporary_directory", "/tmp"),
    ("max-request-line", "64", "max_request_line_bytes", 64),
    ("max-header-bytes", "8k", "max_header_bytes", 8192),
    ("max-headers", "50", "max_headers", 50),
    ("max-trailer-bytes", "1k", "max_trailer_bytes", 1024),
    ("max-chunk-extension", "0", "max_chunk_extension_bytes", 0),
    ("max-chunk-overhead", "1m", "max_chunk_overhead_bytes", 1 << 20),
    ("max-connections", "1", "max_connections", 1),
    ("max-connections-per-address", "20", "max_connections_per_address", 20),
    ("underscore-headers", "Refuse", "refuse_underscores", True),
    ("connect", "pass", "pass_connect", True),
    ("log-level", "Warning", "log_level", "warning"),
    ("access-log", "-", "access_log", "-"),
    ("pid", "/smart-http.pid", "pid_file", "/smart-http.pid"),
    ("metrics-interval", "5", "metrics_interval_s", 5.0),
]
SWITCHES = [
    ("no-preload", "preload", False),
    ("reload", "reload", True),
    ("check", "check", True),
]


def test_the_examples_above_leave_no_option_out() -> None:
    named = {case[0] for case in EVERY_OPTION} | {case[0] for case in SWITCHES} | {"lode"}
    named |= {"reload-include"}  # not without --reload: test_watch
    named |= {"max-requests-jitter"}  # not without --max-requests: test_recycling_options
    assert named == {spec.name for spec in OPTIONS}


@pytest.mark.parametrize(("name", "text", "field", "value"), EVERY_OPTION)
def test_an_option_is_read_from_the_command_line_and_from_the_environment(
    name: str, text: str, field: str, value: object
) -> None:
    variable = BY_NAME[name].variable
    assert getattr(parse("app:app", f"--{name}", text), field) == value
    assert getattr(parse("app:app", f"--{name}={text}"), field) == value
    assert getattr(parse("app:app", **{variable: text}), field) == value
    assert getattr(parse("app:app", **{variable: f" {text} "}), field) == value


@pytest.mark.parametrize(("name", "text", "field", "value"), EVERY_OPTION)
def test_the_command_line_goes_before_the_environment(
    name: str, text: str, field: str, value: object
) -> None:
    # Not even the environment's value is looked at: it may be wrong.
    assert (
        getattr(parse("app:app", f"--{name}", text, **{BY_NAME[name].variable: "?"}), field)
        == value
    )


@pytest.mark.parametrize(("name", "field", "value"), SWITCHES)
def test_a_switch_is_read_from_the_command_line_and_from_the_environment(
    name: str, field: str, value: bool
) -> None:
    variable = BY_NAME[name].variable
    assert getattr(parse("app:app", f"--{name}"), field) is value
    assert getattr(parse("app:app", **{variable: "1"}), field) is value
    assert getattr(parse("app:app", **{variable: "off"}), field) is not value


def test_a_switch_in_the_environment_can_be_taken_back() -> None:
    assert parse("app:app", "--preload", SMART_HTTP_NO_PRELOAD="1").preload


@pytest.mark.parametrize("spec", [s for s in OPTIONS if s.name != "lode"], ids=lambda s: s.name)
def test_an_empty_variable_counts_as_not_set(spec: OptionSpec) -> None:
    assert parse("app:app", **{spec.variable: " "}) == parse("app:app")


def test_the_last_of_a_repeated_option_counts() -> None:
    assert parse("app:app", "--backlog", "1", "--backlog", "2").backlog == 2


def test_bind_can_be_repeated_and_is_a_list_in_the_environment() -> None:
    binds = (TcpBind("127.0.0.1", 1), UnixBind("/x.sock"))
    assert parse("app:app", "-b", "127.0.0.1:1", "--bind", "unix:/x.sock").binds == binds
    assert parse("app:app", SMART_HTTP_BIND="127.0.0.1:1,unix:/x.sock").binds == binds


def test_any_listening_option_of_the_command_line_goes_before_the_environment() -> None:
    assert parse("app:app", "--port", "1", SMART_HTTP_BIND="?").binds == (TcpBind("127.0.0.1", 1),)
    assert parse("app:app", "-b", ":1", SMART_HTTP_PORT="?").binds == (TcpBind("0.0.0.0", 1),)


def test_a_maximum_that_is_not_given_makes_room_for_the_minimum() -> None:
    options = parse("app:app", "--min-workers", "300", "--min-threads", "40")
    assert (options.max_workers, options.max_threads) == (300, 40)


@pytest.mark.parametrize(
    ("argv", "streams"),
    [
        ([], 256),
        (["--max-threads", "1"], 0),
        (["--max-threads", "2"], 256),
        (["--max-threads", "1", "--max-streams", "5"], 5),
        (["--max-streams", "0"], 0),
    ],
)
def test_an_application_that_wants_one_thread_gets_no_other_beside_it(
    argv: list[str], streams: int
) -> None:
    assert parse("app:app", *argv).max_streams == streams


def test_options_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        parse("app:app").check = True  # type: ignore[misc]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "say what to serve: '--lode:app->app' or app:app"),
        (["app"], "application 'app': say which callable: app:app"),
        (["--lode:app"], "--lode 'app': say which callable: app:app"),
        (["--lode:"], "--lode '': say what to serve"),
        (["--lode"], "option '--lode' requires an argument (see smart-http --help)"),
        (["a:b", "c:d"], "unexpected extra argument (c:d)"),
        (["a:b", "--lode:c->d"], "one application at a time, not both c:d and a:b"),
        (["app:app", "--port", "x"], "--port 'x': 'x' is not a port"),
        (["app:app", "--port", "--check"], "--port '--check'"),
        (["app:app", "-b", "80"], "--bind '80': a port alone"),
        (["app:app", "-b", ":1", "-b", ":1"], "--bind 0.0.0.0:1 is given twice"),
        (["app:app", "-b", ":1", "--port", "2"], "--port and --bind together: give only --bind"),
        (["app:app", "--max-workers", "0"], "--max-workers '0': out of range; give 1 to"),
        (
            ["app:app", "--min-workers", "3", "--max-workers", "2"],
            "--min-workers 3 is more than --max-workers 2",
        ),
        (
            ["app:app", "--min-threads", "3", "--max-threads", "2"],
            "--min-threads 3 is more than --max-threads 2",
        ),
        (["app:app", "--keep-alive", "soon"], "--keep-alive 'soon': not a number of seconds"),
        (["app:app", "--max-body", "lots"], "--max-body 'lots': not a size"),
        (["app:app", "--connect", "maybe"], "--connect 'maybe': no such choice; give refuse or"),
        (["app:app", "--temp-dir", "/none"], "--temp-dir '/none': there is no directory /none"),
        (["app:app", "--max-buffered", "1k"], "--max-buffered '1k': out of range; give 64k to"),
        (["app:app", "--max-connections", "0"], "--max-connections '0': out of range; give 1 to"),
        (["app:app", "--max-body"], "option '--max-body' requires an argument"),
        (["app:app", "--check=yes"], "option '--check' does not take a value"),
        (["app:app", "--pid", "--check"], "a file name was expected here"),
        (["app:app", "--max-boddy", "1"], "no such option --max-boddy: did you mean --max-body?"),
        (["app:app", "--workers", "4"], "no such option --workers: workers follow the load"),
        (["app:app", "-w", "4"], "no such option -w: workers follow the load"),
        (["app:app", "--host=0.0.0.0"], "no such option --host: host and port are one value"),
        (["--load:app->app"], "no such option --load: did you mean --lode?"),
        (["app:app", "--zzzzzz"], "no such option --zzzzzz: see smart-http --help"),
        (["--pid", "/x", "status"], "say which callable: status:app"),
        (["status", "app:app"], "unexpected extra argument (app:app)"),
        (["status", "--jsn"], "no such option --jsn: did you mean --json?"),
        (["status", "--pid", "x", "-b", ":1"], "--pid and --bind together"),
        (["status", "-b", "80"], "--bind '80': a port alone"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_remedy(argv: list[str], words: str) -> None:
    assert words in refusal(*argv)


def test_no_two_addresses_are_the_same_unless_the_kernel_chooses_the_port() -> None:
    assert len(parse("app:app", "-b", "127.0.0.1:0", "-b", "127.0.0.1:0").binds) == 2


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"SMART_HTTP_PORT": "x"}, "SMART_HTTP_PORT 'x': 'x' is not a port"),
        ({"SMART_HTTP_PORT": "tcp://10.0.0.1:80"}, "enableServiceLinks: false"),
        ({"SMART_HTTP_PORT": "1", "SMART_HTTP_BIND": ":2"}, "SMART_HTTP_PORT and SMART_HTTP_BIND"),
        ({"SMART_HTTP_BIND": ":1,8080"}, "SMART_HTTP_BIND ':1,8080': a port alone"),
        ({"SMART_HTTP_BIND": ","}, "SMART_HTTP_BIND ',': no address"),
        ({"SMART_HTTP_CHECK": "perhaps"}, "SMART_HTTP_CHECK 'perhaps': neither yes nor no"),
        ({"SMART_HTTP_MAX_BODY": "1x"}, "SMART_HTTP_MAX_BODY '1x': not a size"),
        (
            {"SMART_HTTP_MIN_WORKERS": "9", "SMART_HTTP_MAX_WORKERS": "2"},
            "SMART_HTTP_MAX_WORKERS 2",
        ),
    ],
)
def test_an_error_in_the_environment_names_the_variable(
    environ: dict[str, str], words: str
) -> None:
    assert words in refusal("app:app", **environ)


def test_minimum_and_maximum_are_compared_across_sources() -> None:
    words = refusal("app:app", "--min-workers", "9", SMART_HTTP_MAX_WORKERS="2")
    assert "--min-workers 9 is more than SMART_HTTP_MAX_WORKERS 2" in words


def test_an_application_in_the_environment_cannot_have_been_cut_by_a_shell() -> None:
    assert "SMART_HTTP_LODE 'app-'" in refusal(SMART_HTTP_LODE="app-")


def test_a_misspelt_variable_is_noticed() -> None:
    (notice,) = parse("app:app", SMART_HTTP_MAX_WORKRES="3").notices
    assert "SMART_HTTP_MAX_WORKRES" in notice
    assert "did you mean SMART_HTTP_MAX_WORKERS?" in notice


def test_other_variables_with_the_prefix_are_left_alone() -> None:
    # Kubernetes sets these for a service called smart-http.
    assert parse(
        "app:app", SMART_HTTP_SERVICE_HOST="10.0.0.1", SMART_HTTP_PORT_80_TCP="x"
    ) == parse("app:app")


def test_status_asks_the_default_address_unless_told_otherwise() -> None:
    assert query() == StatusQuery(json=False)
    assert query("--json").json
    assert query("-b", ":1") == StatusQuery(json=False, bind=TcpBind("0.0.0.0", 1))
    assert query("--pid", "/x.pid") == StatusQuery(json=False, pid_file="/x.pid")
    assert query("--control", "/x.sock") == StatusQuery(json=False, control="/x.sock")


def test_status_finds_the_server_by_the_servers_own_environment() -> None:
    assert query(SMART_HTTP_PID="/x.pid", SMART_HTTP_PORT="1") == StatusQuery(False, "/x.pid")
    assert query(SMART_HTTP_PORT="1") == StatusQuery(False, bind=TcpBind("127.0.0.1", 1))
    assert query("--control", "/x", SMART_HTTP_PID="/x.pid") == StatusQuery(False, control="/x")
    assert "SMART_HTTP_BIND" in refusal("status", SMART_HTTP_BIND="?")


def test_upgrade_finds_the_server_as_status_does() -> None:
    def order(*argv: str, **environ: str) -> object:
        return loader.parse(("upgrade", *argv), environ, prog="smart-http")

    assert order() == UpgradeOrder()
    assert order("-b", ":1") == UpgradeOrder(bind=TcpBind("0.0.0.0", 1))
    assert order("--pid", "/x.pid") == UpgradeOrder(pid_file="/x.pid")
    assert order("--control", "/x.sock") == UpgradeOrder(control="/x.sock")
    assert order(SMART_HTTP_PID="/x.pid", SMART_HTTP_PORT="1") == UpgradeOrder("/x.pid")
    assert order(SMART_HTTP_PORT="1") == UpgradeOrder(bind=TcpBind("127.0.0.1", 1))
    assert "--pid and --bind together" in refusal("upgrade", "--pid", "x", "-b", ":1")
    assert "no such option --json" in refusal("upgrade", "--json")


def printed(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        loader.parse(argv, {}, prog="smart-http")
    assert caught.value.code == 0
    text = capsys.readouterr()
    assert text.err == ""
    return text.out


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["app:app", "--help"], ["--port", "x", "-h"]])
def test_help_names_every_option_with_its_default(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capsys, *argv)
    for spec in OPTIONS:
        assert f"{spec.flag} {spec.metavar}".rstrip() in text
    joined = " ".join(text.split())
    unbroken = "".join(text.split())  # a default may stand on two lines
    for spec in OPTIONS:
        if spec.metavar and spec.shown_default():
            assert f"[{spec.shown_default()}]".replace(" ", "") in unbroken
    for section in SECTIONS:
        assert f"{section}:\n" in text
    for word in ("Usage:", "'--lode:app->app'", "SMART_HTTP_MAX_BODY", "smart-http status"):
        assert word in joined


def test_help_fits_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert max(map(len, printed(capsys, "--help").splitlines())) <= 80


def test_status_has_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "status", "--help")
    for word in ("--json", "--pid FILE", "--control PATH", "--bind ADDRESS", "KillPending"):
        assert word in text


def test_upgrade_has_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "upgrade", "--help")
    for word in ("--pid FILE", "--control PATH", "--bind ADDRESS", "exit status is 1"):
        assert word in " ".join(text.split())


def test_version_is_the_one_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, "--version") == f"smart-http {loader.VERSION}\n"
    metadata = configparser.ConfigParser()
    metadata.read(ROOT / "setup.cfg")
    assert metadata["metadata"]["version"] in (loader.VERSION, "attr: loader.VERSION")


def test_the_program_is_named_as_it_was_called(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for called, shown in (
        ("/src/main.py", "python main.py"),
        ("/usr/bin/smart-http", "smart-http"),
    ):
        monkeypatch.setattr("sys.argv", [called])
        with pytest.raises(SystemExit):
            loader.parse(["--help"], {})
        assert capsys.readouterr().out.startswith(f"Usage: {shown} [OPTIONS]")


def test_the_report_shows_every_setting_and_where_it_comes_from() -> None:
    options = parse("app:app", "--port", "0", "--max-body", "2m", SMART_HTTP_MAX_THREADS="5")
    report = loader.check_report(options)
    rows = {line.split()[0]: line for line in report.splitlines() if line.startswith("  --")}
    assert set(rows) == {s.flag for s in OPTIONS} - {"--port", "--check"}
    assert rows["--lode"].split() == ["--lode", "app:app", "command", "line"]
    assert rows["--bind"].split() == ["--bind", "127.0.0.1:0", "command", "line"]
    assert rows["--max-body"].split() == ["--max-body", "2m", "command", "line"]
    assert "environment (SMART_HTTP_MAX_THREADS)" in rows["--max-threads"]
    assert rows["--keep-alive"].split() == ["--keep-alive", "75", "s", "default"]
    assert rows["--metrics-interval"].split() == ["--metrics-interval", "off", "default"]
    assert rows["--access-log"].split() == ["--access-log", "off", "default"]
    starts = {line.index("default") for line in rows.values() if line.endswith("default")}
    assert len(starts) == 1  # one column


@pytest.mark.parametrize(
    ("argv", "row"),
    [
        (["--no-preload"], ["--no-preload", "yes", "command", "line"]),
        (["--max-body", "0"], ["--max-body", "0", "command", "line"]),
        (["--min-rate", "0"], ["--min-rate", "0", "command", "line"]),
        (["--underscore-headers", "REFUSE"], ["--underscore-headers", "refuse", "command", "line"]),
        (["--connect", "pass"], ["--connect", "pass", "command", "line"]),
        (["--temp-dir", "/tmp"], ["--temp-dir", "/tmp", "command", "line"]),
        (["--request-timeout", "30"], ["--request-timeout", "30", "s", "command", "line"]),
        ([], ["--underscore-headers", "drop", "default"]),
        ([], ["--connect", "refuse", "default"]),
        ([], ["--temp-dir", "the", "system's", "default"]),
        ([], ["--request-timeout", "off", "default"]),
        ([], ["--max-connections-per-address", "off", "default"]),
        ([], ["--max-streams", "256", "default"]),
    ],
)
def test_the_report_shows_values_as_they_would_be_typed(argv: list[str], row: list[str]) -> None:
    report = loader.check_report(parse("app:app", *argv))
    assert row in [line.split() for line in report.splitlines()]


def test_the_table_for_the_readme_has_a_row_for_every_option() -> None:
    head, rule, *rows = loader.markdown_table().splitlines()
    assert len(rows) == len(OPTIONS)
    for line in (head, rule, *rows):
        assert line.replace("\\|", "").count("|") == 5
    for spec, row in zip(OPTIONS, rows, strict=True):
        assert f"`{spec.flag}" in row
        assert f"`{spec.variable}`" in row


@pytest.mark.parametrize("spec", OPTIONS, ids=lambda spec: spec.name)
def test_every_default_is_a_value_that_could_be_typed(spec: OptionSpec) -> None:
    if spec.default:
        spec.read(spec.default)
    assert spec.section in SECTIONS
    assert spec.help.endswith(".")


def test_every_field_of_the_options_has_its_option() -> None:
    fields = set(Options._fields) - {"notices", "sources"}
    assert fields == {spec.field for spec in OPTIONS if spec.field}
