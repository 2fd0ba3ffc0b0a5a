"""What all tests share: a home of their own, and real snapshots for those that need a guest.

A test that asks for `alpine`, `debian` or `first_run`, directly or through a fixture of its own, is marked ``guest``
by itself, so that ``pytest -m "not guest"`` is quick and nobody can forget the mark.

Example::

    def test_something(alpine: str) -> None:
        with Sandbox.create(alpine) as box: ...
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from tests import real_snapshots
from tests.real_snapshots import Made, Unavailable
from vpod import Sandbox, paths

_NEEDS_GUEST = {"alpine_build", "first_run", "snapshot"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--keep-snapshots",
        action="store_true",
        help="use the real snapshots of the last run, even if what they are made of has changed",
    )
    parser.addoption(
        "--kernel",
        choices=["stock", "lean"],
        default="stock",
        help="which kernel the real snapshots have; the lean one must have been built: vpod-build --kernel lean",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Before any test: their own VPOD_HOME, none of the user's choices that would change what they see, and Ctrl-C.

    A shell that starts the tests in the background has SIGINT ignored, which every child would inherit.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    lean = config.getoption("--kernel") == "lean"
    os.environ["VPOD_HOME"] = str(real_snapshots.own_home(lean=lean))
    if lean and not any(paths.kernel_folder().glob("lean-*.kernel")):
        raise pytest.UsageError("--kernel lean: there is no such kernel here; first run: vpod-build --kernel lean")
    for name in ("VPOD_SNAPSHOT", "VPOD_REGISTRY", "VPOD_OFFLINE", "VPOD_LOG"):
        os.environ.pop(name, None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if _NEEDS_GUEST & set(getattr(item, "fixturenames", ())):
            item.add_marker("guest")


def _made(make: Callable[[], Made]) -> Made:
    try:
        return make()
    except Unavailable as unavailable:
        pytest.skip(str(unavailable))


@pytest.fixture(scope="session")
def alpine_build(pytestconfig: pytest.Config) -> Made:
    """``vpod-build alpine-3.23``: how it went."""
    return _made(lambda: real_snapshots.make("alpine-3.23", keep=pytestconfig.getoption("--keep-snapshots")))


@pytest.fixture(scope="session")
def alpine(alpine_build: Made) -> str:
    """The path of the ``alpine:3.23`` snapshot, which is also known by that name."""
    return str(alpine_build.path)


@pytest.fixture(scope="session")
def first_run(pytestconfig: pytest.Config) -> Made:
    """The first ``vpod run -- uname -m`` on a machine without a snapshot: how it went. It made the default one."""
    return _made(lambda: real_snapshots.make_default(keep=pytestconfig.getoption("--keep-snapshots")))


@pytest.fixture(scope="session")
def debian_build(first_run: Made, pytestconfig: pytest.Config) -> Made:
    """``debian:13``: mostly what the first run has made; else ``vpod-build debian-13``."""
    return _made(lambda: real_snapshots.make("debian-13", keep=pytestconfig.getoption("--keep-snapshots")))


@pytest.fixture(scope="session")
def debian(debian_build: Made) -> str:
    """The path of the ``debian:13`` snapshot, which is also known by that name."""
    return str(debian_build.path)


@pytest.fixture(scope="session", params=["alpine", "debian"])
def snapshot(request: pytest.FixtureRequest) -> str:
    """Each of them in turn: two C libraries, and two shells for the session (busybox's and bash)."""
    return str(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def box(snapshot: str) -> Iterator[Sandbox]:
    """A sandbox that a module's tests share, of each snapshot in turn."""
    with Sandbox.create(snapshot) as box:
        yield box


@pytest.fixture(scope="module")
def debian_box(debian: str) -> Iterator[Sandbox]:
    """A sandbox with Python that a module's tests share."""
    with Sandbox.create(debian) as box:
        yield box
