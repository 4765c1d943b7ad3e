"""The Flask application under test: one route that answers JSON."""

from __future__ import annotations

from flask import Flask, Response, jsonify

app = Flask(__name__)


@app.get("/json")
def json_message() -> Response:
    """Answer a small JSON object: `apps.JSON_BODY`."""
    return jsonify(message="Hello, World!")
