"""The registry: a static catalogue on any web server, and the snapshots that it lists. No server program is needed.

`VPOD_REGISTRY` names the catalogue by URL (one that ends with `/` means the `catalog.json` in it); `publish` writes it:

    {"format": 1, "snapshots": [{
        "name": "alpine", "tag": "3.23",              as in `vpod pull alpine:3.23`
        "url": "alpine-3.23-0f3a….snap",              absolute, or relative to the catalogue
        "size": 23854172, "sha256": "0f3a…",          of the file, exactly
        "description": "Alpine Linux 3.23.0",         one line of printable text, at most 500 characters
        "has_python": false, "created": "2026-01-31T12:00:00Z"}]}

Other keys are ignored, so that later versions can add some. Invariants:

- The catalogue is hostile: at most 1 MiB, and every field is checked before anything is returned. Whoever controls it
  chooses what is fetched from where, but never a path on this machine: files are named by checked digests and names.
- URLs are `http` or `https`; `file` only in a catalogue that is itself a local file. At most five redirects, never from
  `https` down to `http`. `VPOD_API_KEY` goes to the catalogue's own scheme, host and port, and nowhere else.
- A download goes to `<digest>.part`, is resumed when it broke off, and gets its name only when its size and digest are
  right and it opens as a snapshot. One process downloads a file at a time; the others wait and find it.

>>> os.environ["VPOD_REGISTRY"] = "https://registry.example/vpod/"                       # doctest: +SKIP
>>> [f"{entry['name']}:{entry['tag']}" for entry in fetch_registry()]                    # doctest: +SKIP
['alpine:3.23', 'debian:13']
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

from vpod import paths
from vpod.errors import RegistryError, SnapshotError
from vpod.snapshot import Snapshot, disk_full_named

if TYPE_CHECKING:
    from http.client import HTTPResponse
    from io import BufferedReader
    from urllib.request import OpenerDirector, Request

    Progress = Callable[[int, int], None]

__all__ = ["catalog_url", "download", "fetch_registry", "is_description", "is_name", "is_time", "offline", "publish"]

CATALOG = "catalog.json"
FORMAT = 1
MAX_CATALOG = 1 << 20
MAX_SNAPSHOT = 5 << 30  # more than 4 GiB of RAM that does not compress
MAX_URL = 2048
MAX_DESCRIPTION = 500
CATALOG_SECONDS = 60.0
TIMEOUT = 30.0  # seconds that a server may say nothing
ATTEMPTS = 5
REDIRECTS = 5
CHUNK = 1 << 18

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")
CREATED = re.compile(r"20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]Z")
HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,1022}[\x21-\x7e])?")
CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,15})-([0-9]{1,15})/([0-9]{1,15})")


def is_name(text: object) -> bool:
    """Whether `text` can be a name, or a tag: 1 to 64 of ``a-z 0-9 . _ -``, the first a letter or digit."""
    return isinstance(text, str) and NAME.fullmatch(text) is not None


def is_description(text: object) -> bool:
    """Whether `text` is a line that can be shown on a terminal, which would obey control characters."""
    return isinstance(text, str) and len(text) <= MAX_DESCRIPTION and text.isprintable()


def is_time(text: object) -> bool:
    """Whether `text` is a time as `2026-01-31T12:00:00Z`."""
    return isinstance(text, str) and CREATED.fullmatch(text) is not None


def offline() -> bool:
    """Whether `VPOD_OFFLINE` forbids the network."""
    return os.environ.get("VPOD_OFFLINE", "") not in ("", "0")


# --- the catalogue ---------------------------------------------------------------------------------------------------


def fetch_registry() -> list[dict[str, Any]]:
    """What the registry named by `VPOD_REGISTRY` has: checked entries with absolute URLs; none without a registry.

    Raises `RegistryError` when the catalogue cannot be read, or anything in it is not as it must be.
    """
    url = catalog_url()
    return _parse_catalog(_read_catalog(url), url) if url else []


def catalog_url() -> str | None:
    """The catalogue's URL, or None when `VPOD_REGISTRY` is not set. Raises `RegistryError` for what is no such URL."""
    url = os.environ.get("VPOD_REGISTRY")
    if not url:
        return None
    try:
        checked = _checked_url(url, None)
    except ValueError as error:
        raise RegistryError(
            f"VPOD_REGISTRY is {url!r}: {error}; set it to the http, https or file URL of a catalogue"
        ) from None
    return checked + CATALOG if checked.endswith("/") else checked


def _read_catalog(url: str) -> bytes:
    deadline = time.monotonic() + CATALOG_SECONDS
    data = bytearray()
    with _fetching(url, url) as answer:
        while chunk := _some(answer, url, CHUNK):
            data += chunk
            if len(data) > MAX_CATALOG:
                raise RegistryError(f"{url}: is larger than the {MAX_CATALOG} bytes that a catalogue may have")
            if time.monotonic() > deadline:
                raise RegistryError(f"{url}: not complete after {CATALOG_SECONDS:.0f} seconds; try again later")
    return bytes(data)


def _some(answer: Answer, url: str, most: int) -> bytes:
    """The next bytes of an answer, up to `most`; none at its end. Raises `Interrupted` when it breaks off."""
    from http.client import HTTPException

    try:
        return answer.stream.read1(most)
    except (OSError, HTTPException) as error:
        raise Interrupted(f"{url}: broke off ({_plain(error)}); try again") from None


def _parse_catalog(data: bytes, url: str) -> list[dict[str, Any]]:
    """The entries of the catalogue `data`, which came from `url`; every field checked, others left out."""
    try:
        catalog = json.loads(data)
    except (ValueError, RecursionError):
        raise RegistryError(
            f"{url}: is not JSON; VPOD_REGISTRY must name a catalogue or, with a / at its end, the folder of one"
        ) from None
    if type(catalog) is not dict or type(catalog.get("snapshots")) is not list:
        raise RegistryError(f'{url}: is not a catalogue: it must be {{"format": {FORMAT}, "snapshots": [...]}}')
    if catalog.get("format") != FORMAT or type(catalog["format"]) is not int:
        raise RegistryError(f"{url}: is in a format this vpod does not read; it reads {FORMAT}: install a newer vpod")
    entries = [_checked_entry(entry, place, url) for place, entry in enumerate(catalog["snapshots"])]
    if len({(entry["name"], entry["tag"]) for entry in entries}) != len(entries):
        raise RegistryError(f"{url}: lists one name and tag twice; its publisher must mend that")
    return entries


def _checked_entry(entry: object, place: int, url: str) -> dict[str, Any]:
    rules: dict[str, Callable[[Any], bool]] = {
        "name": is_name,
        "tag": is_name,
        "size": lambda value: type(value) is int and 0 < value <= MAX_SNAPSHOT,
        "sha256": lambda value: type(value) is str and SHA256.fullmatch(value) is not None,
        "url": lambda value: type(value) is str,
        "description": is_description,
        "has_python": lambda value: type(value) is bool,
        "created": is_time,
    }
    if type(entry) is not dict:
        raise RegistryError(f"{url}: entry {place} is not an object; its publisher must mend that")
    for field, holds in rules.items():
        if field not in entry or not holds(entry[field]):
            value = repr(entry.get(field, "missing"))[:80]
            raise RegistryError(f"{url}: entry {place}: {field} cannot be {value}; its publisher must mend that")
    checked = {field: entry[field] for field in rules}
    try:
        checked["url"] = _checked_url(entry["url"], url)
    except ValueError as error:
        raise RegistryError(f"{url}: entry {place}: {error}; its publisher must mend that") from None
    return checked


def _checked_url(url: str, base: str | None) -> str:
    """`url`, seen from `base`, as an absolute URL of an allowed kind. Raises `ValueError`, saying what is wrong."""
    from urllib.parse import urldefrag, urljoin, urlsplit

    if len(url) > MAX_URL or re.search(r"[^\x21-\x7e]|\\", url):
        raise ValueError("its URL is too long or has characters that no URL has")
    absolute = urldefrag(urljoin(base, url) if base else url).url
    split = urlsplit(absolute)
    allowed = ("http", "https") if base and not base.startswith("file:") else ("http", "https", "file")
    if split.scheme not in allowed:
        raise ValueError(f"{absolute!r} is not an {' or '.join(allowed)} URL")
    if split.scheme == "file":
        if split.netloc not in ("", "localhost") or not split.path.startswith("/"):
            raise ValueError(f"{absolute!r} does not name a file of this computer; write file:///folder/file")
    elif not split.hostname or split.username is not None or split.port == 0:  # .port raises ValueError beyond 65535
        raise ValueError(f"{absolute!r} must have a host and no user name")
    return absolute


# --- fetching --------------------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """A server's answer: the bytes from `start` on, and what says whether the file has changed meanwhile."""

    stream: HTTPResponse | BufferedReader
    start: int
    validator: str


class Interrupted(RegistryError):
    """The transfer broke off; what has come so far is good for a resumption."""


@contextmanager
def _fetching(url: str, catalog: str, start: int = 0, validator: str = "") -> Iterator[Answer]:
    """The contents of `url`, from `start` on if the server has it unchanged, else from the beginning.

    Raises `RegistryError` when there is no answer, or one that makes no sense. Errors while reading come out of the
    block as they are raised there.
    """
    if url.startswith("file:"):
        with _opened(url) as file:
            yield Answer(file, 0, "")
        return
    if offline():
        raise RegistryError(f"{url}: not fetched, since VPOD_OFFLINE is set; unset it, or VPOD_REGISTRY")
    response = _response(url, catalog, start, validator)
    with response:
        where = _start(url, response, start)
        found = response.headers.get("ETag", "")
        # RFC 9110, If-Range: a weak tag must not be sent there, a date may.
        found = response.headers.get("Last-Modified", "") if not found or found.startswith("W/") else found
        yield Answer(response, where, found if HEADER_VALUE.fullmatch(found) else "")


def _response(url: str, catalog: str, start: int, validator: str) -> HTTPResponse:
    """The server's answer, after at most `REDIRECTS` redirects. They are followed here and not by `urllib`, which would
    read the whole body of a redirect, however long, and hand on the key."""
    from http.client import HTTPException
    from urllib.error import HTTPError

    for _ in range(REDIRECTS + 1):
        request = _request(url, catalog, start, validator)
        try:
            return cast("HTTPResponse", _opener().open(request, timeout=TIMEOUT))
        except HTTPError as error:
            code, location = error.code, error.headers.get("Location")
            error.close()
        except (OSError, HTTPException, ValueError) as error:
            reason = _plain(getattr(error, "reason", error))
            raise RegistryError(f"{url}: cannot be reached ({reason}); check VPOD_REGISTRY and the network") from None
        if code == 416 and start:  # what is here is longer than what is there
            start, validator = 0, ""
        elif code in (301, 302, 303, 307, 308) and location:
            url = _redirected(url, location)
        else:
            hint = "VPOD_API_KEY may be missing or wrong" if code in (401, 403) else "check VPOD_REGISTRY"
            raise RegistryError(f"{url}: the server answers {code}; {hint}")
    raise RegistryError(f"{url}: the server redirects more than {REDIRECTS} times; check VPOD_REGISTRY")


def _request(url: str, catalog: str, start: int, validator: str) -> Request:
    from urllib.request import Request

    request = Request(url, headers={"User-Agent": "vpod", "Accept-Encoding": "identity"})
    if start:
        request.add_header("Range", f"bytes={start}-")
        if validator:
            request.add_header("If-Range", validator)
    key = os.environ.get("VPOD_API_KEY")
    if key and _origin(url) == _origin(catalog):
        if not HEADER_VALUE.fullmatch(key):
            raise RegistryError("VPOD_API_KEY has characters that no key has; set it to the key alone")
        request.add_header("Authorization", f"Bearer {key}")
    return request


def _redirected(url: str, location: str) -> str:
    try:
        target = _checked_url(location, url)
    except ValueError as error:
        raise RegistryError(f"{url}: the server redirects to what is not allowed: {error}") from None
    if url.startswith("https:") and not target.startswith("https:"):
        raise RegistryError(f"{url}: the server redirects from https to {target}, which is not followed")
    return target


def _opener() -> OpenerDirector:
    """An opener of `http` and `https` alone, which raises `HTTPError` for whatever is not 2xx."""
    from urllib import request

    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    return opener


def _start(url: str, response: HTTPResponse, asked: int) -> int:
    """Where in the file the body of `response` begins."""
    if response.status == 200:
        return 0
    match = CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if response.status == 206 and asked and match and int(match[1]) == asked:
        return asked
    raise RegistryError(f"{url}: the server answers {response.status} with what was not asked for; try again later")


def _plain(error: object) -> str:
    """What `error` says, fit for a terminal: it may quote the server."""
    return "".join(c if c.isprintable() else "?" for c in str(error)[:200]) or type(error).__name__


def _origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: RFC 6454."""
    from urllib.parse import urlsplit

    split = urlsplit(url)
    return split.scheme, split.hostname or "", split.port or {"http": 80, "https": 443}.get(split.scheme, 0)


def _opened(url: str) -> BufferedReader:
    """The regular file that a `file` URL names, open for reading."""
    from urllib.parse import unquote, urlsplit

    path = unquote(urlsplit(url).path)
    try:
        if "\0" in path:
            raise OSError(errno.EINVAL, "a file's name has no NUL")
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise RegistryError(f"{url}: cannot be read ({error.strerror}); check VPOD_REGISTRY") from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise RegistryError(f"{url}: is not a regular file; check VPOD_REGISTRY")
    return file


# --- downloads -------------------------------------------------------------------------------------------------------


def download(entry: dict[str, Any], target: Path, progress: Progress | None = None) -> None:
    """Fetches the snapshot that `entry` of `fetch_registry()` describes, and puts it at `target`, complete and checked.

    A broken transfer is resumed, here a few times and by the next call. `progress` hears of bytes.
    Raises `RegistryError`; `SnapshotError` when it is not a snapshot this vpod reads; `OSError`.
    """
    folder = paths.download_folder()
    part = folder / f"{entry['sha256']}.part"
    with paths.locked(folder / f"{entry['sha256']}.lock"):
        if _is_file(target, entry):
            return
        with disk_full_named(part):
            _complete(part, entry, progress)
        try:
            Snapshot(part).close()
        except SnapshotError as error:
            _discard(part)
            raise type(error)(f"{entry['url']}: {error}") from None
        with disk_full_named(target):
            _move(part, target)
        _validator(part).unlink(missing_ok=True)


def _complete(part: Path, entry: dict[str, Any], progress: Progress | None) -> None:
    """Makes `part` the whole file, beginning with what is there of it. The caller holds its lock."""
    for attempt in range(ATTEMPTS):
        had = part.stat().st_size if part.exists() else 0
        try:
            if had < entry["size"]:
                _append(part, entry, had, progress)
        except Interrupted:
            if attempt == ATTEMPTS - 1:
                raise
            time.sleep(0.1 * 2**attempt)
            continue
        if _is_file(part, entry):
            return
        _discard(part)
        if not had:  # else what an earlier transfer left may be what was wrong
            break
    url = entry["url"]
    raise RegistryError(f"{url}: is not the file that the catalogue describes: wrong size or SHA-256; nothing was kept")


def _append(part: Path, entry: dict[str, Any], had: int, progress: Progress | None) -> None:
    """Fetches what `part` lacks, and no more than one byte beyond. Raises `Interrupted` when it does not all come."""
    url: str = entry["url"]
    size: int = entry["size"]
    known = _validator(part)
    validator = known.read_text("ascii", "replace") if had and known.exists() else ""
    with _fetching(url, catalog_url() or "", had, validator) as answer, part.open("ab") as file:
        file.truncate(answer.start)
        with paths.writing(known, durable=False) as note:
            note.write(answer.validator.encode())
        done = answer.start
        while chunk := _some(answer, url, min(CHUNK, size + 1 - done)):
            done += len(chunk)
            file.write(chunk)
            if progress:
                progress(min(done, size), size)
    if done < size:
        raise Interrupted(f"{url}: broke off after {done} of {size} bytes; try again to resume")


def _validator(part: Path) -> Path:
    """Beside `part`: what the server said identifies this state of the file, for `If-Range`."""
    return part.with_suffix(".etag")


def _discard(part: Path) -> None:
    part.unlink()
    _validator(part).unlink(missing_ok=True)


def _is_file(path: Path, entry: dict[str, Any]) -> bool:
    """Whether `path` is, byte for byte, the file that `entry` describes."""
    try:
        with path.open("rb") as file:
            return bool(os.fstat(file.fileno()).st_size == entry["size"] and _digest(file) == entry["sha256"])
    except FileNotFoundError:
        return False


def _digest(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _move(source: Path, target: Path) -> None:
    """Renames `source` to `target`, through a copy when they are on different disks."""
    fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with source.open("rb") as original:
            _copy(original, target, 0o600)
        source.unlink()


def _copy(source: BinaryIO, target: Path, mode: int) -> str:
    """Copies the rest of `source` to `target`; returns its SHA-256."""
    digest = hashlib.sha256()
    with paths.writing(target, mode=mode) as copy:
        while chunk := source.read(CHUNK):
            digest.update(chunk)
            copy.write(chunk)
    return digest.hexdigest()


# --- publishing ------------------------------------------------------------------------------------------------------


def publish(directory: str | os.PathLike[str], snapshots: Iterable[str | os.PathLike[str]]) -> Path:
    """Puts `snapshots` (files) and a catalogue of them into `directory`, for any web server; returns its path.

    A catalogue that is there is extended; entries of the same name and tag are replaced. A file's name contains its
    identity, and files once published stay, so that downloads under way are not disturbed; the catalogue comes last.

    Raises what `Snapshot` raises for a bad file, `SnapshotError` for one without a proper name and tag in its metadata,
    `RegistryError` for a damaged catalogue, and `OSError`.
    """
    folder = Path(directory)
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    catalog = folder / CATALOG
    with paths.locked(folder / ".lock"):
        url = catalog.resolve().as_uri()
        previous = json.loads(catalog.read_bytes())["snapshots"] if _is_catalog(catalog, url) else []
        entries = {(entry["name"], entry["tag"]): entry for entry in previous}
        for path in snapshots:
            entry = _published(folder, Path(path))
            entries[entry["name"], entry["tag"]] = entry
        listed = {"format": FORMAT, "snapshots": [entries[key] for key in sorted(entries)]}
        try:
            text = json.dumps(listed, indent=1, ensure_ascii=False).encode() + b"\n"
        except (ValueError, RecursionError):  # in keys that nobody looked at, which are kept as they are
            why = "has an entry that cannot be written again; delete the keys that no vpod wrote"
            raise RegistryError(f"{catalog}: {why}") from None
        _parse_catalog(text, url)
        with paths.writing(catalog, mode=0o644) as file:
            file.write(text)
    return catalog


def _is_catalog(path: Path, url: str) -> bool:
    """Whether there is a catalogue at `path`. Raises `RegistryError` when there is something else."""
    if not path.exists():
        return False
    _parse_catalog(_read_catalog(url), url)
    return True


def _published(folder: Path, path: Path) -> dict[str, Any]:
    """Copies the snapshot `path`, verified, into `folder`; returns its entry."""
    with Snapshot(path) as snap:
        snap.verify()
        name, tag = snap.meta.get("name"), snap.meta.get("tag")
    if not is_name(name) or not is_name(tag):
        raise SnapshotError(f"{path}: cannot be published: {name!r}:{tag!r} is no name and tag; build it with both")
    description = snap.meta.get("description", "")
    created = snap.meta.get("created")
    if not is_description(description):
        raise SnapshotError(f"{path}: cannot be published: its description is not one line of printable text")
    if not is_time(created):
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(path.stat().st_mtime))
    target = folder / f"{name}-{tag}-{snap.id[:16]}.snap"
    with path.open("rb") as file:
        digest = _copy(file, target, 0o644)
    try:
        with Snapshot(target) as copy:
            copy.verify()
        if copy.id != snap.id:
            raise SnapshotError(f"{path}: changed while it was published; publish it again")
    except SnapshotError:
        target.unlink()
        raise
    return {
        "name": name,
        "tag": tag,
        "url": target.name,
        "size": snap.size,
        "sha256": digest,
        "description": description,
        "has_python": snap.meta.get("has_python") is True,
        "created": created,
    }
