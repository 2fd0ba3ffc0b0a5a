"""Snapshots by name: the cache never hands out what is not whole, and names mean what they say."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vpod import paths, snapshot, snapshots
from vpod.errors import BuildError, SnapshotDamaged, SnapshotNotFound
from vpod.snapshots import Ref

MIB = 1 << 20
PAGE = 4096
ROOT = Path(__file__).parents[1]

BUILDER = '''
"""Stands in for the real builder: writes down how it was called, and makes what it was told to."""
import json, os, sys, time
from pathlib import Path
from vpod import snapshot, snapshots

home = Path(os.environ["VPOD_HOME"])
with open(home / "calls", "a") as log:
    log.write(json.dumps([sys.argv[1:], sys.stdin.read(), sys.path[0]]) + "\\n")
print("data must not go to standard output")
time.sleep(0.3)
if (home / "fail").exists():
    sys.exit(125)
ref = "debian:13" if sys.argv[-1] == "--default" else sys.argv[-1].replace("-", ":", 1)
if not (home / "do nothing").exists():
    snapshot.write(snapshots.path_of(ref), {"name": ref}, b"built", memoryview(bytearray(64 << 20)))
    if sys.argv[-1] == "--default":
        snapshots.set_default(ref)
'''


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("VPOD_HOME", str(home))
    for name in ("VPOD_SNAPSHOT", "VPOD_REGISTRY", "VPOD_OFFLINE", "VPOD_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture
def builder(tmp_path: Path, own_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for `vpod-build`; the path of the log of its calls."""
    package = tmp_path / "programs" / "vpod_builder"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(BUILDER)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}{os.pathsep}{ROOT}")
    return own_home / "calls"


def calls(log: Path) -> list[list[str]]:
    return [json.loads(line)[0] for line in log.read_text().splitlines()] if log.exists() else []


def make(ref: str, state: bytes = b"state", **meta: Any) -> Path:
    """A small snapshot of that name."""
    ram = bytearray(64 * MIB)
    ram[: len(ref)] = ref.encode()
    name, _, tag = ref.partition(":")
    path = snapshots.path_of(ref)
    snapshot.write(path, {"name": name, "tag": tag, **meta}, state, memoryview(ram), level=1)
    return path


def expanded() -> list[str]:
    return sorted(os.listdir(paths.cache_folder()))


# --- names -----------------------------------------------------------------------------------------------------------


def test_a_name_without_a_tag_means_latest() -> None:
    assert snapshots.parse("alpine") == Ref("alpine", "latest")
    assert snapshots.parse("alpine:3.23") == Ref("alpine", "3.23")
    assert str(snapshots.parse("mine:ready_1-b")) == "mine:ready_1-b"


NO_NAMES = ["", ":", "alpine:", ":3", "a:b:c", "A", "a@b", "-x", ".x", "x" * 65, "a:" + "x" * 65, "a b", "a\n", "a\0"]
NO_PATHS = ["../x", "a/b", "a:..", "a:../../etc/passwd", "~", "a\\b", "a%2f", "ä", "a:\u0663"]


@pytest.mark.parametrize("ref", [*NO_NAMES, *NO_PATHS])
def test_what_is_no_name_is_refused(ref: str) -> None:
    with pytest.raises(SnapshotNotFound, match="is not a snapshot's name"):
        snapshots.parse(ref)
    with pytest.raises(SnapshotNotFound):
        snapshots.path_of(ref)


def test_no_two_names_share_a_file() -> None:
    names = ["a:b", "a.b:c", "a:b.c", "a-b:c", "a:b-c", "a_b:c"]
    assert len({snapshots.path_of(name) for name in names}) == len(names)
    assert {snapshots.path_of(name).parent for name in names} == {paths.snapshot_folder()}


def test_latest_is_that_tag_else_the_highest_version() -> None:
    for tag in ("3.9", "3.23", "3.23-python", "nightly"):
        make(f"alpine:{tag}")
    make("alpinist:9.9")
    assert snapshots.locate("alpine").meta["tag"] == "3.23"
    make("alpine:latest")
    assert snapshots.locate("alpine").meta["tag"] == "latest"
    assert snapshots.locate("alpine:3.9").meta["tag"] == "3.9"


def test_another_name_of_the_same_thing() -> None:
    make("debian:13")
    assert snapshots.locate("debian:trixie").meta["tag"] == "13"
    assert snapshots.locate("debian").meta["tag"] == "13"


def test_the_recipes_are_the_builders() -> None:
    tomllib = pytest.importorskip("tomllib", reason="the standard library reads TOML from Python 3.11 on")
    built = {}
    for file in (ROOT / "builder/recipes").glob("*.toml"):
        recipe = tomllib.loads(file.read_text())
        built[file.stem] = (recipe["name"], recipe["tags"][0], set(recipe["tags"][1:]), recipe["summary"])
    known = {r.key: (r.name, r.tag, set(r.aliases), r.description) for r in snapshots.RECIPES}
    assert known == built


# --- the cache -------------------------------------------------------------------------------------------------------


def test_a_located_snapshot_is_ready_to_run() -> None:
    path = make("mine:1", b"the state", packages=["a"])
    for _ in range(2):  # expanded, then found in the cache
        cached = snapshots.locate("mine:1")
        assert cached.meta == {"name": "mine", "tag": "1", "packages": ["a"]}
        assert (cached.state, cached.path, cached.id) == (b"the state", path, snapshot.identity(path))
        assert cached.ram_path.read_bytes() == b"mine:1".ljust(64 * MIB, b"\0")
        assert stat.S_IMODE(cached.ram_path.stat().st_mode) == 0o400
    assert expanded() == [f"{cached.id}.ram", f"{cached.id}.state"]


def test_a_path_is_located_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("mine:1").rename(tmp_path / "moved.snap")
    monkeypatch.chdir(tmp_path)
    assert snapshots.locate("moved.snap") == snapshots.locate("./moved.snap")._replace(path=Path("moved.snap"))
    with pytest.raises(SnapshotNotFound, match="no such file"):
        snapshots.locate("./none.snap")


def test_a_warm_start_is_quick_and_expands_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    make("mine:1", os.urandom(100_000))
    snapshots.locate("mine:1")
    monkeypatch.setattr(snapshot.Snapshot, "expand", lambda *_: pytest.fail("expanded again"))
    times = []
    for _ in range(30):
        begin = time.perf_counter()
        snapshots.locate("mine:1")
        times.append(time.perf_counter() - begin)
    assert sorted(times)[len(times) // 2] < 0.003


def test_importing_loads_nothing_heavy() -> None:
    heavy = ["zstandard", "rich", "urllib.request", "subprocess", "concurrent.futures", "platformdirs", "dataclasses"]
    code = f"import sys; from vpod import snapshots; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], cwd=ROOT) == b"[]\n"


def _cut(ram: Path) -> None:
    os.chmod(ram, 0o600)
    os.truncate(ram, 32 * MIB)


def _cut_and_keep_the_time(ram: Path) -> None:
    status = ram.stat()
    _cut(ram)
    os.utime(ram, ns=(status.st_atime_ns, status.st_mtime_ns))


def _write_a_byte(ram: Path) -> None:
    os.chmod(ram, 0o600)
    with ram.open("r+b") as file:
        file.seek(1 * MIB)
        file.write(b"!")


def _copy_carelessly(ram: Path) -> None:
    data = ram.read_bytes()
    ram.unlink()
    ram.write_bytes(data)


def _link_elsewhere(ram: Path) -> None:
    ram.unlink()
    ram.symlink_to("/etc/passwd")


def _flip_the_state(ram: Path) -> None:
    state = ram.with_suffix(".state")
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)


def _cut_the_state(ram: Path) -> None:
    os.truncate(ram.with_suffix(".state"), 100)


def _drop_the_state(ram: Path) -> None:
    ram.with_suffix(".state").unlink()


def _swap_the_state(ram: Path) -> None:
    other = snapshots._ready(make("other:1", b"other state"))
    other.ram_path.with_suffix(".state").rename(ram.with_suffix(".state"))


@pytest.mark.parametrize(
    "harm",
    [
        os.unlink,
        _cut,
        _cut_and_keep_the_time,
        _write_a_byte,
        _copy_carelessly,
        _link_elsewhere,
        _flip_the_state,
        _cut_the_state,
        _drop_the_state,
        _swap_the_state,
    ],
)
def test_a_harmed_cache_is_noticed_and_made_again(harm: Any) -> None:
    make("mine:1")
    before = snapshots.locate("mine:1")
    harm(before.ram_path)
    assert snapshots.locate("mine:1") == before
    assert before.ram_path.read_bytes() == b"mine:1".ljust(64 * MIB, b"\0")


def test_every_flipped_byte_of_the_state_file_is_noticed() -> None:
    cached = snapshots._ready(make("mine:1"))
    file = cached.ram_path.with_suffix(".state")
    good = file.read_bytes()
    assert snapshots._parse_state(good, cached.id) == (cached.meta, cached.state, 64 * MIB)
    for place in range(len(good)):
        damaged = bytearray(good)
        damaged[place] ^= 0x41
        assert snapshots._parse_state(bytes(damaged), cached.id) is None
        assert snapshots._parse_state(good[:place], cached.id) is None
    assert snapshots._parse_state(good + b"\0", cached.id) is None


def test_a_new_snapshot_under_an_old_name_is_used_at_once() -> None:
    make("mine:1", b"old")
    assert snapshots.locate("mine:1").state == b"old"
    make("mine:1", b"new")
    assert snapshots.locate("mine:1").state == b"new"


def test_a_damaged_snapshot_leaves_nothing_in_the_cache() -> None:
    path = make("mine:1")
    data = bytearray(path.read_bytes())
    header = snapshot.Header._make(snapshot.HEADER.unpack_from(data))
    data[snapshot.HEADER.size + header.meta_size + header.state_size + 5] ^= 1  # in the frame
    path.write_bytes(data)
    with pytest.raises(SnapshotDamaged, match="frame 0"):
        snapshots.locate("mine:1")
    assert expanded() == []


def test_what_is_not_here_and_must_not_be_fetched() -> None:
    with pytest.raises(SnapshotNotFound, match="vpod pull mine:1"):
        snapshots.locate("mine:1", fetch=False)
    with pytest.raises(SnapshotNotFound, match="no registry and no recipe has it"):
        snapshots.locate("mine:1")


def _locate_and_check(digest: str, turns: int) -> None:
    for turn in range(turns):
        cached = snapshots.locate("mine:1")
        assert hashlib.sha256(cached.ram_path.read_bytes()).hexdigest() == digest
        if turn % 2:
            os.utime(cached.ram_path)  # spoils it, so that the others must make it again


def test_processes_that_expand_at_once_see_only_whole_files() -> None:
    ram = bytearray(64 * MIB)
    for page in range(0, 16384, 5):
        ram[page * PAGE : page * PAGE + 8] = page.to_bytes(8, "little")
    snapshot.write(snapshots.path_of("mine:1"), {}, b"", memoryview(ram), level=1)
    digest = hashlib.sha256(ram).hexdigest()
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_locate_and_check, args=(digest, 4)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(expanded()) == 2


SLOW = """
import sys, time
from vpod import snapshots
def slowly(done, total):
    print(done, flush=True)
    time.sleep(60)
snapshots.locate("mine:1", progress=slowly)
"""


def test_a_kill_in_the_middle_of_expanding_harms_nobody() -> None:
    make("mine:1")
    with subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None and process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    cached = snapshots.locate("mine:1")
    assert cached.ram_path.read_bytes().startswith(b"mine:1")
    assert expanded() == [f"{cached.id}.ram", f"{cached.id}.state"]


# --- building --------------------------------------------------------------------------------------------------------


def test_what_only_a_recipe_makes_is_built_once(builder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert snapshots.locate("alpine:3.22").state == b"built"
    assert snapshots.pull("alpine:3.22") == snapshots.path_of("alpine:3.22")
    assert calls(builder) == [["alpine-3.22"]]
    out, err = capfd.readouterr()
    assert out == "" and "data must not go to standard output" in err


def test_a_build_can_be_silenced(builder: Path) -> None:
    snapshots.pull("alpine:3.22", quiet=True)
    snapshots.locate("alpine:3.20", quiet=True)
    snapshots.default(quiet=True)
    assert calls(builder) == [["-q", "alpine-3.22"], ["-q", "alpine-3.20"], ["-q", "--default"]]


def test_latest_is_built_by_the_recipe_that_says_so(builder: Path) -> None:
    assert snapshots.pull("alpine") == snapshots.path_of("alpine:3.23")
    assert snapshots.pull("debian:trixie") == snapshots.path_of("debian:13")
    assert calls(builder) == [["alpine-3.23"], ["debian-13"]]


def test_a_failed_build_is_named(builder: Path, own_home: Path) -> None:
    (own_home / "fail").touch()
    with pytest.raises(BuildError, match=r"vpod-build alpine-3.22 failed with exit code 125"):
        snapshots.pull("alpine:3.22")
    (own_home / "fail").rename(own_home / "do nothing")
    with pytest.raises(BuildError, match="did not make"):
        snapshots.pull("alpine:3.22")
    with pytest.raises(BuildError, match="made no snapshot"):
        snapshots.default()


def test_the_builder_gets_no_standard_input_and_nothing_from_the_current_folder(
    builder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostile = tmp_path / "cloned"
    (hostile / "vpod_builder").mkdir(parents=True)
    for name in ("runpy.py", "json.py", "vpod_builder/__init__.py", "vpod_builder/__main__.py"):
        (hostile / name).write_text(f"open({str(tmp_path / 'hacked')!r}, 'w')")
    monkeypatch.chdir(hostile)
    ours, theirs = os.dup(0), os.pipe()
    os.write(theirs[1], b"meant for the guest")
    os.close(theirs[1])
    os.dup2(theirs[0], 0)
    try:
        snapshots.pull("alpine:3.22")
        assert os.read(0, 100) == b"meant for the guest"
    finally:
        os.dup2(ours, 0)
        os.close(ours)
        os.close(theirs[0])
    assert not (tmp_path / "hacked").exists()
    _, stdin, first_path = json.loads(builder.read_text())
    assert stdin == "" and first_path == str(tmp_path / "programs")


def _pull(ref: str) -> None:
    snapshots.pull(ref)


def test_two_processes_that_need_the_same_build_it_once(builder: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    processes = [spawn.Process(target=_pull, args=("alpine:3.20",)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert calls(builder) == [["alpine-3.20"]]


# --- the default -----------------------------------------------------------------------------------------------------


def test_the_first_default_is_built_and_then_remembered(builder: Path) -> None:
    assert snapshots.default().state == b"built"
    assert snapshots.default().path == snapshots.path_of("debian:13")
    assert calls(builder) == [["--default"]]


def test_vpod_snapshot_goes_before_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("debian:13")
    make("mine:1").rename(tmp_path / "chosen")
    monkeypatch.setenv("VPOD_SNAPSHOT", str(tmp_path / "chosen"))
    assert snapshots.default().meta["name"] == "mine"
    monkeypatch.setenv("VPOD_SNAPSHOT", str(tmp_path / "none.snap"))
    with pytest.raises(SnapshotNotFound, match=r"none\.snap"):
        snapshots.default()


def test_the_marked_default_goes_before_others() -> None:
    make("debian:13")
    make("mine:1")
    assert snapshots.default().meta["name"] == "debian"  # it has Python and is here: nothing needs to be built
    snapshots.set_default("mine:1")
    assert snapshots.default().meta["name"] == "mine"
    assert [row["name"] for row in snapshots.local() if row["default"]] == ["mine"]
    with pytest.raises(SnapshotNotFound, match="cannot be the default"):
        snapshots.set_default("mine:2")


def test_an_alpine_without_python_is_no_default(builder: Path) -> None:
    make("alpine:3.23")
    assert snapshots.default().path == snapshots.path_of("debian:13")
    assert calls(builder) == [["--default"]]


@pytest.mark.parametrize("content", [b"", b"../../etc/passwd\n", b"\xff" * 5000, b"gone:1\n"])
def test_a_spoilt_mark_counts_as_none(content: bytes) -> None:
    make("debian:13")
    (paths.snapshot_folder() / "default").write_bytes(content)
    assert snapshots.default().meta["name"] == "debian"


# --- removing, counting, listing -------------------------------------------------------------------------------------


def test_removing_takes_what_was_expanded_too() -> None:
    path = make("mine:1")
    snapshots.set_default("mine:1")
    snapshots.locate("mine:1")
    assert snapshots.remove("mine:1") == path
    assert os.listdir(paths.snapshot_folder()) == [] and expanded() == []
    with pytest.raises(SnapshotNotFound, match="vpod list"):
        snapshots.remove("mine:1")


def test_removing_spares_what_another_name_still_needs() -> None:
    path = make("mine:1")
    twin = snapshots.path_of("mine:2")
    twin.write_bytes(path.read_bytes())
    snapshots.locate("mine:1")
    snapshots.remove("mine:1")
    assert len(expanded()) == 2
    snapshots.remove("mine:2")
    assert expanded() == []


def test_a_damaged_snapshot_can_be_removed_and_is_listed_as_such() -> None:
    snapshots.path_of("mine:1").write_bytes(b"rubbish")
    (row,) = snapshots.local()
    assert "damaged" in row["damaged"] and row["size"] == 7
    assert next(row for row in snapshots.catalog() if row["name"] == "mine")["damaged"]
    snapshots.remove("mine:1")
    assert snapshots.local() == []


def test_a_running_mapping_survives_removal() -> None:
    make("mine:1")
    with snapshots.locate("mine:1").ram_path.open("rb") as file:
        snapshots.remove("mine:1")
        assert file.read(6) == b"mine:1"


def test_usage_counts_disk_and_prune_frees_what_nothing_needs() -> None:
    make("mine:1")
    make("mine:2")
    cached = snapshots.locate("mine:1")
    snapshots.locate("mine:2")
    use = snapshots.usage()
    assert 0 < use["snapshots"] < MIB and 0 < use["expanded"] < MIB and use["downloads"] == 0
    snapshots.path_of("mine:2").unlink()
    assert snapshots.prune() == use["expanded"] - snapshots.usage()["expanded"] > 0
    assert expanded() == [f"{cached.id}.ram", f"{cached.id}.state"]
    assert snapshots.prune() == 0


def test_the_catalogue_without_a_registry_is_recipes_and_what_is_here() -> None:
    make("mine:1", description="my own", has_python=True, created="2026-01-31T12:00:00Z")
    make("debian:13", description="bad\x1b[31m", created="yesterday", has_python="yes")
    make("debian:9")
    rows = {f"{row['name']}:{row['tag']}": row for row in snapshots.catalog()}
    assert [name for name in rows if name.startswith("debian")] == ["debian:9", "debian:13"]
    mine = rows["mine:1"]
    assert (mine["description"], mine["has_python"], mine["created"]) == ("my own", True, "2026-01-31T12:00:00Z")
    assert (mine["here"], mine["recipe"], mine["registry"], mine["default"]) == (True, None, False, False)
    assert mine["size"] == snapshots.path_of("mine:1").stat().st_size
    debian = rows["debian:13"]
    assert (debian["here"], debian["recipe"], debian["default"]) == (True, "debian-13", True)
    assert debian["description"].startswith("Debian 13") and debian["created"] is None
    alpine = rows["alpine:3.23"]
    assert (alpine["here"], alpine["size"], alpine["recipe"]) == (False, None, "alpine-3.23")
    assert json.dumps(list(rows.values()))


def test_stray_files_are_no_snapshots() -> None:
    for name in ("x.snap", "@.snap", "a@.snap", "A@b.snap", ".a@b.snap.0123456789abcdef.part", "a@b", "a@b@c.snap"):
        (paths.snapshot_folder() / name).touch()
    assert snapshots.local() == []
