"""A server of one file that can misbehave as real servers do, for tests of downloads."""

import contextlib
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serve `content` at every path on 127.0.0.1; attributes may change between requests."""

    def __init__(self, content: bytes):
        self.content = content
        self.ranges = True  # support Range requests
        self.cut = 0  # close the connection after this many bytes; 0 = never
        self.stall = 0.0  # seconds before the body
        self.status = []  # status codes to send first, instead of the file
        self.headers = {}  # headers that replace the default ones
        self.asked = []  # Range header of each request, or ""
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                server.answer(self)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        asked = request.headers.get("Range", "")
        self.asked.append(asked)
        if self.status:
            request.send_error(self.status.pop(0))
            return
        body, total = self.content, len(self.content)
        headers = {"Content-Type": "application/octet-stream"}
        if self.ranges and asked:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= total:
                request.send_error(416)
                return
            body = body[start:]
            headers["Content-Range"] = f"bytes {start}-{total - 1}/{total}"
        headers["Content-Length"] = str(len(body))
        request.send_response(206 if len(body) < total else 200)
        for name, value in (headers | self.headers).items():
            request.send_header(name, value)
        request.end_headers()
        time.sleep(self.stall)
        with contextlib.suppress(OSError):  # the client may have disconnected
            request.wfile.write(body[: self.cut or None])

    def known(self, **facts: object) -> dict:
        """Return the catalog entry of the file."""
        return {
            "name": "mine",
            "file": "mine.safetensors",
            "role": "automatic",
            "description": "a miniature",
            "license": "MIT",
            "source": "https://example.org/mine",
            "hub_path": "somebody/models/resolve/1/mine",
            "size": len(self.content),
            "sha256": hashlib.sha256(self.content).hexdigest(),
        } | facts

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
