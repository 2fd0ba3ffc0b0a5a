"""The `vpod-build` command: reads its arguments, does a recipe's steps, says what came of it.

    vpod-build alpine-3.23
    vpod-build debian-13 --add git --run 'git config --system init.defaultBranch main' -o work.snap
    vpod-build --list | --explain RECIPE | --default
    vpod-build --kernel lean
    vpod-build --publish DIR

Messages and progress go to standard error, what was asked for (a list, an explanation) to standard output. Exit codes:
0, 2 for wrong usage, 125 when the build failed, 130 when it was interrupted.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import vpod
from vpod.errors import BuildError, SnapshotNotFound, VpodError

from . import recipe as recipes
from .progress import Report, size
from .recipe import Recipe
from .sources import Fetcher

USAGE, FAILED, INTERRUPTED = 2, 125, 130


def parser() -> argparse.ArgumentParser:
    """The command line, as `vpod-build --help` shows it."""
    line = argparse.ArgumentParser(
        prog="vpod-build",
        description="Make a vpod snapshot from a recipe: fetch, verify, assemble, boot, freeze.",
        epilog="Places tried before a recipe's own: VPOD_SOURCES (folders and URLs). Debian's mirror: --mirror, "
        "VPOD_DEBIAN_MIRROR, or this host's apt configuration. VPOD_OFFLINE=1 uses no network. Files: VPOD_HOME.",
    )
    what = line.add_mutually_exclusive_group()
    what.add_argument("recipe", nargs="?", metavar="RECIPE", help="alpine-3.23, debian:13, or a .toml file of your own")
    what.add_argument("--list", action="store_true", help="list the recipes that come with vpod")
    what.add_argument("--explain", metavar="RECIPE", help="show what a recipe does, without doing it")
    what.add_argument("--default", action="store_true", help="make the default snapshot, one that has Python")
    line.add_argument("-o", "--output", type=Path, metavar="FILE", help="write the snapshot there, not in VPOD_HOME")
    line.add_argument("--memory", metavar="SIZE", help="the machine's memory, such as 512M (the recipe's if not given)")
    line.add_argument("--rootfs", type=Path, metavar="FILE", help="use this tar archive as the root filesystem")
    line.add_argument("--mirror", metavar="URL", help="the mirror: Debian's or Alpine's, as the recipe asks")
    line.add_argument("--add", action="append", default=[], metavar="PKG", help="install this package too (repeatable)")
    line.add_argument("--run", action="append", default=[], metavar="CMD", help="run this in the machine at last")
    line.add_argument(
        "--kernel",
        metavar="NAME",
        help="lean: one made for the board, built here once by a cross compiler, then used by every recipe; "
        "stock: Debian's own; without RECIPE, only build it",
    )
    line.add_argument(
        "--publish",
        type=Path,
        metavar="DIR",
        help="put it into a catalogue for a web server; without RECIPE, all that is here",
    )
    line.add_argument("--json", action="store_true", help="with --list: as JSON")
    line.add_argument("-q", "--quiet", action="store_true", help="no progress, only errors")
    line.add_argument("--version", action="version", version=f"vpod-build {vpod.__version__}")
    return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; gives the exit code."""
    line = parser()
    options = line.parse_args(arguments)
    asked = options.recipe or options.list or options.explain or options.default
    if not asked and not options.publish and not options.kernel:
        line.error("name a RECIPE, or ask for --list, --explain RECIPE, --default, --kernel lean or --publish DIR")
    if not asked and options.publish and options.kernel:
        line.error("--kernel is for a RECIPE, or alone")
    report = Report(quiet=options.quiet)
    try:
        if options.list:
            return show_list(as_json=options.json)
        if options.explain:
            return explain(recipes.find(options.explain), options.kernel)
        if options.kernel and not asked:
            return build_kernel(options.kernel, options.mirror, report)
        if not asked:
            return publish(options.publish, report)
        return build(options, report)
    except SnapshotNotFound as error:
        report.error(f"vpod-build: {error}")
        return USAGE
    except VpodError as error:
        report.error(f"vpod-build: {error}")
        return FAILED
    except OSError as error:
        report.error(f"vpod-build: {error.filename or 'the build'}: {error.strerror or error}")
        return FAILED
    except KeyboardInterrupt:
        report.error("vpod-build: interrupted; what was fetched is kept, the next build goes on from there")
        return INTERRUPTED


def show_list(*, as_json: bool) -> int:
    """`--list`: one recipe a line, or JSON."""
    found = recipes.catalog()
    if as_json:
        keys = ("key", "name", "tags", "summary", "memory", "has_python")
        print(json.dumps([{key: getattr(each, key) for key in keys} for each in found], indent=2))
        return 0
    width = max(len(each.key) for each in found)
    for each in found:
        print(f"{each.key:<{width}}  {each.summary}")
    return 0


def explain(recipe: Recipe, asked: str | None) -> int:
    """`--explain`: the recipe, and the steps it means, without any of them being done."""
    from . import kernel

    description = kernel.choose(recipe.kernel, asked)
    print(f"{recipe.key} makes {recipe.reference}: {recipe.summary}\n")
    print(f"machine     {recipe.memory >> 20} MiB of memory, one RV64GC hart")
    print(f"kernel      {description.package} and {description.firmware_package} of Debian {description.suite};")
    print("            the archive's signature is checked against the keys in kernels/")
    if description.is_built:
        print(f"            built here with {description.config}; all drivers are in it, there are no modules")
    else:
        print(f"modules     loaded: {', '.join(description.boot)}; laid ready: {', '.join(description.ship)}")
    if recipe.rootfs is not None:
        print(f"rootfs      {recipe.rootfs.file}, SHA-512 {recipe.rootfs.digest.value[:16]}…")
        for url in ("the folders and URLs of VPOD_SOURCES", *recipe.rootfs.urls):
            print(f"            from {url}")
    if recipe.debian is not None:
        print(f"rootfs      Debian {recipe.debian.suite}: every Essential package, what these need, and")
        print(f"            {' '.join(recipe.debian.packages)};")
        print("            unpacked on this host, configured in the booted machine")
    if recipe.apk:
        print(f"packages    {' '.join(recipe.apk)}, from Alpine's package site, its index's signature checked")
    if recipe.warm:
        print(f"warm        Python waits with {', '.join(recipe.warm)} imported")
        for command in recipe.warm_runs:
            print(f"            run once: {command}")
    return 0


def build_kernel(name: str, mirror: str | None, report: Report) -> int:
    """`--kernel NAME` alone: have that kernel ready for every recipe."""
    from . import kernel, kernel_build
    from .debian import Archive

    description = kernel.choose(kernel.STOCK, name)
    if not description.is_built:
        raise BuildError(f"--kernel {name}: comes ready from Debian, there is nothing to build; name a RECIPE for it")
    archive = Archive(Fetcher(report), suite=description.suite, components=description.components, mirror=mirror)
    built = kernel_build.current(description, archive)
    about = f"Linux {built.version}, {size(len(built.image))}, from {built.package} {built.package_version}"
    report.line(f"{name}: {about}, is here. Every recipe takes it from now on; --kernel stock takes Debian's.")
    return 0


def publish(folder: Path, report: Report) -> int:
    """`--publish` alone: whatever is on this machine and sound, into one catalogue."""
    from vpod import snapshots

    here = [row["path"] for row in snapshots.local() if not row["damaged"]]
    if not here:
        raise SnapshotNotFound("there is no snapshot here to publish; name a RECIPE to make one")
    report.line(f"Published {len(here)} in {snapshots.publish(folder, here)}")
    return 0


def build(options: argparse.Namespace, report: Report) -> int:
    """All steps of a build, and the report at its end."""
    from vpod import snapshots

    from . import boot, pack, rootfs

    fetcher = Fetcher(report)
    if options.default:
        from .default import default_recipe

        choice = default_recipe(fetcher, mirror=options.mirror)
        report.line(f"The default is {choice.recipe}: {choice.why}")
        recipe = recipes.find(choice.recipe)
    else:
        recipe = recipes.find(options.recipe)
    if options.memory:
        recipe = replace(recipe, memory=recipes.memory_size(options.memory))
    target = options.output or snapshots.path_of(recipe.reference)
    if not target.resolve().parent.is_dir():
        raise NotADirectoryError(20, "there is no such folder; make it first", str(target.parent))
    changes = rootfs.Options(options.rootfs, options.mirror, tuple(options.add), options.kernel)
    image = rootfs.assemble(recipe, fetcher, changes)
    guest = boot.Guest(image, recipe.memory, report)
    boot.prepare(guest, image, recipe, commands=options.run)
    guest.settle()
    packed = pack.pack(guest, image, recipe, target, commands=options.run)
    if options.default:
        snapshots.set_default(recipe.reference)
    if options.publish:
        catalogue = snapshots.publish(options.publish, [packed.path])
        report.line(f"Published in {catalogue}")
    name = recipe.reference if options.output is None else str(packed.path)
    report.line(f"{name}: {size(packed.size)} in {report.seconds:.0f} s. Start it with: vpod start {name}")
    return 0
