"""Choose the fastest kernel for every linear and M; writes …/{hardware}/tuning/{model}/{dtype}/auto/{sparsity}.json."""

import argparse

from slidesparse import program
from slidesparse.points import choose_kernels, records

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output", required=True, help="path of the choices")
parser.add_argument("--points", required=True, nargs="+", metavar="FILE", help="kernel points to choose by")
parser.add_argument(
    "--candidates",
    required=True,
    nargs="+",
    metavar="BACKEND[=TABLE]",
    help="backends that may be chosen, with their tuning tables",
)
parser.add_argument(
    "--parameters", required=True, type=program.json_object, metavar="JSON", help="how kernel points are measured"
)


def main(arguments):
    choose_kernels.choose(
        arguments.output,
        arguments.points,
        {name: table or None for name, _, table in (one.partition("=") for one in arguments.candidates)},
        arguments.parameters,
    )


if __name__ == "__main__":
    records.run_making(main, parser)
