"""Fetching what a recipe names: mirrors in order, resumed when broken off, kept by digest, never before it is checked.

    >>> fetcher = Fetcher(Report())
    >>> fetcher.fetch(Wanted("rootfs.tar.gz", ("https://…/rootfs.tar.gz",), Digest("sha512", "ad9b…")))
    PosixPath('…/downloads/sha512-ad9b…')

Where it looks, in this order: the cache; each folder and URL of `VPOD_SOURCES` (separated by `:` for folders as in
`PATH`; a URL's own `://` and `:port` are no separators) by the file's own name; then the URLs given. `VPOD_OFFLINE=1`
leaves out every place that needs the network.

Invariants:

- A file enters the cache under its digest, by rename, after all its bytes were hashed. What failed the check is
  deleted. Two processes may want the same file: the second waits for the first and finds it there.
- An unfinished download is a `.part` file, resumed with a range request; if what came of resuming fails the check,
  it is fetched once more from the start before it is called wrong.
- No answer is read beyond the size expected (or `MAX_BYTES`), and a silent server is given up after `TIMEOUT`.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

import vpod
from vpod import paths
from vpod.errors import BuildError, SourceUnreachable, VerificationFailed

from .progress import Bar, Report, size

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 4  # at one URL, each resuming where the last one stopped
MAX_BYTES = 1 << 30  # of a file whose size nobody has said
_CHUNK = 1 << 18
_CONNECTIONS = 4


@dataclass(frozen=True)
class Digest:
    """A pinned digest: `algorithm` is `sha256` or `sha512`, `value` its hex digits in lower case."""

    algorithm: str
    value: str

    def __post_init__(self) -> None:
        length = {"sha256": 64, "sha512": 128}.get(self.algorithm)
        if length is None or not re.fullmatch(rf"[0-9a-f]{{{length}}}", self.value):
            raise BuildError(f"{self.algorithm}:{self.value[:140]!r} is no SHA-256 or SHA-512 digest in lower-case hex")

    def __str__(self) -> str:
        return f"{self.algorithm}-{self.value}"


@dataclass(frozen=True)
class Wanted:
    """A file to fetch: its name (as messages and `VPOD_SOURCES` know it), where it is, what it must be."""

    name: str
    urls: tuple[str, ...]
    digest: Digest
    size: int | None = None


def split_places(value: str) -> list[str]:
    """The folders and URLs of `VPOD_SOURCES`, separated by `:` (or spaces or line ends, as URLs are often written).

    >>> split_places("/srv/a:http://mirror:8080/x:../b")
    ['/srv/a', 'http://mirror:8080/x', '../b']
    """
    places: list[str] = []
    for word in value.split():
        for piece in word.split(":"):
            joins_scheme = piece.startswith("//") and places and places[-1] in ("http", "https", "file")
            port = bool(re.match(r"[0-9]+(/|$)", piece)) and places and re.fullmatch(r"https?://[^/]*", places[-1])
            if joins_scheme or port:
                places[-1] += ":" + piece
            elif piece:
                places.append(piece)
    return places


def is_offline() -> bool:
    """True when `VPOD_OFFLINE` asks for no network use."""
    return os.environ.get("VPOD_OFFLINE", "") not in ("", "0")


class Fetcher:
    """Fetches and keeps. One object serves a whole build; `fetch` may be called from several threads."""

    def __init__(
        self,
        report: Report,
        *,
        cache: Path | None = None,
        places: Sequence[str] | None = None,
        offline: bool | None = None,
    ) -> None:
        self.report = report
        self.cache = cache if cache is not None else paths.download_folder()
        self.places = list(places) if places is not None else split_places(os.environ.get("VPOD_SOURCES", ""))
        self.offline = is_offline() if offline is None else offline

    def fetch(self, wanted: Wanted, bar: Bar | None = None) -> Path:
        """The file's path in the cache, fetched if need be.

        Raises `VerificationFailed` when a place had it with another digest, `SourceUnreachable` listing every place
        that was tried when none had it.
        """
        final = self.cache / str(wanted.digest)
        with paths.locked(self.cache / f".{wanted.digest}.lock"):
            if not (final.is_file() and self._holds(final, wanted)):
                self._fetch_to(final, wanted, bar)
            elif bar is not None:
                bar.advance(final.stat().st_size)
        return final

    def fetch_all(self, wanted: Sequence[Wanted], title: str) -> list[Path]:
        """All of them, a few at once, under one bar; in the order given."""
        total = sum(each.size or 0 for each in wanted)
        with self.report.step(f"Fetching {title}", total=total or None) as bar:
            with ThreadPoolExecutor(_CONNECTIONS) as pool:
                jobs = [pool.submit(self.fetch, each, bar) for each in wanted]
                try:
                    found = [job.result() for job in jobs]
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    raise
            total = sum(path.stat().st_size for path in found)
            count = f"{len(found)} files, " if len(found) > 1 else ""
            bar.done(f"Fetched and checked {title}: {count}{size(total)}")
        return found

    def fetch_proved(
        self, name: str, urls: Sequence[str], check: Callable[[bytes], None], limit: int, *, fixed: bool = False
    ) -> bytes:
        """A file without a digest known beforehand, such as a signed list: the newest that can be had.

        `check` raises `VerificationFailed` unless the bytes prove themselves (by signature); only then are they
        cached. The cached copy serves when the network is not to be used, and always if `fixed`: what has that URL
        never changes.
        """
        key = hashlib.sha256("\n".join(urls).encode()).hexdigest()
        kept = self.cache / f"proved-{key}"
        tried: list[str] = []
        if fixed and kept.is_file() and kept.stat().st_size <= limit:
            with suppress(VerificationFailed):
                data = kept.read_bytes()
                check(data)
                return data
        for url in urls:
            try:
                data = self._read_small(url, limit)
            except (OSError, http.client.HTTPException, _Refused) as error:
                tried.append(f"{url}: {_reason(error)}")
                continue
            check(data)
            with paths.writing(kept) as file:
                file.write(data)
            return data
        if self.offline and kept.is_file() and kept.stat().st_size <= limit:
            data = kept.read_bytes()
            check(data)
            return data
        raise SourceUnreachable(_unreachable(name, tried, self.offline, by_name=False))

    def _read_small(self, url: str, limit: int) -> bytes:
        local = _local(url)
        with local.open("rb") if local is not None else self._open(url, 0) as answer:
            data = answer.read(limit + 1)
        if len(data) > limit:
            raise VerificationFailed(f"{url}: more than {limit} bytes; that is not the file expected")
        return data

    def _holds(self, path: Path, wanted: Wanted) -> bool:
        """Whether a cached file still has its digest (a disk may rot, a person may edit)."""
        if wanted.size is not None and path.stat().st_size != wanted.size:
            return False
        return _digest_of(path, wanted.digest.algorithm) == wanted.digest.value

    def _fetch_to(self, final: Path, wanted: Wanted, bar: Bar | None) -> None:
        tried: list[str] = []
        for place in self._candidates(wanted):
            try:
                if self._try(place, final, wanted, bar):
                    return
                tried.append(f"{place}: not there")
            except (OSError, http.client.HTTPException, _Refused) as error:
                tried.append(f"{place}: {_reason(error)}")
        raise SourceUnreachable(_unreachable(wanted.name, tried, self.offline))

    def _candidates(self, wanted: Wanted) -> Iterable[str]:
        """Where the file may be, in order."""
        base = wanted.name.rsplit("/", 1)[-1]
        for place in self.places:
            yield f"{place.rstrip('/')}/{base}"
        yield from wanted.urls

    def _try(self, place: str, final: Path, wanted: Wanted, bar: Bar | None) -> bool:
        """Fetch from one place; False if it is a folder that does not have the file."""
        folder = _local(place)
        if folder is not None:
            if not folder.is_file():
                return False
            with paths.writing(final, durable=False) as target, folder.open("rb") as source:
                shutil.copyfileobj(_Limited(source, wanted, bar), target, _CHUNK)
                _require(wanted, _digest_of(target, wanted.digest.algorithm), place)
            return True
        part = final.with_name(f".{wanted.digest}.unfinished")
        resumed = part.exists() and part.stat().st_size > 0
        self._download(place, part, wanted, bar)
        found = _digest_of(part, wanted.digest.algorithm)
        if found != wanted.digest.value and resumed:
            part.unlink()
            self._download(place, part, wanted, bar)
            found = _digest_of(part, wanted.digest.algorithm)
        if found != wanted.digest.value:
            part.unlink()
        _require(wanted, found, place)
        os.replace(part, final)
        return True

    def _download(self, url: str, part: Path, wanted: Wanted, bar: Bar | None) -> None:
        """Bring `part` up to the whole file, in up to `ATTEMPTS` requests as long as each brings something."""
        for attempt in range(ATTEMPTS):
            before = part.stat().st_size if part.exists() else 0
            if wanted.size is not None and before >= wanted.size:
                return
            try:
                self._download_once(url, part, wanted, bar)
                return
            except urllib.error.HTTPError:
                raise
            except (OSError, http.client.HTTPException):
                after = part.stat().st_size if part.exists() else 0
                if after <= before or attempt == ATTEMPTS - 1:
                    raise

    def _download_once(self, url: str, part: Path, wanted: Wanted, bar: Bar | None) -> None:
        start = part.stat().st_size if part.exists() else 0
        limit = wanted.size if wanted.size is not None else MAX_BYTES
        try:
            answer = self._open(url, start)
        except urllib.error.HTTPError as error:
            if error.code != 416 or start == 0:  # 416: nothing after `start`; ours is not a part of theirs
                raise
            part.unlink()
            start, answer = 0, self._open(url, 0)
        with answer:
            if start and not _continues(answer, start):
                start = 0
            with part.open("r+b" if start else "wb") as file:
                file.seek(start)
                file.truncate()
                if bar is not None and start:
                    bar.advance(start)
                self._copy(answer, file, limit - start, wanted, bar)

    def _copy(self, answer: IO[bytes], file: IO[bytes], most: int, wanted: Wanted, bar: Bar | None) -> None:
        """Bytes from the network into the file; at most `most` of them."""
        while chunk := answer.read(_CHUNK):
            most -= len(chunk)
            if most < 0:
                file.truncate(0)
                raise _Refused(f"sends more than the {wanted.size or MAX_BYTES} bytes expected")
            file.write(chunk)
            if bar is not None:
                bar.advance(len(chunk))
                bar.note(wanted.name)
        if wanted.size is not None and most > 0:
            raise http.client.IncompleteRead(b"", most)

    def _open(self, url: str, start: int) -> http.client.HTTPResponse:
        """A GET, from byte `start` on."""
        if self.offline:
            raise _Refused("needs the network, and VPOD_OFFLINE is set")
        headers = {"User-Agent": f"vpod-build/{getattr(vpod, '__version__', '0')}", "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        request = urllib.request.Request(url, headers=headers)
        try:
            answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=TIMEOUT)
        except ValueError as error:  # the address, or one that the server redirects to, is none
            raise _Refused(f"leads to what is no address ({error})") from error
        return answer


class _Refused(Exception):
    """A place that is not used, with the reason; never leaves this module."""


class _Limited:
    """A local file read for copying: counts, and refuses what is longer than expected."""

    def __init__(self, file: IO[bytes], wanted: Wanted, bar: Bar | None) -> None:
        self._file = file
        self._left = wanted.size if wanted.size is not None else MAX_BYTES
        self._bar = bar

    def read(self, amount: int = _CHUNK, /) -> bytes:
        data = self._file.read(amount)
        self._left -= len(data)
        if self._left < 0:
            raise _Refused("is longer than expected")
        if self._bar is not None:
            self._bar.advance(len(data))
        return data


def _local(place: str) -> Path | None:
    """The path of a folder's file or a `file:` URL; None for a URL that needs the network."""
    try:
        parts = urlsplit(place)
    except ValueError as error:
        raise _Refused(f"is no address ({error})") from error
    if parts.scheme in ("http", "https"):
        return None
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    if "://" in place:
        raise _Refused(f"{parts.scheme}: is no kind of URL that vpod fetches from; use http, https or file")
    return Path(place)


def _continues(answer: http.client.HTTPResponse, start: int) -> bool:
    """Whether a server honoured the range (RFC 9110 section 15.3.7); one that did not sends all from the start."""
    if answer.status != 206:
        return False
    match = re.match(r"bytes ([0-9]{1,15})-", answer.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != start:
        raise _Refused("answers a range request with another range")
    return True


def _digest_of(file: Path | IO[bytes], algorithm: str) -> str:
    """The digest of a whole file, given by its path or open for reading."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            return _digest_of(opened, algorithm)
    hasher = hashlib.new(algorithm)
    file.seek(0)
    while chunk := file.read(_CHUNK):
        hasher.update(chunk)
    return hasher.hexdigest()


def _require(wanted: Wanted, found: str, place: str) -> None:
    if found != wanted.digest.value:
        kind = wanted.digest.algorithm.upper().replace("SHA", "SHA-")
        raise VerificationFailed(
            f"{wanted.name}: {kind} is {found}, the recipe says {wanted.digest.value}.\n"
            f"It came from {place}. Nothing was kept; delete or mend that file, or use another mirror."
        )


def _reason(error: Exception) -> str:
    """Why a place failed, in a few words."""
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return str(getattr(error.reason, "strerror", None) or error.reason)
    if isinstance(error, http.client.IncompleteRead):
        return "the connection broke off"
    with suppress(AttributeError):
        if error.strerror:  # type: ignore[attr-defined]  # OSError has it; the others say AttributeError
            return str(error.strerror)  # type: ignore[attr-defined]
    return str(error) or type(error).__name__


def _unreachable(name: str, tried: Sequence[str], offline: bool, *, by_name: bool = True) -> str:
    """The message that lists what was tried and what would help; `by_name`: `VPOD_SOURCES` may have the file."""
    lines = [f"{name} could not be had. Tried:", *(f"  {each}" for each in tried)]
    if not tried:
        lines[0] = f"{name} could not be had: there is no place to look for it."
    if offline:
        lines.append("VPOD_OFFLINE is set: unset it, or name a mirror on this computer (--mirror file:///FOLDER).")
    else:
        lines.append("What helps: a network that reaches one of these, or a mirror that can be reached (--mirror URL).")
    if by_name:
        base = name.rsplit("/", 1)[-1]
        lines.append(f"Or get {base} in another way, and name its folder in VPOD_SOURCES.")
    return "\n".join(lines)
