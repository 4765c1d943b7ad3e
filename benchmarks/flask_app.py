"""The Flask application under test: a route that answers JSON, and one that echoes it."""

from __future__ import annotations

from flask import Flask, Response, jsonify, request

app = Flask(__name__)


@app.get("/json")
def json_message() -> Response:
    """Answer a small JSON object: `apps.JSON_BODY`."""
    return jsonify(message="Hello, World!")


@app.post("/echo")
def echo() -> Response:
    """Parse the request's JSON, and answer the same as JSON."""
    return jsonify(request.get_json())
