"""Gather all points, then write the task table and report of every hardware key, and their comparison. Files whose
content would not change stay untouched."""

import argparse
import os
import sys

from slidesparse import program
from slidesparse.files import printable
from slidesparse.report.write import empty_sources, write_reports

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--sources", nargs="+", required=True, metavar="ROOT", help="in our layout or the published one")
parser.add_argument("--results", default="results", metavar="DIR", help="where to gather and to write")
parser.add_argument("--hardware", metavar="KEY", help="only this one, and no comparison")
parser.add_argument("--languages", nargs="+", default=["en"])
parser.add_argument(
    "--processes",
    type=int,
    default=len(os.sched_getaffinity(0)),
    metavar="N",
    help="reports that are written side by side; default: as many as there are CPUs",
)


def main(arguments):
    asked = (arguments.sources, arguments.hardware, arguments.languages, arguments.processes)
    for sentence in write_reports(arguments.results, *asked):
        print(f"refused: {printable(sentence)}", file=sys.stderr)
    for sentence in empty_sources(arguments.sources):
        print(f"empty source: {printable(sentence)}", file=sys.stderr)


if __name__ == "__main__":
    program.run(main, parser)
