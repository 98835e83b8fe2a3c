"""Write comparison.{language}.md and .html: every hardware key of the sources side by side."""

import argparse

from slidesparse import program
from slidesparse.report.write import write_comparison

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--sources", nargs="+", required=True, metavar="ROOT", help="in our layout or the published one")
parser.add_argument("--results", default="results", metavar="DIR", help="where to write")
parser.add_argument("--languages", nargs="+", default=["en"])


def main(arguments):
    write_comparison(arguments.results, arguments.sources, arguments.languages)


if __name__ == "__main__":
    program.run(main, parser)
