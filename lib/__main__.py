"""The commands: ``python -m lib run | book | check | serve | compare``."""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return the exit status, 0 only where all went well."""
    parser = argparse.ArgumentParser(prog="python -m lib", description="Run a chapter, build the book, check it.")
    parser.add_argument("--root", type=Path, default=ROOT, help="the book's folder (default: this repository)")
    commands = parser.add_subparsers(dest="command", required=True)
    profiled = argparse.ArgumentParser(add_help=False)
    profiled.add_argument("--profile", default="quick", help="quick (default), standard or full")

    one = commands.add_parser("run", parents=[profiled], help="run one chapter")
    one.add_argument("chapter", help="its file or its name, such as chapters/pruning.py or pruning")
    book = commands.add_parser("book", parents=[profiled], help="run what is not up to date, and build the pages")
    book.add_argument("--cores", type=int, default=2, help="chapters to run at once (default: 2)")
    commands.add_parser("check", parents=[profiled], help="the gates alone, on the pages built last")
    serve = commands.add_parser("serve", help="show the built pages on 127.0.0.1")
    serve.add_argument("--port", type=int, default=8000)
    commands.add_parser("compare", parents=[profiled], help="which results moved against the committed ones")
    given = parser.parse_args(arguments)

    from lib import book as whole
    from lib.run import ChapterFailed, run

    root = given.root.resolve()
    try:
        if given.command == "run":
            return _run(run, root, Path(given.chapter).stem, given.profile)
        if given.command == "book":
            return whole.book(root, given.profile, given.cores)
        if given.command == "check":
            return whole.check(root, given.profile)
        if given.command == "serve":
            return whole.serve(root, given.port)
        return whole.compare(root, given.profile)
    except (ValueError, OSError, ChapterFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def _run(run, root: Path, chapter: str, profile: str) -> int:
    print(f"{chapter}: running, {profile} profile", flush=True)
    try:
        done = run(root, chapter, profile, bar=sys.stderr.isatty())
    except Exception as error:
        print(f"{chapter}: FAILED: {error}", flush=True)
        raise
    print(f"{chapter}: done in {done['seconds']:.1f} s, peak {done['peak_mib']} MiB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
