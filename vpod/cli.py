"""The command ``vpod``: parses, calls the SDK, prints.

Why it exists: everything that the SDK does for a program, for a person at a terminal. ``vpod`` alone opens a shell;
``vpod NAME`` is ``vpod start NAME`` for every name that is no command.

Invariants:

- Data goes to standard output; progress and messages go to standard error, progress only without ``-q``.
- Exit codes: the guest's own for ``run`` and for the shell; 2 usage; 124 time-out; 125 vpod itself failed; 126 and 127
  as a shell has them; 130 interrupted; 141 nobody reads the output.
- Only what a command needs is imported: ``vpod run -- true`` is a matter of milliseconds.

Example: ``vpod run -s alpine:3.23 -e A=1 -w /tmp -- sh -c 'echo $A; pwd'``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from vpod.errors import VpodError

if TYPE_CHECKING:
    from vpod.sandbox import Sandbox

__all__ = ["main"]

EXIT_USAGE: Final = 2
EXIT_FAILED: Final = 125
EXIT_INTERRUPT: Final = 130
EXIT_PIPE: Final = 141

_EPILOG: Final = """\
vpod NAME[:TAG] is short for vpod start NAME[:TAG]; vpod alone starts the default snapshot, which is made first if
there is none. In a terminal session Ctrl-] three times within a second ends it even if the guest hangs.

environment: VPOD_HOME, VPOD_SNAPSHOT, VPOD_REGISTRY, VPOD_SOURCES, VPOD_DEBIAN_MIRROR, VPOD_OFFLINE=1, VPOD_LOG,
  VPOD_JIT (0 interprets, 1 translates hot code, force translates all), VPOD_JIT_MEMORY=64M
exit codes:  the guest's own; 2 usage, 124 time-out, 125 vpod failed, 126/127 as in a shell, 130 interrupted
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Do what `argv` (``sys.argv[1:]`` if none) says; return the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        options = _parse(arguments)
        handler: Callable[[argparse.Namespace], int] = options.handler
        code = handler(options)
        sys.stdout.flush()
        return code
    except SystemExit as end:  # argparse: --help and usage errors; a signal in a raw terminal
        return end.code if isinstance(end.code, int) else 0 if end.code is None else EXIT_USAGE
    except VpodError as error:
        print(f"vpod: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPT
    except BrokenPipeError:
        # Python would complain when it flushes standard output at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return EXIT_PIPE


def _parse(arguments: list[str]) -> argparse.Namespace:
    """The options of one command line. What follows ``--`` in ``run`` is the guest's and not looked at."""
    commands = _commands()
    first = next((word for word in arguments if word not in ("-q", "--quiet")), None)
    if first is None or (first not in commands and not first.startswith("-")):
        arguments = ["start", *arguments]
    guest: list[str] = []
    if "run" in arguments[:2] and "--" in arguments:
        at = arguments.index("--")
        arguments, guest = arguments[:at], arguments[at + 1 :]
    options = _parser(commands).parse_args(arguments)
    if options.command == "run":
        options.guest = [*options.guest, "--", *guest] if options.guest and guest else options.guest + guest
        if not options.guest:
            raise _usage("run: no command; write it after --, as in: vpod run -- uname -m")
        options.env = _environment(options.env)
    return options


def _commands() -> dict[str, tuple[str, Callable[[argparse.ArgumentParser], None], Callable[..., int]]]:
    """Every command: one line of help, its options, its handler."""
    return {
        "start": ("a shell in a snapshot", _start_options, _start),
        "run": ("run one command in a fresh sandbox", _run_options, _run),
        "pull": ("fetch a snapshot from the registry, or make it from its recipe", _name_option, _pull),
        "list": ("what can be had and what is here", _json_option, _list),
        "rmi": ("remove a snapshot from this machine", _name_option, _remove),
        "df": ("how much room vpod's files take", _json_option, _usage_of_disk),
        "doctor": ("what this host offers and what is missing, each with its mend", _json_option, _doctor),
    }


def _parser(commands: Mapping[str, Any]) -> argparse.ArgumentParser:
    from vpod import __version__

    parser = argparse.ArgumentParser(
        prog="vpod",
        description="An instant, contained Linux machine for untrusted code.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vpod {__version__}")
    parser.add_argument("-q", "--quiet", action="store_true", help="no progress on standard error")
    places = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, add_options, handler) in commands.items():
        sub = places.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        sub.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help="no progress")
        add_options(sub)
        sub.set_defaults(handler=handler)
    return parser


def _start_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME[:TAG]", help="which snapshot (default: the default one)")


def _name_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME[:TAG]", help="which snapshot")


def _json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="as JSON on standard output")


def _run_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = "vpod run [-s NAME] [-e K=V] [-w DIR] [-u USER] [-t SECONDS] [-i] [-T] -- CMD ARG..."
    parser.add_argument("-s", "--snapshot", metavar="NAME[:TAG]", help="which snapshot (default: the default one)")
    parser.add_argument(
        "-e", "--env", action="append", default=[], metavar="K=V", help="set a variable; K alone takes this host's"
    )
    parser.add_argument("-w", "--workdir", metavar="DIR", help="the command's working directory in the guest")
    parser.add_argument("-u", "--user", metavar="USER", help="the guest's user to run as (default: root)")
    parser.add_argument("-t", "--timeout", type=_seconds, metavar="SECONDS", help="end it then, with exit code 124")
    parser.add_argument("-i", "--stdin", action="store_true", help="pass standard input on")
    parser.add_argument("-T", "--tty", action="store_true", help="give it a terminal, and standard input")
    parser.add_argument("guest", nargs=argparse.REMAINDER, metavar="CMD", help="the command and its arguments")


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e9:
        raise ValueError(text)
    return value


def _environment(pairs: Sequence[str]) -> dict[str, str]:
    """The variables that ``-e`` names."""
    from vpod.client import check_environment

    env = {}
    for pair in pairs:
        name, given, value = pair.partition("=")
        if given:
            env[name] = value
        elif name in os.environ:
            env[name] = os.environ[name]
        else:
            raise _usage(f"run: -e {pair}: this host has no variable {name!r}; write -e {pair}=VALUE")
    try:
        check_environment(env)
    except ValueError as error:
        raise _usage(f"run: -e: {error}") from error
    return env


def _usage(message: str) -> SystemExit:
    print(f"vpod: {message}", file=sys.stderr)
    return SystemExit(EXIT_USAGE)


def _start(options: argparse.Namespace) -> int:
    from vpod.terminal import attach

    terminal = os.isatty(0)
    with _open(options.name, options.quiet) as box:
        return attach(box, [box.shell, "-l"], terminal=terminal, stdin=True)


def _run(options: argparse.Namespace) -> int:
    from vpod.terminal import attach

    with _open(options.snapshot, options.quiet) as box:
        return attach(
            box,
            options.guest,
            terminal=options.tty,
            stdin=options.stdin or options.tty,
            cwd=options.workdir,
            env=options.env,
            user=options.user,
            timeout=options.timeout,
        )


def _open(name: str | None, quiet: bool) -> Sandbox:
    """A fresh sandbox; progress on standard error if its snapshot has to be fetched or made first."""
    from vpod.sandbox import Sandbox

    with _Progress(quiet) as progress:
        return Sandbox.create(name, progress=progress, quiet=quiet)


def _pull(options: argparse.Namespace) -> int:
    from vpod import snapshots

    with _Progress(options.quiet) as progress:
        print(snapshots.pull(options.name, progress, quiet=options.quiet))
    return 0


def _list(options: argparse.Namespace) -> int:
    from vpod import snapshots

    rows = snapshots.catalog()
    if options.json:
        return _print_json(rows)
    cells = [
        (
            f"{row['name']}:{row['tag']}",
            "default" if row["default"] else "yes" if row["here"] else "",
            _size(row["size"]),
            "yes" if row["has_python"] else "",
            f"damaged: {row['damaged']}" if row["damaged"] else row["description"],
        )
        for row in rows
    ]
    _print_table(("SNAPSHOT", "HERE", "SIZE", "PYTHON", "DESCRIPTION"), cells)
    return 0


def _remove(options: argparse.Namespace) -> int:
    from vpod import snapshots

    path = snapshots.remove(options.name)
    if not options.quiet:
        print(f"vpod: removed {path}", file=sys.stderr)
    return 0


def _usage_of_disk(options: argparse.Namespace) -> int:
    from vpod import snapshots

    usage = snapshots.usage()
    if options.json:
        return _print_json(usage)
    _print_table(
        ("WHAT", "SIZE"),
        [*((what, _size(size)) for what, size in usage.items()), ("together", _size(sum(usage.values())))],
    )
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from vpod import doctor

    findings = doctor.examine()
    if options.json:
        _print_json([finding._asdict() for finding in findings])
    else:
        doctor.show(findings, sys.stdout)
    return 1 if any(finding.state == "missing" for finding in findings) else 0


class _Progress:
    """Bytes done of all there are, as one line on standard error that is gone at the end; nothing if nobody looks."""

    def __init__(self, quiet: bool) -> None:
        self._shown = not quiet and os.isatty(2)
        self._percent = -1

    def __enter__(self) -> _Progress:
        return self

    def __call__(self, done: int, total: int) -> None:
        percent = done * 100 // total if total > 0 else 0
        if self._shown and percent != self._percent:
            self._percent = percent
            bar = "#" * (percent * 30 // 100)
            sys.stderr.write(f"\r[{bar:30}] {percent:3}%  {_size(done)} of {_size(total)}\x1b[K")
            sys.stderr.flush()

    def __exit__(self, *_exception: object) -> None:
        if self._percent >= 0:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def _print_json(value: object) -> int:
    import json

    print(json.dumps(value, indent=2, default=str))
    return 0


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell, the last one ragged."""
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads) - 1)]
    for row in (heads, *rows):
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        print("  ".join([*cells, row[-1]]).rstrip())


def _size(count: object) -> str:
    """Bytes for a reader: ``38.2 MB``."""
    if not isinstance(count, (int, float)):
        return ""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    raise AssertionError("unreachable")
