"""Web servers on this machine, for tests of downloads."""

from http.server import ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """A server that prints nothing where a client leaves early: its thread would print into a later test's output."""

    def handle_error(self, request, client_address):
        pass
