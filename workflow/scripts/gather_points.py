"""Gather the points of one configuration into its CSV."""

import argparse

from slidesparse import program
from slidesparse.points.request import expected_digests
from slidesparse.report.tables.gather import gather

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--points", nargs="+", required=True, metavar="FILE", help="M{m}.json files of one configuration")
parser.add_argument("--output", required=True, metavar="CSV")
parser.add_argument(
    "--parameters",
    type=program.json_object,
    metavar="JSON",
    help="how to measure; refuses points that answer another request",
)


def main(arguments):
    expected = expected_digests(arguments.points, arguments.parameters) if arguments.parameters else None
    gather(arguments.points, arguments.output, expected)


if __name__ == "__main__":
    program.run(main, parser)
