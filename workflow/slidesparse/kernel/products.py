"""One linear as each backend multiplies it: codes, copies of the operands, checks, and samplers of its time.

Weights are ternary codes of a stated zero rate. Activations are quantised normal numbers. Both come from a fixed seed.
A product is checked against the float64 product X W^T of the unslid codes. All backends multiply the same codes: a
dense one takes the pruned weight of its sparse rival.
"""

import math

import torch

from slidesparse import operators
from slidesparse.errors import MeasurementError
from slidesparse.gemm.dense import OUTPUTS
from slidesparse.sparsity.prune import prune
from slidesparse.sparsity.quantize import quantize_per_token, store_as
from slidesparse.sparsity.slide import lift, slide
from slidesparse.timing import protocol

ZERO_RATE = 0.42
"""Share of exact zeros in BitNet b1.58 2B 4T's ternary weights (median over its layers)."""

TOLERANCE = {"INT32": (0.0, 0.0), "BF16": (4e-3, 4e-3), "FP32": (1e-5, 1e-5)}
"""Errors allowed for an output type, against the float64 product: Frobenius norm over its norm, and largest error
over its largest entry."""

TOLERANCE_WHOLE = (4e-3, 8e-3)
"""The same for a whole linear. Its product may be rounded to BF16 before each scale and after it."""

FILLED, TRIES = (0.92, 0.95, 0.98), 4
"""Largest entry of an FP8 product over the next power of two: least, aim and most. TRIES: attempts to reach it."""

POISON = -1234567


class Weight:
    """The weight of one linear, pruned to a pattern, and copies of it in the form of each backend."""

    def __init__(self, name, N, K, dtype, pattern, device):
        self.name, self.N, self.K, self.dtype, self.pattern, self.device = name, N, K, dtype, pattern, device
        generator = torch.Generator(device).manual_seed(N * 1_000_003 + K * 1_009)
        latent = torch.randn(N, K, generator=generator, device=device)
        kept = torch.rand(N, K, generator=generator, device=device) >= ZERO_RATE
        self.codes, self.changed = prune(latent.sign().to(torch.int8) * kept, latent, pattern)
        self.scale = torch.rand(N, generator=generator, device=device) + 0.5
        self._operands = {}

    def operands(self, backend, count):
        """`count` copies in the backend's form. All copies are kept for the next call."""
        kept = self._operands.setdefault(backend.name, [])
        if not kept:
            codes = slide(self.codes, self.pattern) if backend.sparse else self.codes
            kept.append(backend.prepare(store_as(codes, self.dtype)))
        kept += [kept[0].clone() for _ in range(count - len(kept))]
        return kept[:count]

    def release(self):
        """Forget all copies but one for each backend."""
        for kept in self._operands.values():
            del kept[1:]


class Problem:
    """A weight, M rows of BF16 activations with their codes and scales, and the float64 product of the codes.

    Rounding to BF16 costs up to 3.9e-3 of an entry just above a power of two, and 2e-3 of one just below. A tensor core
    that adds E4M3 in less than FP32 costs another 1.6e-3. The tolerance has room for both only if the largest entry is
    just below a power of two. So every token of an FP8 problem has one large activation, as in a model. It makes the
    other codes smaller by the right factor.
    """

    def __init__(self, weight, M):
        self.weight, self.M = weight, M
        generator = torch.Generator(weight.device).manual_seed(weight.N * 1_000_003 + weight.K * 1_009 + M)
        x = torch.randn(M, weight.K, generator=generator, device=weight.device)
        self._multiply(x)
        if weight.dtype == "FP8":
            self._fill(x)
        self._scaled = None

    def _multiply(self, x):
        self.activations = x.bfloat16()
        self.x, self.scale = quantize_per_token(self.activations, self.weight.dtype)
        self.reference = self.x.to(torch.float64) @ self.weight.codes.to(torch.float64).t()
        self.norm, self.largest = self.reference.norm().item(), self.reference.abs().max().item()

    def _fill(self, x):
        """Set one activation of each token so that the largest entry is just below a power of two."""
        least, aim, most = FILLED
        rows, factor = x.abs().amax(1), 1.0
        for _ in range(TRIES):
            filled, _ = math.frexp(self.largest)
            if least <= filled <= most:
                break
            factor *= filled / aim
            if factor < 1:
                factor *= 2
            x[:, 0] = rows * factor
            self._multiply(x)

    def errors(self, outs):
        """[(Frobenius norm of the error over the reference's, largest error over largest entry, largest error)]."""
        return _errors(outs, self.reference, self.norm, self.largest)

    def scaled_errors(self, outs):
        """The same for products to which both scales were applied."""
        if self._scaled is None:
            scaled = self.reference * self.scale.double() * self.weight.scale.double()
            self._scaled = scaled, scaled.norm().item(), scaled.abs().max().item()
        return _errors(outs, *self._scaled)


def _errors(outs, reference, norm, largest):
    """[(Frobenius norm of out - reference over `norm`, its largest absolute value over `largest`, that value)]."""
    if reference.is_cuda:
        from slidesparse.timing import cuda_tools

        errors = cuda_tools.errors(outs, reference)
    else:
        differences = [out.to(torch.float64) - reference for out in outs]
        errors = [(difference.norm().item(), difference.abs().max().item()) for difference in differences]
    return [(error / norm, most / largest, most) for error, most in errors]


class Product:
    """A problem as one backend computes it, with one output type: copies of the operands, execution, checks."""

    def __init__(self, problem, backend, output=None, cache_bytes=0, most_sets=1 << 30):
        weight = problem.weight
        self.problem, self.backend = problem, backend
        self.output = output or backend.outputs(weight.dtype)[0]
        self.name, self.N, self.K, self.M = weight.name, weight.N, weight.K, problem.M
        self.K_slid = weight.pattern.K_slid(weight.K) if backend.sparse else weight.K
        self.operand = weight.operands(backend, 1)[0]
        self.sets = min(most_sets, protocol.copies(self.operand.footprint + self.M * self.K_slid, cache_bytes))
        self.operands = weight.operands(backend, self.sets)
        x = lift(problem.x, weight.pattern) if backend.sparse else problem.x
        self.inputs = [x] + [x.clone() for _ in range(self.sets - 1)]
        shape = {"dtype": OUTPUTS[self.output], "device": weight.device}
        self.outputs = [torch.empty(self.M, self.N, **shape) for _ in range(self.sets)]

    def __str__(self):
        return (
            f"backend {self.backend.name}: {self.name} at M={self.M} N={self.N} K={self.K_slid}"
            f" {self.problem.weight.dtype} to {self.output}"
        )

    @property
    def main(self):
        """True if its output type is the backend's default."""
        return self.output == self.backend.outputs(self.problem.weight.dtype)[0]

    def algorithms(self):
        return self.backend.algorithms(self.operand, self.M, self.output)

    def run(self, algorithm, i):
        self.backend.matmul(self.operands[i], self.inputs[i], algorithm, self.output, self.outputs[i])

    def poison(self):
        for output in self.outputs:
            output.fill_(POISON)

    def check(self, sets=None):
        """(largest absolute error, exact) of the outputs; raises MeasurementError if one is wrong."""
        errors = self.problem.errors(self.outputs[: sets or self.sets])
        worst = max(_right(self, error, TOLERANCE[self.output]) for error in errors)
        return worst, worst == 0.0

    def verify(self, algorithm, sets=1):
        """Run an algorithm once over the first `sets` sets and check them; raises MeasurementError if it is wrong."""
        for i in range(sets):
            self.outputs[i].fill_(POISON)
            self.run(algorithm, i)
        return self.check(sets)

    def sampler(self, algorithm, hot=False, quick=False):
        """Sampler of the algorithm's time, cold unless `hot`; a `quick` one is coarse."""
        return sampler(self.backend.device, lambda i: self.run(algorithm, i), 1 if hot else self.sets, hot, quick)

    def kernels(self, algorithm):
        """Names of the kernels that an algorithm starts; empty on a CPU."""
        if self.backend.device == "cpu":
            return []
        from slidesparse.timing import cuda_tools

        return cuda_tools.kernels(lambda: self.run(algorithm, 0))

    def found(self):
        """Id of the algorithm that the library's own search finds, or None."""
        return self.backend.found(self.operand, self.inputs[0], self.output)


class Linear:
    """A product as a model computes it: BF16 activations are quantised (and lifted), multiplied, and scaled to BF16.

    Scales that the library's epilogue does not apply take a separate pass. Three forms are timed:

    - `whole` with this pass;
    - `raw` without it, so that the product stays unscaled;
    - `passed` with a pass that only copies.

    A consumer may fold the scales of a raw product into a pass of its own. It then pays whole - passed in addition.
    Only `whole` writes `outputs`, which are checked.
    """

    def __init__(self, product, algorithm):
        """Raises MeasurementError if the result is wrong."""
        self.product, self.algorithm = product, algorithm
        problem, weight = product.problem, product.problem.weight
        self.inputs = [problem.activations] + [problem.activations.clone() for _ in range(product.sets - 1)]
        self.token_scales = [torch.empty_like(problem.scale) for _ in range(product.sets)]
        self.outputs = [torch.empty_like(out, dtype=torch.bfloat16) for out in product.outputs]
        self.epilogue = product.backend.scales(weight.dtype) if product.output == "BF16" else ()
        self._pattern = weight.pattern.name if product.backend.sparse else "dense"
        for i, codes in enumerate(product.inputs):
            if codes.is_cuda:  # on a CPU new codes take their place, and other products may share these
                codes.view(torch.int8).fill_(0x55)
            self.outputs[i].fill_(POISON)
            self.whole(i)
        self.check()

    @property
    def passes(self):
        """True if the scales take a separate pass."""
        return "token" not in self.epilogue

    def whole(self, i):
        product = self.outputs[i] if self.product.output == "BF16" else self.product.outputs[i]
        self._multiply(i, product, self.epilogue)
        if self.passes:
            channel = None if "channel" in self.epilogue else self.product.problem.weight.scale
            self._scale(product, self.token_scales[i], channel, self.outputs[i])

    def raw(self, i):
        self._multiply(i, self.product.outputs[i], ())

    def passed(self, i):
        self.raw(i)
        self._scale(self.product.outputs[i], None, None, self.product.outputs[i])

    def poison(self):
        for output in self.outputs:
            output.fill_(POISON)

    def check(self, sets=None):
        """Raises MeasurementError if one of the outputs of `whole` is wrong."""
        for errors in self.product.problem.scaled_errors(self.outputs[: sets or self.product.sets]):
            _right(self, errors, TOLERANCE_WHOLE)

    def sampler(self, form):
        """Sampler of the cold time of one of the forms."""
        return sampler(self.product.backend.device, form, self.product.sets)

    def __str__(self):
        return f"whole linear of {self.product}"

    def _multiply(self, i, out, scales):
        product, problem = self.product, self.product.problem
        if product.backend.device == "cuda":
            operators.run(self.inputs[i], self._pattern, problem.weight.dtype, product.inputs[i], self.token_scales[i])
        else:
            codes, token_scales = operators.quantize(self.inputs[i], self._pattern, problem.weight.dtype)
            product.inputs[i], self.token_scales[i] = codes, token_scales.view(-1, 1)
        given = {"token": self.token_scales[i], "channel": problem.weight.scale}
        given = {f"{name}_scale": given[name] for name in scales}
        product.backend.matmul(product.operands[i], product.inputs[i], self.algorithm, product.output, out, **given)

    def _scale(self, product, token_scale, channel_scale, out):
        if product.is_cuda:
            from slidesparse.operators import scale

            scale.start(product, token_scale, channel_scale, out)
        else:
            for factor in (token_scale, channel_scale):
                product = product if factor is None else product * factor
            out.copy_(product)


def _right(what, errors, allowed):
    """The largest absolute error; raises MeasurementError if the errors exceed what is allowed."""
    frobenius, largest, most = errors
    if not (frobenius <= allowed[0] and largest <= allowed[1]):
        raise MeasurementError(
            f"{what} is wrong by {frobenius:.2e} of the product's norm and {largest:.2e} of its largest entry"
        )
    return most


def sampler(device, call, sets, hot=False, quick=False):
    """Sampler of `call(i)` for work on `cpu` or `cuda`, with i cycling through 0 … sets-1. A `quick` one is coarse.

    hot: an untimed call comes before every sample.
    """
    if device == "cpu":
        return protocol.Calls(call, sets, hot)
    from slidesparse.timing import cuda

    return cuda.Launches(call, sets) if quick else cuda.Replays(call, sets, hot)
