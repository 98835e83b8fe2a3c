"""Download a text of a hub's data set, on which checkpoints are scored. Writes its manifest: name, size, sha256."""

import argparse
from pathlib import Path

from slidesparse.files import write_json
from slidesparse.models import texts
from slidesparse.points import records

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--text", required=True, help="quality.text of the configuration: hf://datasets/…")
parser.add_argument("--output", required=True, help="path of the text's manifest")
parser.add_argument("--resources", default="resources", help="where texts/ and models.lock.json lie")


def main(arguments):
    root = Path(arguments.resources)
    facts = texts.fetch(arguments.text, root, root / "models.lock.json")
    write_json(arguments.output, {"schema": 1, "text": arguments.text, **facts})


if __name__ == "__main__":
    records.run_making(main, parser)
