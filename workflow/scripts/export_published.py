"""Write the results of one hardware key in the layout of the published system, CSV and JSON."""

import argparse
import sys

from slidesparse import program
from slidesparse.files import printable
from slidesparse.report.tables.export import export

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--hardware", required=True, metavar="KEY")
parser.add_argument("--source", default="results", metavar="ROOT", help="results in our layout")
parser.add_argument("--output", required=True, metavar="DIR")
parser.add_argument(
    "--caches", default="hot", choices=("hot", "cold"), help="of kernel figures; the published ones are hot"
)


def main(arguments):
    for sentence in export(arguments.source, arguments.hardware, arguments.output, arguments.caches):
        print(f"left out: {printable(sentence)}", file=sys.stderr)


if __name__ == "__main__":
    program.run(main, parser)
