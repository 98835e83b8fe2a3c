"""Make stock vLLM's point at one M, …/{stage}/{model}/{dtype}/vllm/dense/M{m}.json, from its fastest variant."""

import argparse

from slidesparse import program
from slidesparse.points import choose_stock

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output", required=True, help="path of the point; the variants' points lie in the same tree")
parser.add_argument("--basis", required=True, help="the checkpoint's manifest")
parser.add_argument("--parameters", required=True, type=program.json_object, metavar="JSON", help="how to measure")
parser.add_argument("--log", help="where standard error goes, for the record of a failure")


def main(arguments):
    choose_stock.choose(arguments.output, arguments.basis, arguments.parameters, log=arguments.log)


if __name__ == "__main__":
    program.run(main, parser)
