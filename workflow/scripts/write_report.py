"""Write the report of one hardware key from gathered files: report.{language}.md, .html and their folder."""

import argparse
import sys

from slidesparse import program
from slidesparse.files import printable
from slidesparse.report.write import write_report

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--hardware", required=True, metavar="KEY")
parser.add_argument("--sources", nargs="+", required=True, metavar="ROOT", help="in our layout or the published one")
parser.add_argument("--output", required=True, metavar="DIR")
parser.add_argument("--languages", nargs="+", default=["en"])


def main(arguments):
    for sentence in write_report(arguments.hardware, arguments.sources, arguments.output, arguments.languages):
        print(f"refused: {printable(sentence)}", file=sys.stderr)


if __name__ == "__main__":
    program.run(main, parser)
