"""CUDA graphs in vLLM's model runner V2: how every step ran, and graphs of exactly the steps that are measured.

vLLM captures a size with as many sequences as fit, and runs without a graph above its largest one without a word. Here
every engine writes down how its steps ran; and one with `additional_config={"slidesparse": {"graphs": [[tokens,
sequences], …]}}` captures these steps, each with its own number of sequences, and nothing else.
"""

from vllm.config import CUDAGraphMode
from vllm.v1.worker.gpu import model_runner
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor, ModelCudaGraphManager


class RecordedGraphs(ModelCudaGraphManager):
    """`dispatched` lists the mode of every step, cleared by whoever reads it."""

    def __init__(self, *arguments, **keywords):
        self.dispatched = []
        super().__init__(*arguments, **keywords)

    def _init_candidates(self):
        planned = self.vllm_config.additional_config.get("slidesparse", {}).get("graphs")
        if planned is None:
            super()._init_candidates()
            return
        graphs = [
            BatchExecutionDescriptor(CUDAGraphMode.FULL, tokens, sequences, uniform_token_count=tokens // sequences)
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
    """Let the engines that are made in this process from now on record, and capture what is planned."""
    model_runner.ModelCudaGraphManager = RecordedGraphs
