"""A Flask application that says when the process that answers was forked."""

from __future__ import annotations

from flask import Flask

from benchmarks.scale_apps import born

app = Flask(__name__)
app.add_url_rule("/", view_func=born)
