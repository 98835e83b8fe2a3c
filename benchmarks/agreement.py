"""Do two backends compute the same model? Teacher-forced log-probabilities of one checkpoint's tokens on both.

    python3 benchmarks/agreement.py results/checkpoints/BitNet-2B/INT8/2_4.json cublaslt cusparselt --hardware KEY

Both engines run the same prompts of pseudo-random tokens, in one step and without CUDA graphs. The result is JSON. It
has the number of tokens compared, and the share of positions whose most probable token is the same. It also tells how
far the log-probabilities of the tokens that follow are apart. With --hardware the tuning tables under results/KEY are
used, otherwise none. A model that shares another model's shape in config/config.yaml has its tables.
"""

import argparse
import json
import math
from pathlib import Path

import torch
import yaml

from slidesparse.files import read_json
from slidesparse.models import checkpoints
from slidesparse.plan import matrix
from slidesparse.worker import handlers

ROOT = Path(__file__).parents[1]

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("manifest", type=Path, help="of the checkpoint, results/checkpoints/MODEL/DTYPE/SPARSITY.json")
parser.add_argument("backends", nargs=2, metavar="BACKEND")
parser.add_argument("--hardware", metavar="KEY", help="whose tuning tables to use")
parser.add_argument("--resources", default="resources")
parser.add_argument("--sequences", type=int, default=64)
parser.add_argument("--length", type=int, default=64, help="tokens of a sequence")


def forced(directory, backend, tuning, sequences, length):
    """(log-probabilities of the tokens that follow, most probable tokens), both [sequences * (length - 1)]."""
    from slidesparse.engine.engine import Engine, Size

    tokens = sequences * length
    engine = Engine(directory, backend, tuning, Size(tokens, sequences, length + 1, ((sequences, length + 1),), ()))
    taken = {}

    def keep(module, arguments, keywords, hidden):
        taken.update(keywords, hidden=hidden.clone())

    hook = engine.model.register_forward_hook(keep, with_kwargs=True)
    try:
        run = engine.run([length] * sequences, 1, (tokens, sequences), math.inf)
        assert [tuple(step) for step in run.steps] == [(tokens, sequences)], run.steps
        ids, positions, hidden = (taken[name][:tokens] for name in ("input_ids", "positions", "hidden"))
        assert torch.equal(positions.view(sequences, length)[0], torch.arange(length, device=positions.device))
        following, best = [], []
        for own, part in zip(ids.view(sequences, length), hidden.view(sequences, length, -1), strict=True):
            logprobs = engine.model.compute_logits(part[:-1]).float().log_softmax(-1)
            following.append(logprobs.gather(1, own[1:, None].long())[:, 0].cpu())
            best.append(logprobs.argmax(-1).cpu())
        return torch.cat(following), torch.cat(best)
    finally:
        hook.remove()
        engine.close()


def main():
    arguments = parser.parse_args()
    handlers.prepare_environment()
    manifest = read_json(arguments.manifest)
    directory = checkpoints.ensure(manifest, arguments.resources)
    model, dtype = arguments.manifest.parts[-3:-1]
    config = matrix.validated(yaml.safe_load((ROOT / "config" / "config.yaml").read_text()))
    shape = matrix.shapes(config).get(model, model)
    found = []
    for backend in arguments.backends:
        tables = Path("results", arguments.hardware or "", "tuning", shape, dtype, backend)
        table = next((t for t in (tables / arguments.manifest.name, tables / "dense.json") if t.is_file()), None)
        tuning = table if arguments.hardware else None
        found.append(forced(directory, backend, tuning, arguments.sequences, arguments.length))
    (first, best), (second, other) = found
    apart = (first - second).abs()
    print(
        json.dumps(
            {
                "checkpoint": str(arguments.manifest),
                "backends": arguments.backends,
                "tokens": len(first),
                "top1_agreement": (best == other).float().mean().item(),
                "max_abs_logprob_difference": apart.max().item(),
                "mean_abs_logprob_difference": apart.mean().item(),
                "mean_logprob": first.mean().item(),
            }
        )
    )


if __name__ == "__main__":
    main()
