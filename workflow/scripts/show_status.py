"""Show on one screen which points are done, in flight, missing or failed, and why; or what a plan asks for."""

import argparse
import sys

from slidesparse import program
from slidesparse.points import forecast, progress, status

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--results", default="results", metavar="DIR", help="where the results lie")
parser.add_argument("--hardware", metavar="KEY", help="only this one")
parser.add_argument("--follow", nargs="+", metavar="KEY", help="print how far these are, until ended")
parser.add_argument("--plan", action="store_true", help="show jobs, hours and disk of the plan, without a run")
parser.add_argument("--configfile", nargs="+", default=[], metavar="FILE", help="with --plan, as for snakemake")
parser.add_argument("--config", nargs="+", default=[], metavar="NAME=VALUE", help="with --plan, as for snakemake")


def main(arguments):
    if arguments.follow:
        progress.follow(arguments.results, arguments.follow)
    if arguments.plan:
        sys.stdout.write(forecast.plan(arguments.configfile, arguments.config, arguments.results))
        return
    sys.stdout.write(status.screen(arguments.results, arguments.hardware))


if __name__ == "__main__":
    program.run(main, parser)
