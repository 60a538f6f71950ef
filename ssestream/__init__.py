"""Server-Sent Events for WSGI: Node's ssestream for Flask, Werkzeug and gunicorn."""

__version__ = "0.1.0"
