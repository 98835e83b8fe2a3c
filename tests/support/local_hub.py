"""A small Hugging Face hub on this machine: the routes that a model download needs, and ways to misbehave."""

import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

PIECE = 1_000_000


class Hub:
    """Repositories {name: {revision: (commit, {file: content})}}, the requests seen, and what goes wrong.

    The name of a data set begins with `datasets/`.

    `lfs`: endings of files kept in LFS (announced with sha256, and served by a second host if `cdn` is set).
    `break_at`: {file: bytes} after which the connection breaks once; then the file answers 503, as its `status` says.
    `status`: {file: HTTP status} answered instead of the content. `gated`: repositories nobody may read.
    `announced`: {file: size} where it is not the true one. `served`: {file: content} where it is not the published one.
    `portal`: whether every answer is a page of somebody else's. `pace`: {file: seconds before every MB of it}.
    `endless`: {file or "api": seconds between bytes} of answers that never end, with the file's `status` if it has one.
    `dripping`: seconds between the bytes of the head of every answer, which never ends.
    """

    def __init__(self):
        self.repositories, self.requests = {}, []
        self.break_at, self.status, self.gated = {}, {}, set()
        self.announced, self.served = {}, {}
        self.lfs, self.cdn, self.portal = (".safetensors",), None, False
        self.pace, self.pause = {}, threading.Event()
        self.endless, self.dripping = {}, None

    def add(self, repository, files, revision="main"):
        """Publish `files` {name: bytes} under `revision`; returns the commit."""
        content = json.dumps({name: hashlib.sha256(data).hexdigest() for name, data in files.items()}, sort_keys=True)
        commit = hashlib.sha1(content.encode()).hexdigest()
        versions = self.repositories.setdefault(repository, {})
        versions[revision] = versions[commit] = (commit, dict(files))
        return commit

    def seen(self, file):
        """Headers of the requests for the content of `file`, in order."""
        return [headers for path, headers in self.requests if path.endswith(f"/{file}")]


@contextmanager
def serving(hub, host="127.0.0.1"):
    """Serve `hub` and yield its address."""
    server = ThreadingHTTPServer((host, 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}"
    finally:
        hub.pause.set()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(send=False)

    def do_GET(self):
        self.answer(send=True)

    def answer(self, send):
        path = urlsplit(self.path).path
        self.hub.requests.append((unquote(path), self.headers))
        if self.hub.dripping is not None:
            self.drip(b"HTTP/1.1 200 OK\r\nX-Padding: ", self.hub.dripping)
        elif self.hub.endless.get("api") is not None and path.startswith("/api/"):
            self.pour("api")
        elif self.hub.portal:
            self.reply(200, {"Content-Type": "text/html"}, b"<html>Please sign in</html>")
        elif match := re.fullmatch(r"/api/(?:models/|(?=datasets/))((?:datasets/)?[^/]+/[^/]+)/revision/([^/]+)", path):
            self.model_info(match[1], unquote(match[2]))
        elif match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.content(match[1], unquote(match[2]), unquote(match[3]), send)
        else:
            self.refuse(404, "EntryNotFound")

    def version(self, repository, revision):
        if repository in self.hub.gated:
            self.refuse(403, "GatedRepo")
        elif repository not in self.hub.repositories:
            self.refuse(404, "RepoNotFound")
        elif revision not in self.hub.repositories[repository]:
            self.refuse(404, "RevisionNotFound")
        else:
            return self.hub.repositories[repository][revision]
        return None

    def model_info(self, repository, revision):
        if found := self.version(repository, revision):
            commit, files = found
            siblings = [self.sibling(name, data) for name, data in files.items()]
            answer = json.dumps({"id": repository, "sha": commit, "siblings": siblings}).encode()
            self.reply(200, {"Content-Type": "application/json"}, answer)

    def sibling(self, name, data):
        size = self.hub.announced.get(name, len(data))
        entry = {"rfilename": name, "size": size}
        if name.endswith(self.hub.lfs):
            lfs = {"sha256": self.identity(name, data), "size": size, "pointerSize": 134}
            return entry | {"blobId": "0" * 40, "lfs": lfs}
        return entry | {"blobId": self.identity(name, data)}

    def identity(self, name, data):
        """sha256 of a file in LFS, else the sha1 that git gives it."""
        if name.endswith(self.hub.lfs):
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    def content(self, repository, revision, name, send):
        if not (found := self.version(repository, revision)):
            return
        commit, files = found
        if name not in files:
            self.refuse(404, "EntryNotFound")
        elif name in self.hub.endless:
            self.pour(name)
        elif name in self.hub.status:
            self.refuse(self.hub.status[name], None)
        elif self.hub.cdn and name.endswith(self.hub.lfs) and not self.hub.cdn.endswith(self.headers["Host"]):
            self.reply(302, {"Location": self.hub.cdn + self.path}, b"")
        else:
            self.file(commit, name, self.hub.served.get(name, files[name]), send)

    def file(self, commit, name, data, send):
        status, start = 200, 0
        if match := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            status, start = 206, int(match[1])
        headers = {"X-Repo-Commit": commit, "ETag": f'"{self.identity(name, data)}"'}
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body = data[start:] if send else b""
        if name in self.hub.break_at:
            body = body[: self.hub.break_at.pop(name)]
            self.hub.status[name] = 503
            self.close_connection = True
        self.reply(status, headers, body, len(data) - start, self.hub.pace.get(name))

    def reply(self, status, headers, body, length=None, pace=None):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        for start in range(0, len(body), PIECE):
            if pace:
                self.hub.pause.wait(pace)
            self.wfile.write(body[start : start + PIECE])

    def pour(self, name):
        """An answer in chunks that never ends: as fast as it goes, or a byte at a time."""
        self.send_response(self.hub.status.get(name, 200))
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        if self.hub.status.get(name) == 302:
            self.send_header("Location", self.path)
        self.end_headers()
        seconds = self.hub.endless[name]
        piece = b"[" * (1 if seconds else PIECE)
        self.drip(b"%x\r\n%s\r\n" % (len(piece), piece), seconds, repeated=True)

    def drip(self, data, seconds, repeated=False):
        """Send `data`, then bytes for ever (all of `data` again if `repeated`), until the other side has enough."""
        self.close_connection = True
        try:
            self.wfile.write(data)
            while not self.hub.pause.wait(seconds):
                self.wfile.write(data if repeated else b"x")
        except OSError:
            pass

    def refuse(self, status, code):
        self.reply(status, {"X-Error-Code": code} if code else {}, b"")
