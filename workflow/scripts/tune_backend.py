"""Search a backend's fastest algorithms; writes …/{hardware}/tuning/{model}/{dtype}/{backend}/{sparsity}.json."""

import argparse

from slidesparse import program
from slidesparse.points import measure, records

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output", required=True, help="path of the table (.json; the .csv is written beside it)")
parser.add_argument("--basis", required=True, help="the model's shape.json")
parser.add_argument("--M", required=True, type=int, nargs="+", help="M to search for")
parser.add_argument("--parameters", required=True, type=program.json_object, metavar="JSON", help="how to measure")
program.add_worker_options(parser)


def main(arguments):
    measure.tune(arguments.output, arguments.basis, arguments.M, arguments.parameters, worker=program.worker(arguments))


if __name__ == "__main__":
    records.run_making(main, parser)
