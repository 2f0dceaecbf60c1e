"""The commands: ``python -m lib run | book | pages | check | serve | record | reproduce | compare | chapters ...``."""

import argparse
import json
import os
import sys
from pathlib import Path

from lib.book import warm

ROOT = Path(__file__).parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit status, 0 only where all went well."""
    given = _parser().parse_args(arguments)
    if given.command == "run" and os.environ.get(warm.PLACE):
        done = warm.hand_over(sys.argv[1:] if arguments is None else arguments)
        if done is not None:
            return done
    root = given.root.resolve()
    try:
        return _do(given, root)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lib", description="Run a chapter, build the book, check it.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the book's folder (default: this repository)")
    commands = parser.add_subparsers(dest="command", required=True)
    profiled = argparse.ArgumentParser(add_help=False)
    profiled.add_argument("--profile", default="quick", help="quick (default), standard or full")
    cored = argparse.ArgumentParser(add_help=False)
    cored.add_argument("--cores", type=_from_one, default=2, help="chapters to run at once (default: 2)")

    one = commands.add_parser("run", parents=[profiled], help="run one chapter")
    one.add_argument("chapter", help="its file or its name, such as chapters/pruning.py or pruning")
    commands.add_parser("book", parents=[profiled, cored], help="run what is not up to date, and build the pages")
    commands.add_parser("pages", parents=[profiled], help="build the pages of the runs that are there, and check them")
    commands.add_parser("check", parents=[profiled], help="the gates alone, on the pages built last")
    serve = commands.add_parser("serve", help="show the built pages on 127.0.0.1")
    serve.add_argument("--port", type=_port, default=8000)
    record = commands.add_parser("record", parents=[profiled, cored], help="run what is not up to date; write results/")
    record.add_argument("--chapter", help="only this one")
    again = commands.add_parser("reproduce", parents=[profiled, cored], help="hold verdicts against the ledger")
    again.add_argument("--claim", help="only this one, such as C2.3-06")
    again.add_argument("--chapter", help="only this one")
    again.add_argument("--minutes", type=float, help="as many chapters as fit")
    commands.add_parser("compare", parents=[profiled], help="which results differ from the committed ones")
    names = commands.add_parser("chapters", parents=[profiled], help="the names of the chapters")
    names.add_argument("--json", action="store_true", help="with the fingerprint, needs and data of each")
    commands.add_parser("doctor", help="are this machine's kernels right?")
    return parser


def _do(given: argparse.Namespace, root: Path) -> int:
    from lib.book import build

    if given.command == "run":
        return _run(root, Path(given.chapter).stem, given.profile)
    if given.command == "book":
        return build.book(root, given.profile, given.cores)
    if given.command == "pages":
        return build.assemble(root, given.profile)
    if given.command == "check":
        return build.check(root, given.profile)
    if given.command == "serve":
        return build.serve(root, given.port)
    if given.command == "chapters":
        return _chapters(root, given.profile, given.json)
    if given.command == "doctor":
        from lib.book import doctor

        return doctor.main(root)
    from lib.book import records, reproduce

    if given.command == "compare":
        return records.compare(root, given.profile)
    if given.command == "record":
        return _record(root, given.profile, given.chapter, given.cores)
    asked = {"claim": given.claim, "chapter": given.chapter, "minutes": given.minutes, "cores": given.cores}
    return reproduce.reproduce(root, given.profile, **asked)


def _record(root: Path, profile: str, chapter: str | None, cores: int) -> int:
    from lib.book import build, chapters, records

    chapters.profile_settings(root, profile)
    if chapter:
        chapters.notebook(root, chapter)
    only = [chapter] if chapter else None
    build.execute(root, profile, cores, only)  # what has no run then is named below
    return build.conclusion(records.record(root, profile, only))


def _chapters(root: Path, profile: str, as_json: bool) -> int:
    from lib.book import chapters

    rows = [chapters.summary(root, name, profile) for name in chapters.names(root)]
    print(json.dumps(rows) if as_json else "\n".join(row["chapter"] for row in rows))
    return 0


def _from_one(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r}: accepted is a whole number from 1 up")
    return int(text)


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 65515:
        raise argparse.ArgumentTypeError(f"{text!r}: accepted is a port from 1 to 65515")
    return int(text)


def _run(root: Path, chapter: str, profile: str) -> int:
    from lib.book.run import ChapterFailed, run

    print(f"{chapter}: running, {profile} profile", flush=True)
    try:
        done = run(root, chapter, profile, bar=sys.stderr.isatty())
    except Exception as error:
        print(f"{chapter}: FAILED: {error}", flush=True)
        if isinstance(error, ChapterFailed):
            raise ValueError(str(error)) from error
        raise
    print(f"{chapter}: done in {done['seconds']:.1f} s, peak {done['peak_mib']} MiB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
