"""Download, generate or check a model's BF16 weights. Writes its manifest: source, files, sizes, sha256."""

import argparse
from pathlib import Path

from slidesparse import models, program
from slidesparse.files import write_json
from slidesparse.points import records

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", required=True, help="name in the configuration's registry")
parser.add_argument("--entry", required=True, type=program.json_object, metavar="JSON", help="its registry entry")
parser.add_argument("--output", required=True, help="path of the model's manifest")
parser.add_argument("--resources", default="resources", help="where models/ and models.lock.json lie")


def main(arguments):
    root = Path(arguments.resources)
    manifest = models.fetch(arguments.model, arguments.entry, root, root / "models.lock.json")
    write_json(arguments.output, manifest)


if __name__ == "__main__":
    records.run_making(main, parser)
