"""The same applications behind middleware that objects to whatever is not PEP 3333."""

from __future__ import annotations

import warnings
from wsgiref.validate import validator

from plain import app as plain
from werkzeug.middleware.lint import LintMiddleware

from app import app as demo

# Werkzeug's lint warns where it might raise; wsgiref's validator raises by itself.
warnings.simplefilter("error")
# It wants `Content-Length: 0` there; RFC 9110 section 8.6 forbids any.
warnings.filterwarnings("ignore", message="204 responses must have an empty content length")

validated_plain = validator(plain)
validated_demo = validator(demo)
linted_plain = LintMiddleware(plain)
linted_demo = LintMiddleware(demo)
