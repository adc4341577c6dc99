"""Answers /s/STATUS/SIZE/c or l/...: a body of so many octets, in chunks or with its length; tells each request on a line."""

from __future__ import annotations

import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a body would wait for the acknowledgement of its head

    def answer(self) -> None:
        began = time.monotonic_ns()
        _, _, status, size, kind, *_ = self.path.split("/")
        if self.headers.get("Transfer-Encoding") == "chunked":
            while length := int(self.rfile.readline(), 16):
                self.rfile.read(length + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b"x" * int(size)
        self.send_response(int(status))
        if status in {"204", "304"}:
            self.end_headers()
        elif kind == "c":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if self.command != "HEAD":
                chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
                self.wfile.write(chunk + b"0\r\n\r\n")
        else:
            self.send_header("Content-Length", size)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
        took = time.monotonic_ns() - began
        parent = self.headers.get("Traceparent", "-")
        sys.stdout.write(f"{self.command} {status} {self.path} {took} {parent}\n")
        sys.stdout.flush()

    def log_message(self, *_: object) -> None:
        """Only what `answer` prints."""


for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
    setattr(Handler, f"do_{method}", Handler.answer)
ThreadingHTTPServer(("0.0.0.0", int(sys.argv[1])), Handler).serve_forever()
