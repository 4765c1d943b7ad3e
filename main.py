"""Smart HTTP Server: the composition root, the only file that knows all three rooms."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Sequence

import httpcore_srv
import loader
import spm


def main(argv: Sequence[str]) -> int:
    """Do what the command line says; return the exit status.

    0: served and stopped, or checked, or answered. 2: a usage, load or bind error,
    said in one message. 3: no worker ever became ready.
    """
    try:
        command = loader.parse(argv)
        if isinstance(command, loader.StatusQuery):
            return show_status(command)
        for notice in command.notices:
            print(f"{loader.PROGRAM}: {notice}", file=sys.stderr)
        os.chdir(command.directory)
        if command.check:
            return check(command)
        return serve(command)
    except (loader.LoaderError, httpcore_srv.BindError, spm.SPMError) as error:
        print(f"{loader.PROGRAM}: error: {error}", file=sys.stderr)
        return error.exit_status


def serve(options: loader.Options) -> int:
    """Serve the application until a signal ends it."""
    loader.logs.configure(options.log_level)
    access_log_fd = httpcore_srv.open_access_log(options.access_log)
    httpcore_srv.raise_limit(options.max_connections, options.max_threads)
    listeners = httpcore_srv.Listeners(addresses(options), options.backlog)

    def work(
        app: httpcore_srv.Application,
        slot: spm.Slot,
        lifeline: spm.Lifeline,
        siblings: spm.Siblings,
    ) -> None:
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
        ).run()

    def boot() -> functools.partial[None]:
        app = loader.AppLoader(options.target, options.directory).load()
        return functools.partial(work, app)

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
        },
    ).run()


def check(options: loader.Options) -> int:
    """Load the application and print the settings in force."""
    loader.AppLoader(options.target, options.directory).load()
    print(loader.check_report(options), end="")
    return 0


def show_status(query: loader.StatusQuery) -> int:
    """Ask a running server for its numbers and print them."""
    path = spm.find(
        pid_file=query.pid_file,
        control=query.control,
        bind=None if query.bind is None else str(query.bind),
    )
    readout = spm.ask(path)
    print(json.dumps(readout, indent=2) if query.json else spm.render(readout))
    return 0


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
        preload=options.preload,
        metrics_interval_s=options.metrics_interval_s,
        pid_file=options.pid_file,
        incidents=tuple(incident.name.lower() for incident in httpcore_srv.Incident),
        written_off_limit=max(1, options.max_threads // 4) if options.request_timeout_s else 0,
    )


def run() -> None:
    """Be the console command."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
