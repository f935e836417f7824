"""A small server of one file, with the ways of servers that downloads have to live with."""

import contextlib
import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves `content` at every address on 127.0.0.1; change its attributes between requests."""

    def __init__(self, content: bytes):
        self.content = content
        self.ranges = True  # answers Range
        self.cut = 0  # closes the connection after so many bytes
        self.stall = 0.0  # seconds before the body
        self.status = []  # answers to give first, instead of the file
        self.headers = {}  # to send instead of its own
        self.asked = []  # the Range of each request, or ""
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
        with contextlib.suppress(OSError):  # the other side may have gone
            request.wfile.write(body[: self.cut or None])

    def known(self, **facts: object) -> dict:
        """What the table would say of the file."""
        return {
            "name": "mine",
            "file": "mine.safetensors",
            "role": "automatic",
            "what": "a miniature",
            "licence": "MIT",
            "get": "https://example.org/mine",
            "path": "somebody/models/resolve/1/mine",
            "bytes": len(self.content),
            "sha256": hashlib.sha256(self.content).hexdigest(),
        } | facts

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
