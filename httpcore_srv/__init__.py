"""One worker's inside: bytes -> request -> application -> response -> bytes."""

from httpcore_srv.access_log import open_access_log
from httpcore_srv.descriptors import raise_limit
from httpcore_srv.errors import BindError
from httpcore_srv.inherited import take_inherited
from httpcore_srv.listener import Address, Listeners
from httpcore_srv.parcel import FORMAT as PARCEL_FORMAT
from httpcore_srv.ports import Incident
from httpcore_srv.request_parser import HTTPRequest
from httpcore_srv.server import HTTPServer
from httpcore_srv.settings import HTTPLimits, HTTPSettings, HTTPTimeouts
from httpcore_srv.thread_pool import ThreadPool
from httpcore_srv.watchdog import end_within
from httpcore_srv.wsgi import Application, WSGIHandler

__all__ = [
    "PARCEL_FORMAT",
    "Address",
    "Application",
    "BindError",
    "HTTPLimits",
    "HTTPRequest",
    "HTTPServer",
    "HTTPSettings",
    "HTTPTimeouts",
    "Incident",
    "Listeners",
    "ThreadPool",
    "WSGIHandler",
    "end_within",
    "open_access_log",
    "raise_limit",
    "take_inherited",
]
