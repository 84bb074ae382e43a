"""A real S3 server on loopback (moto's), behind a proxy that counts requests and spoils them on demand."""

import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

BUCKET = "runs"
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
REFUSALS = {"500": (500, b"", []), "403": (403, DENIED, [])}  # status, body, headers


class Storage:
    """The server and its proxy.

    Attributes:
        url: of the run that `upload` put there. endpoint: of the proxy.
        asked, put: GET and PUT requests of objects, by key.
        spoil, spoil_put: what becomes of the n-th one (from 1) of a key: see the proxy; "" is nothing.
    """

    def __init__(self):
        self.asked, self.spoil = Counter(), lambda key, number: ""
        self.put, self.spoil_put = Counter(), lambda key, number: ""
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
        self.put.clear()
        return f"s3://{BUCKET}/{name}"

    def objects(self, name: str) -> dict[str, bytes]:
        """What lies below a name, by the rest of its key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=f"{name}/")
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
        return {key[len(name) + 1 :]: self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys}

    def end(self) -> None:
        self.proxy.shutdown()
        self.proxy.server_close()
        self.server.stop()


@contextmanager
def serving() -> Iterator[Storage]:
    """Serve, with the variables set that lead a driver to the proxy, and without attempts of its own."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_MAX_ATTEMPTS", "1")  # the driver's own attempts, which only take time here
        patch.setattr("s3fs.S3FileSystem.retries", 1)
        storage = Storage()
        patch.setenv("AWS_ENDPOINT_URL", storage.endpoint)
        S3FileSystem.clear_instance_cache()  # of another server
        yield storage
        storage.end()


def _handler(storage: Storage) -> type:
    class Proxy(BaseHTTPRequestHandler):
        """Passes requests on. `spoil` says "500", "missing", "short" (fewer bytes than promised, then the connection
        ends), "cut" (fewer bytes, promised so) or "flip" (a bit). `spoil_put` says "500" or "403" (nothing is stored),
        "lost" (it is stored, and the answer is 500) or "replaces" (as of a server that ignores If-None-Match)."""

        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def _pass(self):
            key, how, headers = self.path.split("?")[0].removeprefix(f"/{BUCKET}/"), "", dict(self.headers)
            sent = self.rfile.read(int(headers.get("Content-Length", 0)))
            if self.command == "PUT":
                storage.put[key] += 1
                how = storage.spoil_put(key, storage.put[key])
            if how == "replaces":
                headers.pop("If-None-Match", None)
            status, body, headers = REFUSALS[how] if how in REFUSALS else self._ask(sent, headers)
            if how == "lost":
                status, body, headers = REFUSALS["500"]
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

        def _ask(self, sent, headers):
            upstream = HTTPConnection("127.0.0.1", storage.port, timeout=300)
            upstream.request(self.command, self.path, sent, headers)
            answer = upstream.getresponse()
            return answer.status, answer.read(), answer.getheaders()

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
