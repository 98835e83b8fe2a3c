"""Write a model's shape and its four linears, from its registry entry. Needs no network."""

import argparse

from slidesparse import models, program
from slidesparse.files import write_json

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True, help="name in the configuration's registry")
parser.add_argument("--entry", required=True, type=program.json_object, metavar="JSON", help="its registry entry")
parser.add_argument("--output", required=True, help="path of shape.json")


def main(arguments):
    write_json(arguments.output, models.describe(arguments.model, arguments.entry))


if __name__ == "__main__":
    program.run(main, parser)
