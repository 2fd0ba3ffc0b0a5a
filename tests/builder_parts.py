"""What the builder's tests share: archives made by hand, a web server that misbehaves, throwaway keys.

The builder is imported as `vpod_builder`; in a source tree that is the folder `builder/`, which this module makes
importable under that name, so that the tests test what stands beside them.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import io
import os
import sys
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


def _import_from_tree() -> None:
    package = ROOT / "builder"
    loaded = sys.modules.get("vpod_builder")
    if not (package / "__init__.py").is_file() or loaded is not None:
        return
    spec = importlib.util.spec_from_file_location(
        "vpod_builder", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["vpod_builder"] = module
    spec.loader.exec_module(module)


_import_from_tree()


def tar_of(*members: tuple[str, Any], format: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar archive of (path, contents) or (path, TarInfo fields as a dict), written by Python's own `tarfile`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for path, what in members:
            info = tarfile.TarInfo(path)
            data = b""
            if isinstance(what, bytes):
                data, info.mode = what, 0o644
            else:
                fields = dict(what)
                data = fields.pop("data", b"")
                for key, value in fields.items():
                    setattr(info, key, value)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def folder(mode: int = 0o755) -> dict[str, Any]:
    return {"type": tarfile.DIRTYPE, "mode": mode}


def symlink(target: str) -> dict[str, Any]:
    return {"type": tarfile.SYMTYPE, "linkname": target}


def hardlink(target: str) -> dict[str, Any]:
    return {"type": tarfile.LNKTYPE, "linkname": target}


def ar_of(*members: tuple[str, bytes]) -> bytes:
    """An `ar` archive in the common format."""
    pieces = [b"!<arch>\n"]
    for name, data in members:
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n"
        pieces += [head.encode(), data, b"\n" * (len(data) % 2)]
    return b"".join(pieces)


def deb_of(control: str, *members: tuple[str, Any], **scripts: str) -> bytes:
    """A Debian package; `scripts` are further control files (`postinst="…"`)."""
    scripts.setdefault("md5sums", "")
    inner = tar_of(("./control", control.encode()), *((f"./{name}", text.encode()) for name, text in scripts.items()))
    outer = tar_of(("./", folder()), *members)
    parts = ("control.tar.gz", gzip.compress(inner)), ("data.tar.gz", gzip.compress(outer))
    return ar_of(("debian-binary", b"2.0\n"), *parts)


class Mirror:
    """A web server on the loopback interface. Set what it serves and how it misbehaves; see what it was asked."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)
        self.requests: list[tuple[str, str | None]] = []
        self.ranges = True  # whether it honours range requests
        self.break_after: int | None = None  # cut the connection after so many bytes of each answer
        self.url = ""


@contextmanager
def mirror(files: Mapping[str, bytes]) -> Iterator[Mirror]:
    """Serve `files` (by path) for the duration of a `with`."""
    state = Mirror(files)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.requests.append((self.path, wanted))
            data = state.files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            start = 0
            if wanted and state.ranges:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                if start >= len(data):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            body = data[start:]
            self.wfile.write(body if state.break_after is None else body[: state.break_after])

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def files_below(path: Path) -> list[str]:
    """Names of all files in a folder that are not locks."""
    return sorted(name for name in os.listdir(path) if not name.endswith(".lock"))
