"""Target `files`: hostile files and messages, and what reads them, under a coverage-guided fuzzer.

For each format (`subjects_vpod`, `subjects_builder`) the fuzzer (`fuzzer`) starts from the seed corpus in
`corpus/FORMAT/` (made by `seeds`) and runs a fixed number of executions. Each must end in the format's declared
errors or in success that keeps its promises, within its CPU time, within `MEMORY` more than the process had before, and
with nothing touched outside of its folder. What else happens is a difference; its input is kept in a file, named in
the report, so that it can become a seed.

Invariants: a piece depends on format, executions and seed alone; a seed that does not end as its name says is a
difference too.

    >>> run(format="elf", executions=500, seed=1).counts
    {'executions': 506, 'elf executions': 506}
"""

from __future__ import annotations

import gc
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.proof import subjects_builder, subjects_vpod
from tests.proof.fuzzer import Finding, Fuzzer, Subject
from tests.proof.limits import limited
from tests.proof.pieces import Form, Outcome, Piece

CORPUS = Path(__file__).parent / "corpus"
SUBJECTS: Mapping[str, Subject] = {**subjects_vpod.SUBJECTS, **subjects_builder.SUBJECTS}
MEMORY = 1536 << 20  # bytes of address space beside what there was: threads' stacks and arenas take most of it
SHOWN = 400  # bytes of an input that are printed

SHORT = {  # executions of each format in the short form: about three seconds of CPU time each
    "elf": 20000, "bare": 12000, "tree": 6000, "snapshot": 2000, "machine": 2000, "cache": 2000, "catalogue": 1000,
    "default": 200, "worker": 8000, "agent": 8000, "tar": 2000, "inflate": 600, "deb": 800, "packages": 8000,
    "release": 4000, "apkindex": 300, "apk": 300, "key": 1500, "module": 8000, "image": 10000, "recipe": 4000,
}  # fmt: skip
LONG = 10  # times as many in the long form, in pieces of LONG_PIECE times the short one's
LONG_PIECE = 5
TOGETHER = 3  # formats that a piece of the short form has one after the other


def pieces(form: Form, seed: int) -> Sequence[Piece]:
    """A few formats a piece in the short form; one format and a part of its executions in the long one."""
    if form == "short":
        names = list(SUBJECTS)
        groups = [names[at :: -(-len(names) // TOGETHER)] for at in range(-(-len(names) // TOGETHER))]
        return [Piece("files", {"format": "+".join(group), "seed": seed}) for group in groups]
    return [
        Piece("files", {"format": name, "seed": seed + 1000 * part, "times": LONG_PIECE}, seconds=1800)
        for name in SUBJECTS
        for part in range(1, 1 + LONG // LONG_PIECE)
    ]


def run(*, format: str, seed: int, executions: int = 0, times: int = 1) -> Outcome:
    """Fuzz `format`, or several joined by `+`; `executions` of each, or `times` what the short form does."""
    outcome = Outcome()
    for name in format.split("+"):
        outcome += _fuzz(SUBJECTS[name], executions or SHORT[name] * times, seed)
    return outcome


def corpus_of(name: str) -> dict[str, bytes]:
    """The seeds of a format by file name. Raises RuntimeError where there are none."""
    seeds = {path.name: path.read_bytes() for path in sorted((CORPUS / name).glob("*.*"))}
    if not seeds:
        raise RuntimeError(f"{CORPUS / name} has no seeds: run python -m tests.proof.seeds")
    return seeds


def judged(subject: Subject, name: str, data: bytes) -> str | None:
    """None when the seed `data` ends as its file `name` says, else what happened."""
    expected = name.rpartition(".")[2]
    try:
        subject.parse(data)
        ended = "ok"
    except subject.declared as error:
        ended = type(error).__name__
    except BaseException as error:
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        ended = f"{type(error).__name__} ({error})"[:300]
    return None if ended == expected else f"{subject.name}: the seed {name} ends with {ended}"


def _fuzz(subject: Subject, executions: int, seed: int) -> Outcome:
    corpus = corpus_of(subject.name)
    wrong = [told for name, data in corpus.items() if (told := judged(subject, name, data)) is not None]
    gc.collect()
    gc.freeze()  # what is there now stays there: subjects that collect garbage need not look at it
    parents = [data for name, data in corpus.items() if not name.startswith("once-")]
    with limited(MEMORY):
        report = Fuzzer(subject, parents, seed).run(executions)
    count = report.executions + len(corpus)
    differences = wrong + [_told(subject, finding) for finding in report.findings]
    return Outcome({"executions": count, f"{subject.name} executions": count}, tuple(differences))


def _told(subject: Subject, finding: Finding) -> str:
    """A finding as text; its input goes into a file."""
    digest = hashlib.sha256(finding.data).hexdigest()[:12]
    path = Path(tempfile.gettempdir(), f"vpod-{subject.name}-{digest}")
    path.write_bytes(finding.data)
    start = finding.data[:SHOWN]
    return (
        f"{subject.name}: {finding.error} at {finding.place}\n{finding.trace}"
        f"input ({len(finding.data)} bytes, in {path}): {start!r}"
    )
