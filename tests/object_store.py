"""A local S3 server behind a proxy that fails on demand."""

from __future__ import annotations

import http.client
import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

BUCKET = "bucket"
Fault = Callable[[str, str], str | None]  # of a method and a path: what goes wrong, None: nothing


class Proxy:
    """Passes requests on to a server, but for those of which `fault` says otherwise:

    "403" and "503" answer so; "hang" answers nothing for longer than clients wait; "drop" ends the
    connection unanswered and unserved; "lose" serves the request and ends the connection
    unanswered; "half" passes half of a body on to the server, or back to the client.
    """

    def __init__(self, host: str, port: int) -> None:
        self.fault: Fault = lambda method, path: None
        self.asked: list[tuple[str, str]] = []
        self.release = threading.Event()  # ends what hangs
        self._upstream = host, port
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except OSError:
                    self.close_connection = True

            def answer(self) -> None:
                proxy.serve(self)

            do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        self.asked.append((request.command, request.path))
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        fault = self.fault(request.command, request.path)
        if fault in ("403", "503"):
            code = "AccessDenied" if fault == "403" else "SlowDown"
            said = f"<Error><Code>{code}</Code></Error>".encode()
            request.send_response(int(fault))
            request.send_header("Content-Length", str(len(said)))
            request.end_headers()
            request.wfile.write(said if request.command != "HEAD" else b"")
            return
        if fault in ("hang", "drop"):
            self.release.wait(10.0 if fault == "hang" else 0.0)
            request.close_connection = True
            return
        if fault == "half" and request.command == "PUT":
            self._send_half(request, body)
            request.close_connection = True
            return
        status, headers, data = self._pass_on(request, body)
        if fault == "lose":
            request.close_connection = True
            return
        request.send_response(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                request.send_header(name, value)
        length = next((v for n, v in headers if n.lower() == "content-length"), str(len(data)))
        request.send_header("Content-Length", length)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data[: len(data) // 2] if fault == "half" else data)
        request.close_connection = fault == "half"

    def _pass_on(
        self, request: BaseHTTPRequestHandler, body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = http.client.HTTPConnection(*self._upstream, timeout=30)
        try:
            headers = {k: v for k, v in request.headers.items() if k.lower() != "connection"}
            upstream.request(request.command, request.path, body or None, headers)
            answer = upstream.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            upstream.close()

    def _send_half(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        """A client's machine that dies while it sends."""
        upstream = http.client.HTTPConnection(*self._upstream, timeout=30)
        upstream.putrequest(request.command, request.path)
        for name, value in request.headers.items():
            upstream.putheader(name, value)
        upstream.endheaders(body[: len(body) // 2])
        upstream.close()


class ObjectStore:
    """A moto server with one bucket, and the proxy before it.

    Attributes:
        proxy: what faults are set at. server: its address without the proxy.
    """

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        host, port = self._moto.get_host_and_port()
        self.server = f"http://{host}:{port}"
        self.proxy = Proxy(host, port)
        self.client().create_bucket(Bucket=BUCKET)

    def client(self) -> Any:
        """boto3's client: independent of what is tested."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.server,
            region_name="us-east-1",
            aws_access_key_id="a",
            aws_secret_access_key="b",
        )

    def environment(self) -> dict[str, str]:
        """Variables of a process that uses it."""
        return {
            "AWS_ENDPOINT_URL": self.proxy.address,
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def objects(self, prefix: str = "") -> dict[str, bytes]:
        """Everything below a key."""
        client = self.client()
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        keys = [o["Key"] for page in pages for o in page.get("Contents", ())]
        return {k: client.get_object(Bucket=BUCKET, Key=k)["Body"].read() for k in keys}

    def upload(self, folder: Path, key: str) -> str:
        """Put a file, or the files below a folder, there; returns the address."""
        client = self.client()
        for file in [folder] if folder.is_file() else folder.rglob("*"):
            if file.is_file():
                name = "" if file == folder else f"/{file.relative_to(folder).as_posix()}"
                client.put_object(Bucket=BUCKET, Key=f"{key}{name}", Body=file.read_bytes())
        return f"s3://{BUCKET}/{key}"

    def close(self) -> None:
        self.proxy.close()
        self._moto.stop()
