"""Where vpod's files go, and that no reader ever sees half of one."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vpod import paths
from vpod.errors import VpodError

WRITER = """
import sys, time
from vpod import paths
with paths.writing(sys.argv[1]) as file:
    file.write(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def chosen_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VPOD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_everything_is_under_vpod_home(chosen_home: Path) -> None:
    assert paths.home() == chosen_home
    folders = [paths.snapshot_folder(), paths.cache_folder(), paths.download_folder()]
    assert len(set(folders)) == 3
    for folder in folders:
        assert folder.parent == chosen_home and folder.is_dir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_relative_vpod_home_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VPOD_HOME", "here")
    assert paths.home() == tmp_path / "here"


@pytest.mark.skipif(sys.platform == "darwin", reason="XDG folders are Linux's")
def test_platform_folders_follow_xdg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VPOD_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "quick"))
    assert paths.home() == tmp_path / ".local/share/vpod"
    assert paths.cache_folder() == tmp_path / "quick/vpod/expanded"
    assert paths.download_folder() == tmp_path / "quick/vpod/downloads"


def test_an_empty_vpod_home_counts_as_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPOD_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.home().is_relative_to(tmp_path)


def test_a_folder_open_to_all_is_refused(chosen_home: Path) -> None:
    folder = paths.cache_folder()
    folder.chmod(0o777)
    with pytest.raises(VpodError, match=f"chmod o-w '{folder}'"):
        paths.cache_folder()


def test_a_file_in_the_way_is_named(chosen_home: Path) -> None:
    chosen_home.mkdir()
    (chosen_home / "snapshots").write_text("not a folder")
    with pytest.raises(VpodError, match=r"snapshots: .*File exists"):
        paths.snapshot_folder()


def test_a_home_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VPOD_HOME", str(tmp_path / "file/below"))
    with pytest.raises(VpodError, match="VPOD_HOME"):
        paths.snapshot_folder()


def test_writing_replaces_the_file_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with paths.writing(path, mode=0o640) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["x"]


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), paths.writing(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x"]


def test_a_killed_writer_leaves_nothing_after_the_next(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with subprocess.Popen([sys.executable, "-c", WRITER, path], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
        with paths.writing(path) as file:  # while the other lives, its file is not touched
            file.write(b"mine")
        assert len(os.listdir(tmp_path)) == 2
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert path.read_bytes() == b"mine"
    with paths.writing(path) as file:
        file.write(b"again")
    assert os.listdir(tmp_path) == ["x"]


def test_sweeping_spares_files_that_only_look_alike(tmp_path: Path) -> None:
    kept = [".x.part", ".x.y.0123456789abcdef.part", "x.0123456789abcdef.part", ".x.short.part"]
    for name in kept:
        (tmp_path / name).write_text("")
    with paths.writing(tmp_path / "x"):
        pass
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "x"])


def _count_up(folder: str, turns: int) -> None:
    for _ in range(turns):
        with paths.locked(os.path.join(folder, "lock")):
            counter = Path(folder, "counter")
            value = int(counter.read_text())
            time.sleep(0.0005)
            counter.write_text(str(value + 1))
            if value % 7 == 0:
                os.unlink(os.path.join(folder, "lock"))  # the holder may; the others must notice


def test_a_lock_excludes_processes_and_threads_even_when_its_file_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "counter").write_text("0")
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_count_up, args=(str(tmp_path), 40)) for _ in range(2)]
    threads = [threading.Thread(target=_count_up, args=(str(tmp_path), 40)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for worker in workers:
        worker.start()
    for thread in threads:
        thread.join()
    for worker in workers:
        worker.join()
    assert (tmp_path / "counter").read_text() == "160"
