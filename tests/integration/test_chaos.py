"""Everything at once: loads that rise and fall while processes are killed, stopped and reloaded.

What is done is drawn from a seed, which is printed. Afterwards: every connection that broke
and every request that was lost was with a process that was killed; nothing was done
twice; the readout's counts are those of the clients and of the application's journal; no
process, descriptor or memory is left over.

    python -m tests.integration.test_chaos SECONDS [SEED [OPTION...]]

is for longer than a test may take, and for other options of the server (but not for other
numbers of workers, and with --no-preload a broken application may rightly end it).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.integration.chaos_clients import Clients, Kill
from tests.integration.server_process import APPS, ServerProcess, eventually

SECONDS: Final = 12.0
MIN_WORKERS: Final = 2
MAX_WORKERS: Final = 4
THREADS: Final = 2
CALM_CLIENTS: Final = 5
CLIENTS: Final = 22
# Back from the most workers to the fewest: the peak is remembered for 16 s at the longest.
FALL_S: Final = 45.0
LONGEST_STOP_S: Final = 0.6
MEMORY_TOLERANCE: Final = 6 << 20
_BROKEN: Final = "broken on purpose"


class Source:
    """The application's source, that can be broken and mended."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "changing.py"
        self.version = 0
        self.mend()

    def mend(self) -> None:
        """Write a version that works."""
        self.version += 1
        self._write(f"from chaos_target import make\n\napp = make({self.version})\n")

    def break_it(self) -> None:
        """Write a version that cannot be imported."""
        self._write(f"raise SystemExit({_BROKEN!r})\n")

    def _write(self, text: str) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(self.path)  # never half of it


class Chaos:
    """What is done to a server, drawn from a seed."""

    def __init__(self, server: ServerProcess, clients: Clients, source: Source, seed: int) -> None:
        self.kills: list[Kill] = []
        self.template_kills: list[Kill] = []
        self.done: Counter[str] = Counter()
        self._server = server
        self._clients = clients
        self._source = source
        self._chance = random.Random(seed)
        self._stopped: dict[int, float] = {}  # process -> when it goes on
        self._reloads_broken = False
        self._acts: dict[Callable[[], None], int] = {
            self._kill_worker: 4,
            self._kill_template: 1,
            self._stop_worker: 3,
            self._stop_template: 1,
            self._stop_manager: 1,
            self._reload: 2,
            self._break_and_reload: 1,
            self._rise: 5,
            self._fall: 5,
            self._breathe: 4,
        }

    def run(self, seconds: float) -> None:
        """Do it, for so long."""
        over_s = time.monotonic() + seconds
        acts = list(self._acts)
        while time.monotonic() < over_s:
            (act,) = self._chance.choices(acts, list(self._acts.values()))
            self.done[act.__name__.strip("_")] += 1
            act()
            pause_s = self._chance.choice((0.0, 0.01, 0.05, 0.2, 0.4))
            self._wait(pause_s)
        self.make_peace()

    def make_peace(self) -> None:
        """Let everybody go on, and the last version serve."""
        self._clients.active = CALM_CLIENTS
        for pid in list(self._stopped):
            self._go_on(pid)
        self._source.mend()
        self._server.send(signal.SIGHUP)

    def processes(self) -> tuple[list[int], list[int]]:
        """Return the templates and the workers that live."""
        manager = self._server.pid
        children = Path(f"/proc/{manager}/task/{manager}/children").read_text().split()
        templates = [pid for pid in self._server.group() if str(pid) in children]
        workers = [p for p in self._server.group() if p != manager and p not in templates]
        return templates, sorted(workers)

    def _wait(self, seconds: float) -> None:
        over_s = time.monotonic() + seconds
        while True:
            now_s = time.monotonic()
            for pid, until_s in list(self._stopped.items()):
                if until_s <= now_s:
                    self._go_on(pid)
            if now_s >= over_s:
                return
            time.sleep(min(0.01, over_s - now_s))

    def _kill(self, pid: int) -> Kill | None:
        before_s = time.monotonic()
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return None
        self._stopped.pop(pid, None)
        return Kill(pid, before_s, time.monotonic())

    def _kill_worker(self) -> None:
        workers = self.processes()[1]
        if workers and (kill := self._kill(self._chance.choice(workers))):
            self.kills.append(kill)

    def _kill_template(self) -> None:
        templates = self.processes()[0]
        if templates and (kill := self._kill(self._chance.choice(templates))):
            self.template_kills.append(kill)

    def _stop(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            self._stopped[pid] = time.monotonic() + self._chance.uniform(0.02, LONGEST_STOP_S)

    def _go_on(self, pid: int) -> None:
        del self._stopped[pid]
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def _stop_worker(self) -> None:
        if workers := self.processes()[1]:
            self._stop(self._chance.choice(workers))

    def _stop_template(self) -> None:
        if templates := self.processes()[0]:
            self._stop(self._chance.choice(templates))

    def _stop_manager(self) -> None:
        self._stop(self._server.pid)

    def _reload(self) -> None:
        self._source.mend()
        self._server.send(signal.SIGHUP)

    def _break_and_reload(self) -> None:
        self._source.break_it()
        self._server.send(signal.SIGHUP)
        self._wait(0.3)

    def _rise(self) -> None:
        self._clients.active = CLIENTS

    def _fall(self) -> None:
        self._clients.active = self._chance.randrange(1, CALM_CLIENTS + 1)

    def _breathe(self) -> None:
        """Few for as long as it takes to retire workers, then all, while these still leave."""
        self._fall()
        self._wait(self._chance.uniform(0.6, 1.0))
        self._rise()


@dataclasses.dataclass(frozen=True)
class Holdings:
    """What the processes of an idle server hold: files by role, and the manager's memory."""

    manager: Counter[str]
    template: Counter[str]
    worker: Counter[str]
    manager_uss: int

    @classmethod
    def of(cls, server: ServerProcess) -> Holdings:
        """Look. Workers must not differ in what they hold."""
        workers = [_files(pid) for pid in server.workers()]
        most = max(workers, key=lambda files: files.total())
        manager = _files(server.pid)
        return cls(manager, _files(server.template()), most, _private_bytes(server.pid))


def _files(pid: int) -> Counter[str]:
    """Return a process's open files by kind, numbers left out."""
    kinds: Counter[str] = Counter()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            kinds[re.sub(r"\d+", "N", os.readlink(entry))] += 1
    return kinds


def _private_bytes(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(map(int, re.findall(r"^Private_\w+: +(\d+) kB$", rollup, re.M)))


def settled(server: ServerProcess) -> dict[str, Any]:
    """Wait until an idle server is as small as it may be; return its readout."""
    return server.eventually(
        lambda s: (
            s["reload"] == "idle"
            and s["total"] == s["idle"] == MIN_WORKERS
            and s["connections"] == 0
            and len(server.group()) == 2 + MIN_WORKERS
        ),
        FALL_S,
    )


def journal_of(path: Path) -> dict[str, int]:
    """Return which process began which request. None may be begun twice."""
    lines = [line.split() for line in path.read_text().splitlines()]
    twice = [i for i, count in Counter(line[0] for line in lines).items() if count > 1]
    assert not twice, f"done twice: {twice}"
    return {identity: int(pid) for identity, pid in lines}


def unexplained(clients: Clients, chaos: Chaos, journal: dict[str, int]) -> Iterator[str]:
    """Yield the losses that no killed process has to answer for."""
    by_pid = {kill.pid: kill for kill in chaos.kills}
    for loss in clients.losses:
        # Of what was pipelined one request at the most was begun and has no answer.
        begun = [journal[identity] for identity in loss.identities if identity in journal]
        if begun and begun[0] not in by_pid:
            yield f"begun by {begun[0]}, which nobody killed: {loss}"
        kills = [by_pid[begun[0]]] if begun and begun[0] in by_pid else chaos.kills
        # Where a connection at rest is, only the server knows.
        if not any(loss.is_explained_by(kill) for kill in kills):
            yield f"no kill explains {loss}"


def check_counts(
    status: dict[str, Any], clients: Clients, chaos: Chaos, journal: dict[str, int], log: str
) -> None:
    """The readout, the journal and the clients say the same, but for what nobody can know."""
    for identity, pid in clients.answered.items():
        assert journal.get(identity) == pid, f"{identity} was answered by {pid}"
    assert set(journal) <= clients.sent
    lost = {i for loss in clients.losses for i in loss.identities}
    assert set(journal) <= set(clients.answered) | lost
    # A worker counts a request before the application writes it down: killed between the
    # two, it has begun one more, on each thread that it had.
    counted = status["requests"] + status["lost"]
    assert len(journal) <= counted <= len(journal) + THREADS * len(chaos.kills)
    assert status["lost"] <= THREADS * len(chaos.kills)
    # Without preload the broken application fails in each worker, and not in one template.
    assert status["restarts"] <= len(chaos.kills) + log.count(" died before it was ready")
    assert status["errors"] == 0
    assert sum(status["incidents"].values()) == 0, status["incidents"]


def check_log(log: str) -> None:
    """No exception but those of the broken application."""
    assert log.count("Traceback") == log.count(f"SystemExit: {_BROKEN}"), log
    assert "critical: " not in log


def run_chaos(
    server: ServerProcess, source: Source, journal: Path, seconds: float, seed: int
) -> str:
    """Do it to a server that has just started, and check what is left; return what was done."""
    before = Holdings.of(server)
    clients = Clients(server.address, CLIENTS, seed)
    chaos = Chaos(server, clients, source, seed)
    clients.active = CALM_CLIENTS
    clients.start()
    try:
        chaos.run(seconds)
        server.eventually(lambda s: s["reload"] == "idle", FALL_S)
        eventually(lambda: clients.answered, hint=lambda: "no answer at all")
    finally:
        chaos.make_peace()
        clients.finish()
    assert clients.wrong == [], clients.wrong
    begun = journal_of(journal)
    strange = list(unexplained(clients, chaos, begun))
    assert strange == [], "\n".join(strange)
    if not chaos.template_kills:
        # A worker whose template was killed before it could report it has to leave.
        assert clients.announced == 0
    status = settled(server)
    check_counts(status, clients, chaos, begun, server.log())
    check_log(server.log())
    after = Holdings.of(server)
    for role in ("manager", "template", "worker"):
        left = getattr(after, role) - getattr(before, role)
        assert not left, f"the {role} holds more than at the beginning: {left}"
    assert after.manager_uss <= before.manager_uss + MEMORY_TOLERANCE
    answer = json.loads(server.get("/now?last").body)
    assert answer["version"] == source.version
    log = server.log()
    steps = {word: log.count(f"info: {word} ") for word in ("spawn", "retire", "take back")}
    return (
        f"{len(clients.answered)} answers, {len(clients.losses)} losses, {steps}, "
        f"{len(chaos.kills)} workers killed, generation {status['generation']}, {dict(chaos.done)}"
    )


class RestlessServer(ServerProcess):
    """One that forgets soon what it needed: workers leave, and are taken back, all the time."""

    @property
    def program(self) -> Path:
        """Return what is started."""
        return APPS / "restless.py"


def chaotic(directory: Path, *options: str) -> tuple[ServerProcess, Source, Path]:
    """Return a server that is not started, its source and its journal."""
    source = Source(directory)
    journal = directory / "journal"
    limits = ("--min-workers", str(MIN_WORKERS), "--max-workers", str(MAX_WORKERS))
    limits += ("--max-threads", str(THREADS))
    limits += ("--max-requests", "200", "--max-requests-jitter", "200")
    environ = {"JOURNAL": str(journal), "PYTHONPATH": str(APPS)}
    server = RestlessServer(
        directory / "server", ("changing:app", *limits, *options), chdir=directory, environ=environ
    )
    return server, source, journal


@pytest.mark.timeout(150)
def test_nothing_is_lost_but_what_a_killed_process_held(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", time.time_ns() % 1_000_000))
    print(f"CHAOS_SEED={seed}")
    server, source, journal = chaotic(tmp_path)
    try:
        server.start()
        print(run_chaos(server, source, journal, SECONDS, seed))
    finally:
        print(server.log() if server.log_file.exists() else "")
        server.end()


def main(arguments: list[str]) -> int:
    """Run for as long as the command line says."""
    seconds = float(arguments[0])
    seed = int(arguments[1]) if len(arguments) > 1 else time.time_ns() % 1_000_000
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        server, source, journal = chaotic(Path(directory), *arguments[2:])
        try:
            server.start()
            print(run_chaos(server, source, journal, seconds, seed))
        except BaseException:
            print(server.log(), file=sys.stderr)
            raise
        finally:
            server.end()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
