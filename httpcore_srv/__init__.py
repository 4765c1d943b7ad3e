"""One worker's inside: bytes -> request -> application -> response -> bytes."""

from httpcore_srv.listener import BindError, Listeners
from httpcore_srv.request_parser import HTTPRequest
from httpcore_srv.server import HTTPServer
from httpcore_srv.settings import HTTPLimits, HTTPSettings, HTTPTimeouts
from httpcore_srv.thread_pool import ThreadPool
from httpcore_srv.wsgi import Application, WSGIHandler

__all__ = [
    "Application",
    "BindError",
    "HTTPLimits",
    "HTTPRequest",
    "HTTPServer",
    "HTTPSettings",
    "HTTPTimeouts",
    "Listeners",
    "ThreadPool",
    "WSGIHandler",
]
