"""A real S3 server on loopback (moto's), behind a proxy that counts what is asked for and spoils answers on demand."""

import logging
import threading
from collections import Counter
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "runs"


class Storage:
    """The server and its proxy.

    Attributes:
        url: of the run that `upload` put there. endpoint: of the proxy.
        asked: GET requests of objects, by key.
        spoil: what becomes of the n-th answer (from 1) for a key: see the proxy; "" is none.
    """

    def __init__(self):
        self.asked, self.spoil = Counter(), lambda key, number: ""
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for each request
        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]
        self.proxy = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self.proxy.serve_forever, daemon=True).start()
        self.endpoint = f"http://127.0.0.1:{self.proxy.server_port}"
        self.client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{self.port}", region_name="us-east-1")
        self.client.create_bucket(Bucket=BUCKET)
        self.url = ""

    def upload(self, run: Path, name: str) -> str:
        """Put a run folder there; its URL."""
        for path in sorted(run.rglob("*")):
            if path.is_file():
                self.client.put_object(Bucket=BUCKET, Key=f"{name}/{path.relative_to(run)}", Body=path.read_bytes())
        self.asked.clear()
        return f"s3://{BUCKET}/{name}"

    def end(self) -> None:
        self.proxy.shutdown()
        self.proxy.server_close()
        self.server.stop()


def _handler(storage: Storage) -> type:
    class Proxy(BaseHTTPRequestHandler):
        """Passes requests on. `spoil` says "500", "missing", "short" (fewer bytes than promised, then the connection
        ends), "cut" (fewer bytes, promised so) or "flip" (a bit)."""

        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def _pass(self):
            upstream = HTTPConnection("127.0.0.1", storage.port, timeout=300)
            size = int(self.headers.get("Content-Length", 0))
            upstream.request(self.command, self.path, self.rfile.read(size), dict(self.headers))
            answer = upstream.getresponse()
            status, body, headers = answer.status, answer.read(), answer.getheaders()
            key = self.path.split("?")[0].removeprefix(f"/{BUCKET}/")
            if self.command == "GET" and status in (200, 206) and "list-type" not in self.path:
                storage.asked[key] += 1
                status, body, promised = _spoiled(storage.spoil(key, storage.asked[key]), status, body)
            else:
                promised = len(body)
            self.send_response(status)
            for name, value in headers:
                # without checksums, as many servers answer: then it is for us to notice
                if name.lower() not in ("content-length", "transfer-encoding", "connection") and "checksum" not in name:
                    self.send_header(name, value)
            if self.command == "HEAD":
                promised = int({n.lower(): v for n, v in headers}.get("content-length", 0))
            self.send_header("Content-Length", str(promised))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            if len(body) < promised and self.command != "HEAD":
                self.close_connection = True

        do_GET = do_HEAD = do_PUT = do_POST = _pass

    return Proxy


def _spoiled(how: str, status: int, body: bytes) -> tuple[int, bytes, int]:
    """Status, body, and the length that is promised."""
    if how == "500":
        return 500, b"", 0
    if how == "missing":
        error = b"<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>gone</Message></Error>"
        return 404, error, len(error)
    if how == "short":
        return status, body[: len(body) // 2], len(body)
    if how == "cut":
        return status, body[:-1], len(body) - 1
    if how == "flip":
        middle = len(body) // 2
        return status, body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :], len(body)
    return status, body, len(body)
