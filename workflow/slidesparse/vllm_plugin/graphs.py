"""CUDA graphs in vLLM's model runner V2: a record of how every step ran, and graphs of exactly the measured steps.

vLLM captures a size with as many sequences as fit. Above its largest size it runs without a graph and does not say so.
Here every engine records how its steps ran. An engine with `additional_config={"slidesparse": {"graphs": [[tokens,
sequences], …]}}` captures these steps only, each with its own number of sequences.
"""

from vllm.config import CUDAGraphMode
from vllm.v1.worker.gpu import model_runner
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor, ModelCudaGraphManager


class RecordedGraphs(ModelCudaGraphManager):
    """`dispatched` lists the mode of every step, until a reader clears it."""

    def __init__(self, *arguments, **keywords):
        self.dispatched = []
        super().__init__(*arguments, **keywords)

    def _init_candidates(self):
        planned = self.vllm_config.additional_config.get("slidesparse", {}).get("graphs")
        if planned is None:
            super()._init_candidates()
            return
        # Newer releases tell the dispatcher of no number of tokens a sequence, if a step has a prompt.
        graphs = [
            BatchExecutionDescriptor(
                CUDAGraphMode.FULL, tokens, sequences, uniform_token_count=1 if tokens == sequences else None
            )
            for tokens, sequences in sorted(planned, reverse=True)
        ]
        for graph in graphs:
            self._candidates.setdefault((graph.num_tokens, 0), []).append(graph)
        if graphs:
            self._capture_descs[CUDAGraphMode.FULL] = graphs

    def dispatch(self, *arguments, **keywords):
        dispatched = super().dispatch(*arguments, **keywords)
        self.dispatched.append(dispatched.cg_mode.name)
        return dispatched

    @property
    def sizes(self):
        """Tokens of the steps that were captured, ascending."""
        return sorted({graph.num_tokens for graphs in self._capture_descs.values() for graph in graphs})


def install():
    """Make the engines of this process, from now on, record their steps and capture what is planned."""
    model_runner.ModelCudaGraphManager = RecordedGraphs
