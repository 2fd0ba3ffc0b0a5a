"""The Debian archive: which mirror, is it genuine, what does it have.

Trust runs in one line: the keys in `kernels/` verify `InRelease`; `InRelease` has the SHA-256 of each
`Packages.xz`; `Packages` has the SHA-256 of each `.deb`. Nothing is used before its link holds, and only the signed
part of `InRelease` is ever read.

    >>> archive = Archive(fetcher, suite="trixie", components=["main"])
    >>> archive.index.get("opensbi").version
    '1.6-1'

The mirror comes from `--mirror`, from `VPOD_DEBIAN_MIRROR`, or from this host's own apt configuration
(sources.list(5), both formats). Formats: Debian wiki "DebianRepository/Format", deb822(5).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from urllib.parse import quote, urlsplit

import pysequoia

from vpod.errors import SourceUnreachable, VerificationFailed

from . import deb822, kernel_folder
from .inflate import inflate
from .resolve import Index, Package
from .sources import Digest, Fetcher, Wanted

ARCHITECTURE = "riscv64"
APT = Path("/etc/apt")
MAX_RELEASE = 4 << 20
MAX_PACKAGES = 256 << 20  # uncompressed; Debian's is 54 MB
_CODENAMES = ("buster", "bullseye", "bookworm", "trixie", "forky", "duke", "sid")
_SUITES = frozenset((*_CODENAMES, "oldoldstable", "oldstable", "stable", "testing", "unstable"))
_UBUNTU = frozenset(("bionic", "focal", "jammy", "noble", "oracular", "plucky", "questing", "resolute"))
_CLOCK_TOLERANCE = timedelta(days=1)


@dataclass(frozen=True)
class AptEntry:
    """One line or stanza of the host's apt configuration, of type `deb`."""

    uris: tuple[str, ...]
    suites: tuple[str, ...]
    components: tuple[str, ...]


def mirrors(given: str | None = None, *, apt: Path = APT) -> list[str]:
    """Base URLs of Debian mirrors to try, in order, without a trailing slash.

    Raises `SourceUnreachable` when nobody named one and this host's apt has none, or has only Ubuntu's.
    """
    named = given or os.environ.get("VPOD_DEBIAN_MIRROR", "")
    if named:
        return [named.rstrip("/")]
    entries = list(_apt_entries(apt))
    found = [uri.rstrip("/") for entry in entries if _is_debian(entry) for uri in entry.uris if _is_usable(uri)]
    if found:
        return list(dict.fromkeys(found))
    if any(_UBUNTU & {suite.partition("-")[0] for suite in entry.suites} for entry in entries):
        why = "this host's apt is set up for Ubuntu, whose archive is not Debian's"
    elif entries:
        why = f"no entry of this host's apt configuration ({apt}) is a Debian archive"
    else:
        why = f"this host has no apt configuration ({apt})"
    raise SourceUnreachable(
        f"No Debian mirror is known: {why}.\n"
        "Set VPOD_DEBIAN_MIRROR to the URL of a Debian mirror (the folder that has dists/ and pool/), "
        "or pass --mirror URL."
    )


def security_mirrors(apt: Path = APT) -> list[str]:
    """Base URLs of the security archive in the host's apt configuration, for the guest's own sources file."""
    found = [
        uri.rstrip("/")
        for entry in _apt_entries(apt)
        if any(suite.removesuffix("-security") in _SUITES and suite.endswith("-security") for suite in entry.suites)
        for uri in entry.uris
        if _is_usable(uri)
    ]
    return list(dict.fromkeys(found))


def without_credentials(uri: str) -> str:
    """A mirror's URL as it may stand in a snapshot: no user name, no password."""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _is_debian(entry: AptEntry) -> bool:
    return "main" in entry.components and bool(_SUITES & set(entry.suites))


def _is_usable(uri: str) -> bool:
    try:
        return urlsplit(uri).scheme in ("http", "https", "file")
    except ValueError:  # an unfinished IPv6 address
        return False


def _apt_entries(apt: Path) -> Iterable[AptEntry]:
    """The `deb` entries of sources.list, *.list and *.sources, enabled ones only."""
    lists = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*.list"))]
    for path in lists:
        for line in _read(path).splitlines():
            match = re.match(r"\s*deb\s+(?:\[[^\]]*\]\s*)?(\S+)\s+(\S+)\s*([^#]*)", line)
            if match:
                yield AptEntry((match[1],), (match[2],), tuple(match[3].split()))
    for path in sorted((apt / "sources.list.d").glob("*.sources")):
        for paragraph in deb822.paragraphs(_read(path)):
            fields = {key.lower(): value.split() for key, value in deb822.parse(paragraph, str(path)).items()}
            if "deb" in fields.get("types", []) and fields.get("enabled", ["yes"]) != ["no"]:
                yield AptEntry(*(tuple(fields.get(key, ())) for key in ("uris", "suites", "components")))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""


def archive_keys() -> list[pysequoia.Cert]:
    """The pinned public keys of the Debian archive."""
    return [pysequoia.Cert.from_bytes(path.read_bytes()) for path in sorted(kernel_folder.folder().glob("*.gpg"))]


def verify_release(
    data: bytes, keys: Sequence[pysequoia.Cert], suite: str, *, where: str, now: datetime | None = None
) -> dict[str, str]:
    """The fields of a signed `InRelease`, read from its signed part only.

    At least one signature must be valid and made by one of `keys`; `Suite` or `Codename` must be `suite`; `Date` must
    not lie in the future, nor `Valid-Until` in the past. Raises `VerificationFailed` naming `where`.
    """
    pinned = {key.fingerprint.lower() for key in keys}
    try:
        result = pysequoia.verify(data, lambda _ids: list(keys))
        signers = {signature.certificate.lower() for signature in result.valid_sigs}
    except Exception as error:  # pysequoia promises no exception type
        why = str(error).split("\n")[0].rstrip(".")  # the rest is a backtrace of the library's
        raise VerificationFailed(f"{where}: {why}. Use another mirror.") from error
    if not signers & pinned or result.bytes is None:
        raise VerificationFailed(f"{where}: not signed by a key that vpod trusts (kernels/*.gpg). Use another mirror.")
    fields = deb822.parse(result.bytes.decode("utf-8", "replace").strip("\r\n"), where)
    if suite not in (fields.get("Suite"), fields.get("Codename")):
        raise VerificationFailed(f"{where}: is signed, but for {fields.get('Codename')!r} and not for {suite!r}")
    now = now or datetime.now(timezone.utc)
    date = _date(fields.get("Date", ""), where)
    if date > now + _CLOCK_TOLERANCE:
        raise VerificationFailed(f"{where}: is dated {date:%Y-%m-%d}, in the future. Is this computer's clock right?")
    if "Valid-Until" in fields and _date(fields["Valid-Until"], where) < now:
        raise VerificationFailed(
            f"{where}: was valid until {fields['Valid-Until']}. The mirror is out of date, or the clock is wrong."
        )
    return fields


def _date(text: str, where: str) -> datetime:
    try:
        date = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError, IndexError) as error:  # the last two: years and zones beyond any
        raise VerificationFailed(f"{where}: {text[:60]!r} is no date") from error
    return date if date.tzinfo else date.replace(tzinfo=timezone.utc)


class Archive:
    """One suite on one mirror, verified. `mirror` is the first of those tried that could be reached."""

    def __init__(
        self,
        fetcher: Fetcher,
        *,
        suite: str,
        components: Sequence[str],
        mirror: str | None = None,
        keys: Sequence[pysequoia.Cert] | None = None,
        apt: Path = APT,
    ) -> None:
        """Fetches and verifies `InRelease`. Raises `SourceUnreachable` listing every mirror, `VerificationFailed`."""
        self._fetcher = fetcher
        self.report = fetcher.report
        self._components = list(components)
        self._trusted = list(keys) if keys is not None else archive_keys()
        self.suite = suite
        failures: list[str] = []
        for base in mirrors(mirror, apt=apt):
            try:
                self._take_release(base, suite)
            except SourceUnreachable as error:
                failures.append(str(error))
                continue
            return
        raise SourceUnreachable("\n".join(failures))

    def _take_release(self, mirror: str, name: str) -> None:
        """Fetch and verify the release that stands under a name of the suite, and go on with it."""
        url = f"{mirror}/dists/{quote(name)}/InRelease"
        fields: dict[str, str] = {}

        def check(data: bytes) -> None:
            fields.update(verify_release(data, self._trusted, self.suite, where=url))

        self._fetcher.fetch_proved("InRelease", [url], check, MAX_RELEASE)
        self.mirror, self.release, self._folder = mirror, fields, f"{mirror}/dists/{quote(name)}/"
        self.__dict__.pop("digests", None)

    @cached_property
    def digests(self) -> dict[str, tuple[str, int]]:
        """SHA-256 and size of each index that the signed release lists, by its path under `dists/<suite>/`."""
        table: dict[str, tuple[str, int]] = {}
        for line in self.release.get("SHA256", "").splitlines():
            words = line.split()
            if len(words) == 3 and re.fullmatch(r"[0-9]{1,15}", words[1]):
                table[words[2]] = words[0], int(words[1])
        return table

    @cached_property
    def index(self) -> Index:
        """The packages of all components, fetched and checked when first asked for.

        A mirror that is being updated may have a new release and old indexes. Its other name of the suite (`stable` of
        `trixie`) is then often whole: another signed release of the same suite, which is said.
        """
        try:
            return Index([self._packages(component) for component in self._components])
        except (SourceUnreachable, VerificationFailed):
            first, folder = self.release, self._folder
            for name in (self.release.get("Suite"), self.release.get("Codename")):
                if name is None or name == self.suite:
                    continue
                with suppress(SourceUnreachable, VerificationFailed):
                    self._take_release(self.mirror, name)
                    found = Index([self._packages(component) for component in self._components])
                    self.report.line(
                        f"The mirror's {self.suite} of {first.get('Date')} does not fit its indexes; "
                        f"took its {name}, of {self.release.get('Date')}"
                    )
                    return found
            self.release, self._folder = first, folder
            self.__dict__.pop("digests", None)
            raise

    def _packages(self, component: str) -> str:
        path = f"{component}/binary-{ARCHITECTURE}/Packages.xz"
        if path not in self.digests:
            raise VerificationFailed(f"{self.mirror}: {self.suite} lists no {path}; it has nothing for {ARCHITECTURE}")
        sha256, size = self.digests[path]
        urls = [self._folder + path]
        if self.release.get("Acquire-By-Hash") == "yes":
            urls.insert(0, f"{self._folder}{path.rpartition('/')[0]}/by-hash/SHA256/{sha256}")
        name = f"Packages-{self.suite}-{component}-{ARCHITECTURE}.xz"
        wanted = Wanted(name, tuple(urls), Digest("sha256", sha256), size)
        (found,) = self._fetcher.fetch_all([wanted], f"the package index of {self.suite}/{component}")
        return inflate(found.read_bytes(), limit=MAX_PACKAGES, name=wanted.name).decode("utf-8", "replace")

    def fetch(self, packages: Sequence[Package], title: str) -> list[Path]:
        """The `.deb` files of packages, in their order."""
        return self._fetcher.fetch_all([self._wanted(package) for package in packages], title)

    def _wanted(self, package: Package) -> Wanted:
        url = f"{self.mirror}/{quote(package.filename, safe='/+~:%')}"
        name = package.filename.rpartition("/")[2]
        return Wanted(name, (url,), Digest("sha256", package.sha256), package.size)
