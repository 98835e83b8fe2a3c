"""Score a task of the lm-evaluation-harness and write …/{model}/{dtype}/{backend}/{sparsity}/tasks/{task}.json."""

import argparse

from slidesparse import program
from slidesparse.points import tasks

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--output", required=True, help="path of the result, which is also its key")
parser.add_argument("--basis", required=True, help="the checkpoint's manifest")
parser.add_argument("--tuning", required=True, help="tuning table of the backend")
parser.add_argument("--task", required=True, type=program.json_object, metavar="JSON", help="its source and content")
parser.add_argument("--resources", default="resources", help="where models and checkpoints lie")
parser.add_argument("--log", help="where standard error goes, for the record of a failure")
program.add_worker_options(parser)


def main(arguments):
    tasks.score(
        arguments.output,
        arguments.task["source"],
        arguments.task["content"],
        arguments.basis,
        arguments.tuning,
        resources=arguments.resources,
        log=arguments.log,
        worker=program.worker(arguments),
    )


if __name__ == "__main__":
    program.run(main, parser)
