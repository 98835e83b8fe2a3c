"""Gather the results of tasks of one configuration into its CSV."""

import argparse

from slidesparse import program
from slidesparse.report.tables.task_scores import gather

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--results", nargs="+", required=True, metavar="FILE", help="results of one configuration")
parser.add_argument("--output", required=True, metavar="CSV")


def main(arguments):
    gather(arguments.results, arguments.output)


if __name__ == "__main__":
    program.run(main, parser)
