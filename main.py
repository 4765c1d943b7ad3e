"""Smart HTTP Server: the composition root, the only file that knows all three rooms."""

from __future__ import annotations

import gc

# Imports leave next to no garbage (15 objects of 60,000), and looking for it again and again
# while they ran took 10 ms of a start. What they made stays for good, so it is frozen, and
# the collector never looks at it, nor writes to it after a fork.
gc.disable()

import faulthandler  # noqa: E402
import functools  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Sequence  # noqa: E402

import httpcore_srv  # noqa: E402
import loader  # noqa: E402
import spm  # noqa: E402

gc.freeze()
gc.enable()


def main(argv: Sequence[str]) -> int:
    """Do what the command line says; return the exit status.

    0: served and stopped, or checked, or answered. 2: a usage, load or bind error,
    said in one message. 3: the application raised while it was loaded, or no worker ever
    became ready.
    """
    loader.hold_standard_descriptors()
    inheritance = spm.take_inheritance(os.environ)
    try:
        command = loader.parse(argv)
        if isinstance(command, loader.StatusQuery):
            return show_status(command)
        if isinstance(command, loader.UpgradeOrder):
            return upgrade(command)
        for notice in command.notices:
            print(f"{loader.PROGRAM}: {notice}", file=sys.stderr)
        if command.check:
            return check(command)
        return serve(command, inheritance)
    except (loader.LoaderError, httpcore_srv.BindError, spm.SPMError) as error:
        print(f"{loader.PROGRAM}: error: {error}", file=sys.stderr)
        return error.exit_status


def serve(options: loader.Options, inheritance: spm.Inheritance | None = None) -> int:
    """Serve the application until a signal ends it.

    inheritance: what there is of an old server that this one replaces.
    """
    inherited = httpcore_srv.take_inherited(os.environ)
    os.environ.pop(loader.SERVED_TARGET, None)
    command = spm.Command.of_this_process({loader.SERVED_TARGET: str(options.target)})
    os.chdir(options.directory)
    loader.logs.configure(options.log_level)
    access_log_fd = httpcore_srv.open_access_log(options.access_log)
    httpcore_srv.raise_limit(options.max_connections, options.max_threads)
    asked = options.sources["bind"] != loader.DEFAULT
    listeners = httpcore_srv.Listeners(
        addresses(options), options.backlog, inherited, explicit=asked
    )

    def work(
        app: httpcore_srv.Application,
        hooks: loader.Hooks,
        slot: spm.Slot,
        lifeline: spm.Lifeline,
        siblings: spm.Siblings,
    ) -> None:
        def before_exit() -> None:
            httpcore_srv.end_within(options.graceful_timeout_s)
            hooks.end()

        hooks.begin()
        httpcore_srv.HTTPServer(
            listeners.sockets,
            app,
            http_settings(options),
            slot,
            lifeline,
            siblings,
            multiprocess=options.max_workers > 1,
            access_log_fd=access_log_fd,
            graceful_timeout_s=options.graceful_timeout_s,
            before_exit=before_exit,
        ).run()

    def boot() -> functools.partial[None]:
        app, hooks = loader.load(options)
        if options.preload:
            # An alarm that the application has set does not survive the fork, but its locks do.
            faulthandler.cancel_dump_traceback_later()
        return functools.partial(work, app, hooks)

    return spm.SPM(
        pool_settings(options),
        boot=boot,
        listen=listeners.listen,
        accept_queue=listeners.accept_queue,
        release=listeners.release,
        describe=lambda: {
            "name": loader.PROGRAM,
            "version": loader.VERSION,
            "target": str(options.target),
            "binds": listeners.names(),
            "backlog": listeners.backlogs(),
        },
        renewal=spm.Renewal(command, listeners, httpcore_srv.PARCEL_FORMAT, inheritance),
        system_factory=functools.partial(spm.real_system, watch=loader.watcher(options)),
    ).run()


def check(options: loader.Options) -> int:
    """Load the application and its hooks, and print the settings in force."""
    os.chdir(options.directory)
    loader.load(options)
    print(loader.check_report(options), end="")
    return 0


def show_status(query: loader.StatusQuery) -> int:
    """Ask a running server for its numbers and print them."""
    readout = spm.ask(find(query))
    print(json.dumps(readout, indent=2) if query.json else spm.render(readout))
    return 0


def upgrade(order: loader.UpgradeOrder) -> int:
    """Have a running server replaced by a new one."""
    try:
        pid = spm.order_upgrade(find(order))
    except KeyboardInterrupt:
        print(f"{loader.PROGRAM}: not waiting; the upgrade goes on", file=sys.stderr)
        return 130
    print(f"process {pid} serves now")
    return 0


def find(query: loader.StatusQuery | loader.UpgradeOrder) -> str:
    """Return the control socket of the server that is meant."""
    return spm.find(
        pid_file=query.pid_file,
        control=query.control,
        bind=None if query.bind is None else str(query.bind),
    )


def addresses(options: loader.Options) -> list[httpcore_srv.Address]:
    """Return where to listen, in the words of the HTTP room."""
    return [
        bind.path if isinstance(bind, loader.UnixBind) else (bind.host, bind.port)
        for bind in options.binds
    ]


def http_settings(options: loader.Options) -> httpcore_srv.HTTPSettings:
    """Return what a worker's HTTP side is told."""
    return httpcore_srv.HTTPSettings(
        limits=httpcore_srv.HTTPLimits(
            max_request_line_bytes=options.max_request_line_bytes,
            max_header_bytes=options.max_header_bytes,
            max_headers=options.max_headers,
            max_body_bytes=options.max_body_bytes,
            max_chunk_extension_bytes=options.max_chunk_extension_bytes,
            max_chunk_overhead_bytes=options.max_chunk_overhead_bytes,
            max_trailer_bytes=options.max_trailer_bytes,
            body_memory_bytes=options.body_buffer_bytes,
            max_buffered_bytes=options.max_buffered_bytes,
            max_connections=options.max_connections,
            max_connections_per_address=options.max_connections_per_address,
            refuse_underscores=options.refuse_underscores,
            pass_connect=options.pass_connect,
        ),
        timeouts=httpcore_srv.HTTPTimeouts(
            header_s=options.header_timeout_s,
            body_s=options.body_timeout_s,
            write_s=options.write_timeout_s,
            keep_alive_s=options.keep_alive_s,
            linger_s=options.linger_timeout_s,
            min_rate=options.min_rate,
            request_s=options.request_timeout_s,
            queue_s=options.queue_timeout_s,
            worker_s=options.worker_timeout_s,
        ),
        min_threads=options.min_threads,
        max_threads=options.max_threads,
        max_streams=options.max_streams,
        temporary_directory=options.temporary_directory,
    )


def pool_settings(options: loader.Options) -> spm.SPMS:
    """Return what the process manager is told."""
    return spm.SPMS(
        min_workers=options.min_workers,
        max_workers=options.max_workers,
        min_threads=options.min_threads,
        max_threads=options.max_threads,
        graceful_timeout_s=options.graceful_timeout_s,
        heartbeat_stale_s=min(10.0, options.worker_timeout_s or 10.0),
        wedged_kill_s=options.worker_timeout_s,
        preload=options.preload,
        metrics_interval_s=options.metrics_interval_s,
        pid_file=options.pid_file,
        incidents=tuple(incident.name.lower() for incident in httpcore_srv.Incident),
        max_requests=options.max_requests,
        max_requests_jitter=options.max_requests_jitter,
        max_age_s=options.max_age_s,
        max_worker_memory_bytes=options.max_worker_memory_bytes,
        memory_limit_bytes=options.memory_limit_bytes,
        written_off_limit=max(1, options.max_threads // 4) if options.request_timeout_s else 0,
    )


def run() -> None:
    """Be the console command."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
