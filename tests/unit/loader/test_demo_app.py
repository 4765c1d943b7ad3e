from __future__ import annotations

import hashlib
import io
import logging
import os
import re
from wsgiref.validate import validator

import pytest
from werkzeug.test import Client

import app as demo


@pytest.fixture
def client() -> Client:
    return Client(demo.make())


def test_the_module_offers_an_application_a_factory_and_a_bare_callable() -> None:
    assert callable(demo.app)
    assert demo.make() is not demo.make()
    answer = Client(validator(demo.hello)).get("/")
    assert (answer.status, answer.text) == ("200 OK", "Hello, World!\n")
    assert answer.headers["Content-Length"] == "14"
    answer.close()


def test_the_page_links_to_routes_that_exist(client: Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.mimetype == "text/html"
    links = re.findall(r'href="([^"]+)"', page.text)
    assert len(links) == 7
    for link in links:
        if link != "/error":
            assert client.get(link.replace("200", "0")).status_code == 200


def test_the_page_needs_nothing_from_elsewhere(client: Client) -> None:
    page = client.get("/").text
    assert not re.search(r"(src|href)=\"(https?:)?//|@import|url\(", page)
    assert "prefers-color-scheme: dark" in page
    assert "{{" not in page


def test_json_is_json(client: Client) -> None:
    assert client.get("/json").json == {"message": "Hello, World!", "server": ""}


@pytest.mark.parametrize("route", ["/sleep?ms=0", "/sleep?ms=1", "/cpu?ms=0", "/cpu?ms=1"])
def test_waiting_and_computing_answer_with_text(client: Client, route: str) -> None:
    answer = client.get(route)
    assert answer.status_code == 200
    assert answer.mimetype == "text/plain"


@pytest.mark.parametrize(
    "route", ["/sleep?ms=x", "/sleep?ms=-1", "/cpu?ms=60001", "/cpu?ms=", "/stream?n=1.5"]
)
def test_a_value_that_cannot_be_used_is_a_400_in_plain_text(client: Client, route: str) -> None:
    answer = client.get(route)
    assert answer.status_code == 400
    assert answer.mimetype == "text/plain"
    assert "give a whole number from 0 to" in answer.text


def test_the_stream_comes_in_pieces(client: Client) -> None:
    answer = client.get("/stream?n=3&ms=0")
    pieces = list(answer.iter_encoded())
    assert pieces == [b"piece 1 of 3\n", b"piece 2 of 3\n", b"piece 3 of 3\n"]
    assert "Content-Length" not in answer.headers


def test_a_body_is_counted_and_hashed(client: Client) -> None:
    body = os.urandom(200_000)
    answer = client.post("/upload", data=body)
    assert answer.json == {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    assert client.post("/upload").json["bytes"] == 0


def test_the_files_of_a_form_are_counted_and_hashed(client: Client) -> None:
    answer = client.post("/upload", data={"file": (io.BytesIO(b"abc"), "a.txt"), "note": "x"})
    assert answer.json == {
        "files": [
            {
                "name": "file",
                "filename": "a.txt",
                "bytes": 3,
                "sha256": hashlib.sha256(b"abc").hexdigest(),
            }
        ]
    }


def test_upload_offers_a_form(client: Client) -> None:
    assert 'enctype="multipart/form-data"' in client.get("/upload").text


def test_an_error_is_a_500_without_the_traceback(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL + 1):
        answer = client.get("/error")
    assert answer.status_code == 500
    assert "RuntimeError" not in answer.text


def test_whoami_names_process_and_thread(client: Client) -> None:
    answer = client.get("/whoami").json
    assert answer["pid"] == os.getpid()
    assert {"thread", "thread_id", "python", "parent_pid"} <= set(answer)
