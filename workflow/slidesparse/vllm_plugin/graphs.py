"""CUDA graphs of exactly the steps that are measured, in vLLM's model runner V2.

vLLM captures a size with as many sequences as fit, and runs without a graph above its largest one without a word. Here
an engine captures the planned steps, each with its own number of sequences, and writes down how every step ran.
`additional_config={"slidesparse": {"graphs": [[tokens, sequences], …]}}` plans them.
"""

from vllm.config import CUDAGraphMode
from vllm.v1.worker.gpu import model_runner
from vllm.v1.worker.gpu.cudagraph_utils import BatchExecutionDescriptor, ModelCudaGraphManager


class PlannedGraphs(ModelCudaGraphManager):
    """One FULL graph for each planned step; `dispatched` lists the mode of every step, cleared by whoever reads it."""

    def __init__(self, *arguments, **keywords):
        self.dispatched = []
        super().__init__(*arguments, **keywords)

    def _init_candidates(self):
        planned = self.vllm_config.additional_config["slidesparse"]["graphs"]
        graphs = [
            BatchExecutionDescriptor(CUDAGraphMode.FULL, tokens, sequences, uniform_token_count=tokens // sequences)
            for tokens, sequences in sorted(planned, reverse=True)
        ]
        for graph in graphs:
            self._candidates.setdefault((graph.num_tokens, 0), []).append(graph)
        if graphs:
            self._capture_descs[CUDAGraphMode.FULL] = graphs

    def dispatch(self, *arguments, **keywords):
        found = super().dispatch(*arguments, **keywords)
        self.dispatched.append(found.cg_mode.name)
        return found


def install():
    """Let the engines that are made in this process from now on capture what is planned, and nothing else."""
    model_runner.ModelCudaGraphManager = PlannedGraphs
