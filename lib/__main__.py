"""The commands: ``python -m lib shrink``, and ``run | book | page | check | serve | record | reproduce | ...``."""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def main(arguments: list[str] | None = None) -> int:
    """Run a command line, and return the exit status: 0 only if all went well.

    arguments: the words of the command; by default those that Python was started with.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words[:1] == ["shrink"]:
        from lib.recipes import command

        return command.main(words[1:])
    try:
        from lib.book import warm
    except ModuleNotFoundError as error:
        if error.name != "lib.book":
            raise
        sys.exit("error: all commands but shrink need a checkout of the book, which an installed lib does not have")
    options, unknown = _parser().parse_known_args(words)
    if options.command == "shrink":  # after an option such as --root, which it has no use for
        sys.exit("error: shrink comes first: python -m lib shrink ...")
    if unknown:
        _parser().error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.command == "run" and os.environ.get(warm.PLACE):
        status = warm.hand_over(words)
        if status is not None:
            return status
    try:
        return _call(options, options.root.resolve())
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
    cored.add_argument("--cores", type=_cores, default=2, help="chapters to run at once (default: 2)")
    named = argparse.ArgumentParser(add_help=False)
    named.add_argument("chapter", type=_chapter, help="its file or its name, such as chapters/pruning.py or pruning")

    commands.add_parser("run", parents=[profiled, named], help="run one chapter")
    commands.add_parser("book", parents=[profiled, cored], help="run what is not up to date, and build the pages")
    commands.add_parser("page", parents=[profiled, named], help="preview one chapter's page, in seconds")
    commands.add_parser("pages", parents=[profiled], help="build the pages from existing runs, and check them")
    commands.add_parser("pdf", help="print the last built pages into one PDF")
    commands.add_parser("check", parents=[profiled], help="run only the gates, on the last built pages")
    serve = commands.add_parser("serve", help="show the built pages on 127.0.0.1")
    serve.add_argument("--port", type=_port, default=8000)
    record = commands.add_parser("record", parents=[profiled, cored], help="run what is not up to date; write results/")
    record.add_argument("--chapter", help="only this one")
    again = commands.add_parser("reproduce", parents=[profiled, cored], help="compare verdicts with the ledger")
    again.add_argument("--claim", help="only this one, such as C2.3-06")
    again.add_argument("--chapter", help="only this one")
    again.add_argument("--minutes", type=float, help="run as many chapters as fit in this time")
    commands.add_parser("compare", parents=[profiled], help="list the results that differ from the committed ones")
    names = commands.add_parser("chapters", parents=[profiled], help="list the chapters")
    names.add_argument("--json", action="store_true", help="as JSON, with the fingerprint, needs and data of each")
    zoo = commands.add_parser("zoo", parents=[cored], help="try the techniques on networks they were not written for")
    zoo.add_argument("--technique", help="only this one, by its id, even if it is up to date")
    zoo.add_argument("--minutes", type=float, help="repeat as many as fit, compare with the record, write nothing")
    commands.add_parser("shrink", add_help=False, help="make a network of your own smaller; shrink --help says how")
    doctor = commands.add_parser("doctor", help="check that this machine's kernels compute correctly")
    doctor.add_argument("--fresh", action="store_true", help="try everything again, even if a verdict is kept")
    return parser


def _call(options: argparse.Namespace, root: Path) -> int:
    """Run the command. Its modules are imported here, since a command that is handed over needs none of them."""
    match options.command:
        case "run":
            from lib.book import run

            return run.command(root, options.chapter, options.profile)
        case "chapters":
            from lib.book import fingerprints

            return fingerprints.show(root, options.profile, as_json=options.json)
        case "doctor":
            from lib.book import doctor

            return doctor.main(root, fresh=options.fresh)
        case "zoo":
            from lib.book.zoo import matrix

            if options.minutes is not None:
                return matrix.hold(root, minutes=options.minutes, cores=options.cores)
            return matrix.run(root, cores=options.cores, only=options.technique)
        case "compare":
            from lib.book import records

            return records.compare(root, options.profile)
        case "pdf":
            from lib.book import pdf

            return pdf.command(root)
        case "serve":
            from lib.book import pages

            return pages.serve(root, options.port)
        case "reproduce":
            from lib.book import reproduce

            return reproduce.reproduce(
                root,
                options.profile,
                claim=options.claim,
                chapter=options.chapter,
                minutes=options.minutes,
                cores=options.cores,
            )
    from lib.book import build

    match options.command:
        case "book":
            return build.book(root, options.profile, options.cores)
        case "page":
            return build.page(root, options.chapter, options.profile)
        case "pages":
            return build.assemble(root, options.profile)
        case "record":
            return build.record(root, options.profile, options.cores, options.chapter)
        case _:
            return build.check(root, options.profile)


def _chapter(text: str) -> str:
    return Path(text).stem


def _cores(text: str) -> int:
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 up, not {text!r}")
    return int(text)


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 65515:
        raise argparse.ArgumentTypeError(f"must be a port from 1 to 65515, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
