"""Show on one screen which points are done, in flight, missing or failed, and why. Reads files only."""

import argparse
import sys

from slidesparse import program
from slidesparse.points import progress, status

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--results", default="results", metavar="DIR", help="where the results lie")
parser.add_argument("--hardware", metavar="KEY", help="only this one")
parser.add_argument("--follow", nargs="+", metavar="KEY", help="print how far these are, until ended")


def main(arguments):
    if arguments.follow:
        progress.follow(arguments.results, arguments.follow)
    sys.stdout.write(status.screen(arguments.results, arguments.hardware))


if __name__ == "__main__":
    program.run(main, parser)
