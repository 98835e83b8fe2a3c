"""Quantise a model to INT8 or FP8 and, for a pattern, prune and slide it. Writes the checkpoint's manifest."""

import argparse

from slidesparse.files import read_json, write_json
from slidesparse.points import records
from slidesparse.worker import devices

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model-manifest", required=True, help="manifest of the BF16 model")
parser.add_argument("--dtype", required=True, choices=["INT8", "FP8"])
parser.add_argument("--sparsity", required=True, help="dense or 2_L")
parser.add_argument("--output", required=True, help="path of the checkpoint's manifest")
parser.add_argument("--resources", default="resources", help="where models and checkpoints lie")


def main(arguments):
    from slidesparse.models import checkpoints  # imports torch; --help need not wait for it

    manifest = read_json(arguments.model_manifest)
    with devices.host(shared=True):  # waits while a point has the host to itself
        made = checkpoints.convert(manifest, arguments.dtype, arguments.sparsity, arguments.resources)
    write_json(arguments.output, made)


if __name__ == "__main__":
    records.run_making(main, parser)
