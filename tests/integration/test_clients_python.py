"""The clients that Python programs use: requests, urllib3 and httpx, against the live server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apps.client_wire import WHOLE, digest, pieces
from tests.integration.conftest import Serve
from tests.integration.server_process import APPS, PATIENCE_S, ServerProcess

httpx = pytest.importorskip("httpx", reason="httpx is not installed (it is in the extra dev)")
requests = pytest.importorskip("requests", reason="requests is not installed (extra dev)")
urllib3 = pytest.importorskip("urllib3", reason="urllib3 is not installed (requests brings it)")

MAX_BODY = 32 << 20


@pytest.fixture(scope="module")
def server(serve_all: Serve) -> ServerProcess:
    """A server for all of the module's tests."""
    limits = ("--max-workers", "2", "--max-body", str(MAX_BODY))
    return serve_all("client_wire:app", *limits, chdir=APPS)


@pytest.fixture
def base(server: ServerProcess) -> str:
    """Where it is."""
    return "http://{}:{}".format(*server.address)


@pytest.fixture
def session() -> Iterator[Any]:
    """A session that takes no proxy or password from its surroundings."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


@pytest.fixture
def client(base: str) -> Iterator[Any]:
    """An httpx client, which does not either."""
    limits = httpx.Limits(max_connections=8, max_keepalive_connections=8)
    with httpx.Client(base_url=base, timeout=PATIENCE_S, trust_env=False, limits=limits) as client:
        yield client


def opened(session: Any) -> int:
    """Return how many connections a session has opened."""
    pools = session.get_adapter("http://").poolmanager.pools
    return sum(pools[key].num_connections for key in pools.keys())  # noqa: SIM118 - not iterable


# --- requests, urllib3 ---------------------------------------------------------------------


def test_a_session_keeps_one_connection(session: Any, base: str) -> None:
    for number in range(20):
        assert (
            session.get(f"{base}/any", params={"n": number}).json()["QUERY_STRING"] == f"n={number}"
        )
        assert session.post(f"{base}/form", data={"n": number}).json()["fields"] == {
            "n": [str(number)]
        }
        assert session.get(f"{base}/stream", params={"bytes": 1000}).content == b"".join(
            pieces(1000)
        )
        for path, status in (("missing", 404), ("empty", 204), ("moved", 200), ("tagged", 200)):
            assert session.get(f"{base}/{path}").status_code == status
        not_modified = session.get(f"{base}/tagged", headers={"If-None-Match": '"one"'})
        assert (not_modified.status_code, not_modified.content) == (304, b"")
        head = session.head(f"{base}/sized", params={"bytes": 12345})
        assert (head.headers["Content-Length"], head.content) == ("12345", b"")
    assert opened(session) == 1


def test_a_closing_response_is_followed_by_another_connection(session: Any, base: str) -> None:
    ports = []
    for _ in range(5):
        ports.append(session.get(f"{base}/any").json()["REMOTE_PORT"])
        closing = session.get(f"{base}/last")
        assert (closing.content, closing.headers["Connection"]) == (WHOLE, "close")
    assert len(set(ports)) == 5


def test_a_generator_is_uploaded_in_chunks(session: Any, base: str) -> None:
    for count in (0, 1, 70_000, 10 << 20):
        seen = session.put(f"{base}/upload", data=pieces(count)).json()
        assert (seen["bytes"], seen["digest"]) == (count, digest(pieces(count)))
    assert opened(session) == 1


def test_a_file_is_uploaded_with_its_length(session: Any, base: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"".join(pieces(10 << 20)))
    with path.open("rb") as file:
        seen = session.put(f"{base}/upload", data=file).json()
    assert (seen["length"], seen["digest"]) == (str(10 << 20), digest(pieces(10 << 20)))


def test_a_big_form_with_files_arrives(session: Any, base: str) -> None:
    first, second = b"".join(pieces(12 << 20)), b"".join(pieces(3_000_001))
    files = {
        "first": ("größe.bin", first, "application/x-one"),
        "second": ("b", second, "application/x-two"),
    }
    seen = session.post(f"{base}/form", data={"note": ["a", "é"]}, files=files).json()
    assert seen["fields"] == {"note": ["a", "é"]}
    assert seen["files"]["first"] == ["größe.bin", "application/x-one", digest([first])]
    assert seen["files"]["second"] == ["b", "application/x-two", digest([second])]


@pytest.mark.parametrize("view", ["sized", "stream", "file"])
def test_a_download_is_read_piece_by_piece(session: Any, base: str, view: str) -> None:
    count = (10 << 20) + 1
    for _ in range(2):
        with session.get(f"{base}/{view}", params={"bytes": count}, stream=True) as response:
            assert response.status_code == 200
            assert digest(response.iter_content(10_007)) == digest(pieces(count))
    assert opened(session) == 1


def test_a_download_that_is_left_harms_nobody(
    server: ServerProcess, session: Any, base: str
) -> None:
    for view in ("sized", "stream", "file"):
        with session.get(f"{base}/{view}", params={"bytes": 30 << 20}, stream=True) as response:
            assert next(response.iter_content(1000)) == b"".join(pieces(1000))
        assert session.get(f"{base}/whole").content == WHOLE
    del response  # which keeps the session's connections open
    session.close()
    server.eventually(lambda s: s["connections"] == 0 and s["busy_threads"] == 0)
    assert server.status()["errors"] == 0


@pytest.mark.parametrize("framing", ["sized", "chunked"])
def test_a_refusal_is_read_although_the_upload_has_not_ended(
    session: Any, base: str, framing: str, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    with path.open("wb") as file:
        file.truncate(4 * MAX_BODY)
    with path.open("rb") as file:
        sent = file if framing == "sized" else iter(lambda: file.read(1 << 16), b"")
        refused = session.put(f"{base}/upload", data=sent)
    assert refused.status_code == 413
    assert refused.headers["Connection"] == "close"
    assert session.get(f"{base}/whole").content == WHOLE


def test_a_response_that_breaks_off_is_seen_to(server: ServerProcess, base: str) -> None:
    with urllib3.PoolManager(retries=False, timeout=PATIENCE_S) as pool:
        with pytest.raises(urllib3.exceptions.ProtocolError):
            pool.request("GET", f"{base}/broken")
        assert pool.request("GET", f"{base}/whole").data == WHOLE


def test_chunks_are_read_by_urllib3(base: str) -> None:
    with urllib3.PoolManager(retries=False, timeout=PATIENCE_S) as pool:
        response = pool.request("GET", f"{base}/stream?bytes=1000000", preload_content=False)
        assert response.headers["Transfer-Encoding"] == "chunked"
        assert digest(response.read_chunked()) == digest(pieces(1_000_000))
        sent = pool.request("POST", f"{base}/upload", body=pieces(1_000_000), chunked=True)
        assert json.loads(sent.data)["digest"] == digest(pieces(1_000_000))
        assert pool.connection_from_url(base).num_connections == 1


# --- httpx ---------------------------------------------------------------------------------


def test_threads_share_a_pool_of_kept_connections(server: ServerProcess, client: Any) -> None:
    before = server.status()

    def converse(number: int) -> list[tuple[int, str, str]]:
        seen = []
        for turn in range(25):
            response = client.get("/any", params={"n": f"{number}-{turn}"})
            seen.append(
                (response.status_code, response.http_version, response.json()["QUERY_STRING"])
            )
            count = 1000 * number + turn
            assert client.get(f"/stream?bytes={count}").content == b"".join(pieces(count))
            sent = client.post("/upload", content=b"".join(pieces(count))).json()
            assert sent["digest"] == digest(pieces(count))
        return seen

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(converse, range(8)))
    for number, seen in enumerate(found):
        assert seen == [(200, "HTTP/1.1", f"n={number}-{turn}") for turn in range(25)]
    status = server.eventually(lambda s: s["requests"] >= before["requests"] + 600)
    assert status["requests"] == before["requests"] + 600
    assert status["errors"] == before["errors"]


def test_httpx_keeps_its_connection_over_every_kind_of_response(client: Any) -> None:
    ports = set()
    for _ in range(10):
        ports.add(client.get("/any").json()["REMOTE_PORT"])
        for path, status in (("missing", 404), ("empty", 204), ("moved", 303), ("whole", 200)):
            assert client.get(f"/{path}").status_code == status
            assert client.head(f"/{path}").status_code == status
        assert client.get("/tagged", headers={"If-None-Match": '"one"'}).status_code == 304
    assert len(ports) == 1


@pytest.mark.parametrize("view", ["sized", "stream", "file"])
def test_httpx_streams_a_download(client: Any, view: str) -> None:
    count = (5 << 20) + 3
    with client.stream("GET", f"/{view}?bytes={count}") as response:
        assert digest(response.iter_bytes()) == digest(pieces(count))


def test_httpx_streams_an_upload(client: Any) -> None:
    seen = client.put("/upload", content=pieces(5 << 20)).json()
    assert (seen["bytes"], seen["digest"]) == (5 << 20, digest(pieces(5 << 20)))
    files = {"up": ("name", b"".join(pieces(5 << 20)), "text/x")}
    assert client.post("/form", files=files).json()["files"]["up"][2] == digest(pieces(5 << 20))
