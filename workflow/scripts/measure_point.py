"""Measure one point and write …/{hardware}/{stage}/{model}/{dtype}/{backend}/{sparsity}/M{m}.json."""

import argparse

from slidesparse import program
from slidesparse.points import measure

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output", required=True, help="path of the point, which is also its key")
parser.add_argument("--basis", required=True, help="the model's shape.json (kernel) or the checkpoint's manifest")
parser.add_argument("--tuning", nargs="?", help="tuning table of the backend, or choices of auto; stock vLLM has none")
parser.add_argument(
    "--peers",
    nargs="*",
    default=[],
    metavar="BACKEND[=TABLE]",
    help="dense backends to measure in turn with a kernel point, or to compare a quality point with, and their tables",
)
parser.add_argument("--parameters", required=True, type=program.json_object, metavar="JSON", help="how to measure")
parser.add_argument("--resources", default="resources", help="where models and checkpoints lie")
parser.add_argument("--log", help="where standard error goes, for the record of a failure")
program.add_worker_options(parser)


def main(arguments):
    measure.measure(
        arguments.output,
        arguments.basis,
        arguments.tuning,
        arguments.parameters,
        peers={name: table or None for name, _, table in (peer.partition("=") for peer in arguments.peers)},
        resources=arguments.resources,
        log=arguments.log,
        worker=program.worker(arguments),
    )


if __name__ == "__main__":
    program.run(main, parser)
