"""A WSGI app on ASGI servers, by the adapters that there are."""

from a2wsgi import WSGIMiddleware
from asgiref.wsgi import WsgiToAsgi

from tests.servers.apps import app as telling
from tests.servers.apps.wrong import app

a2wsgi = WSGIMiddleware(app)
a2wsgi_telling = WSGIMiddleware(telling.app)
asgiref = WsgiToAsgi(app)
