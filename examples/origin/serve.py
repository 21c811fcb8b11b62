#!/usr/bin/env python3
"""Serve a publisher's site over HTTPS: files, and the page that meta discovery asks for.

    serve.py --root DIRECTORY --cert FILE --key FILE [--address A] [--port N]

`GET /any/name?ac-discovery=1` answers with DIRECTORY/discovery.html whatever the name; every other
path is a file below DIRECTORY, with an ETag, so that a client need not download it twice.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import ssl
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    root = "."
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Send a file or the discovery page."""
        address = urlsplit(self.path)
        name = os.path.normpath("/" + unquote(address.path)).lstrip("/")
        if "ac-discovery=1" in address.query.split("&"):
            name = "discovery.html"
        try:
            with open(os.path.join(self.root, name), "rb") as file:
                content = file.read()
        except OSError:
            self.send_error(404)
            return
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        unchanged = self.headers.get("If-None-Match") == tag
        self.send_response(304 if unchanged else 200)
        self.send_header("ETag", tag)
        kind = "text/html; charset=utf-8" if name.endswith(".html") else "application/octet-stream"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", "0" if unchanged else str(len(content)))
        self.end_headers()
        if not unchanged and self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET


def serve(root: str, certificate: str, key: str, address: str, port: int) -> None:
    """Serve until killed; says on stdout when it is ready."""
    server = ThreadingHTTPServer((address, port), type("Site", (Handler,), {"root": root}))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    print(f"serving {root} on https://{address}:{port}", flush=True)
    server.serve_forever()


def main() -> int:
    """Read the command line, serve."""
    parser = argparse.ArgumentParser(description="Serve a publisher's site over HTTPS.")
    for name in ("root", "cert", "key"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--address", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=443)
    options = parser.parse_args()
    serve(options.root, options.cert, options.key, options.address, options.port)
    return 0


if __name__ == "__main__":
    sys.exit(main())
