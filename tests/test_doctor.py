"""`vpod doctor`: every check answers, a broken host is seen, and each complaint comes with its mend."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest

from vpod import cli, doctor


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPOD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("VPOD_REGISTRY", raising=False)


def finding(name: str) -> doctor.Finding:
    return next(found for found in doctor.examine() if found.name == name)


def test_what_a_sandbox_needs_is_here() -> None:
    findings = {found.name: found for found in doctor.examine()}
    assert list(findings) == list(doctor.CHECKS)
    for name in ("Python", "core", "worker", "files"):
        assert findings[name].state == "ok", findings[name]
    assert "computes" in findings["core"].found


def test_the_libraries_looked_for_are_those_the_package_asks_for() -> None:
    text = (Path(__file__).parent.parent / "pyproject.toml").read_text()
    asked = re.findall(r'^    "([\w-]+)>=', text, re.MULTILINE)
    assert set(doctor.LIBRARIES) | {"tomli"} == set(asked)


def test_a_worker_that_does_not_start_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vpod.link.worker_command", lambda: ["/bin/false"])
    found = finding("worker")
    assert found.state == "missing" and "exit code 1" in found.found and "VPOD_LOG" in found.mend


def test_a_folder_that_cannot_be_had_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("VPOD_HOME", str(tmp_path / "file"))
    assert finding("files").state == "missing"


def test_a_full_disk_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NEEDED_DISK", 1 << 60)
    assert finding("files").state == "note"


def test_a_registry_that_cannot_be_read_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VPOD_REGISTRY", f"file://{tmp_path}/none.json")
    assert finding("registry").state == "missing"


def test_an_unforeseen_failure_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.CHECKS, "core", lambda: 1 / 0)
    assert "ZeroDivisionError" in finding("core").found


def test_the_mirror_is_found_in_apts_own_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("# none here\ndeb [signed-by=/k] http://one.invalid/debian trixie main\n")
    (tmp_path / "sources.list.d" / "x.sources").write_text("Types: deb\nURIs: https://two.invalid/debian\n")
    monkeypatch.setattr(doctor, "APT", tmp_path)
    assert list(doctor._apt_mirrors()) == ["http://one.invalid/debian", "https://two.invalid/debian"]


def test_complaints_are_printed_with_their_mends() -> None:
    stream = io.StringIO()
    doctor.show([doctor.Finding("a", "missing", "broken", "mend it"), doctor.Finding("b", "ok", "fine")], stream)
    assert stream.getvalue().splitlines() == ["missing  a  broken", "            -> mend it", "ok       b  fine"]


def test_json_has_every_finding(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.main(["doctor", "--json"])
    findings = json.loads(capsys.readouterr().out)
    assert [found["name"] for found in findings] == list(doctor.CHECKS)
    assert code == (1 if any(found["state"] == "missing" for found in findings) else 0)
