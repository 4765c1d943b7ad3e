from __future__ import annotations

import pytest

from loader import TcpBind, UnixBind, UsageError
from loader.bind import parse_bind, parse_binds, parse_port


@pytest.mark.parametrize(
    ("text", "bind"),
    [
        ("127.0.0.1:8080", TcpBind("127.0.0.1", 8080)),
        ("localhost:0", TcpBind("localhost", 0)),
        ("my-host.example.org:80", TcpBind("my-host.example.org", 80)),
        ("web_1:65535", TcpBind("web_1", 65535)),
        ("[::1]:8080", TcpBind("::1", 8080)),
        ("[::]:80", TcpBind("::", 80)),
        ("[fe80::1%eth0]:80", TcpBind("fe80::1%eth0", 80)),
        (":8000", TcpBind("0.0.0.0", 8000)),
        ("*:8000", TcpBind("0.0.0.0", 8000)),
        (" 0.0.0.0:80 ", TcpBind("0.0.0.0", 80)),
        ("unix:/run/app.sock", UnixBind("/run/app.sock")),
        ("unix:/tmp/a:b,c", UnixBind("/tmp/a:b,c")),
    ],
)
def test_every_form_of_an_address_is_understood(text: str, bind: TcpBind | UnixBind) -> None:
    assert parse_bind(text) == bind
    assert parse_bind(str(bind)) == bind


def test_a_relative_socket_path_becomes_absolute(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(str(tmp_path))
    assert parse_bind("unix:app.sock") == UnixBind(f"{tmp_path}/app.sock")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "port is missing: 127.0.0.1:8080"),
        ("localhost", "port is missing: localhost:8080"),
        ("[::1]", "port is missing: [::1]:8080"),
        ("8080", "127.0.0.1:8080 is for this machine only, :8080 for all"),
        ("localhost:http", "'http' is not a port"),
        ("localhost:", "'' is not a port"),
        ("localhost:65536", "'65536' is not a port"),
        ("localhost:-1", "'-1' is not a port"),
        ("localhost:٣", "is not a port"),
        ("::1:8080", "in brackets: [::1]:8080"),
        ("::1", "in brackets: [::1]:8080"),
        ("[::g]:80", "'::g' is not an IPv6 address"),
        ("[localhost]:80", "'localhost' is not an IPv6 address"),
        ("256.1.1.1:80", "'256.1.1.1' is not an IPv4 address"),
        ("127.1:80", "'127.1' is not an IPv4 address"),
        ("http://localhost:80", "no scheme"),
        ("my host:80", "neither a host name nor an address"),
        ("-x:80", "neither a host name nor an address"),
        ("a:1,b:2", "give --bind once for each"),
        ("unix:", "say where the socket shall be"),
        ("unix:/run/", "say where the socket shall be"),
        ("unix:/" + "x" * 107, "too long for a unix socket; 107 bytes at most"),
        ("/run/app.sock", "written unix:/run/app.sock"),
    ],
)
def test_a_wrong_address_is_answered_with_the_remedy(text: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_bind(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_socket_path_of_just_the_right_length_is_taken() -> None:
    path = "/" + "x" * 106
    assert parse_bind(f"unix:{path}") == UnixBind(path)


def test_a_list_of_addresses_is_separated_by_commas() -> None:
    assert parse_binds("127.0.0.1:1, [::1]:2,unix:/a,") == (
        TcpBind("127.0.0.1", 1),
        TcpBind("::1", 2),
        UnixBind("/a"),
    )


def test_port_zero_is_a_port() -> None:
    assert parse_port("0") == 0
