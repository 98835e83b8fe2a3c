"""What a measurement calls in the process in which an engine's model runs, through vLLM's worker."""

import torch

from slidesparse import vllm_plugin
from slidesparse.timing import breakdown
from slidesparse.vllm_plugin import scheduler

vllm_plugin.register()  # for an engine's own process, where the package is on the path but not installed
if torch.cuda.is_available():
    from slidesparse.vllm_plugin import graphs

    graphs.install()


class Probe:
    """Extension of vLLM's worker (engine argument `worker_extension_cls`); the scheduler lives in its process."""

    def slidesparse_limit(self, tokens, sequences):
        """Set the budget of a step. With 0 and 0 nothing runs until it is set again."""
        self._slidesparse_scheduler().limit(tokens, sequences)

    def slidesparse_taken(self):
        """([[tokens, sequences]] of the steps since the last call, [CUDA graph mode] of each; no modes on a CPU)."""
        recorded, modes = self._slidesparse_scheduler().steps, self._slidesparse_modes()
        taken = [list(step[:2]) for step in recorded], list(modes)
        recorded.clear()
        modes.clear()
        return taken

    def _slidesparse_scheduler(self):
        return scheduler.of(self.vllm_config)

    def _slidesparse_modes(self):
        return getattr(getattr(self.model_runner, "cudagraph_manager", None), "dispatched", [])

    def slidesparse_profile(self, begin):
        """Start to record what the GPU does, or stop and return {steps, launches, gpu_ns, kernels}.

        gpu_ns: nanoseconds in which at least one kernel ran.
        kernels: [[name, count, nanoseconds]]. Time in which several ran is counted once.
        Both calls wait for the steps in flight.
        """
        torch.cuda.synchronize()
        if begin:
            self._slidesparse_before = len(self._slidesparse_modes())
            self._slidesparse_profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self._slidesparse_profiler.start()
            return None
        steps = len(self._slidesparse_modes()) - self._slidesparse_before
        self._slidesparse_profiler.stop()
        events = self._slidesparse_profiler.profiler.kineto_results.events()
        del self._slidesparse_profiler
        cuda = torch.autograd.DeviceType.CUDA
        ran = [event for event in events if event.device_type() == cuda and not event.is_user_annotation()]
        return {"steps": steps} | breakdown.attributed([(e.start_ns(), e.duration_ns(), e.name()) for e in ran])

    def slidesparse_state(self):
        """{clock_mhz: mean of the multiprocessors over a fifth of a millisecond, peak_memory_bytes}; empty on a CPU."""
        if not torch.cuda.is_available():
            return {}
        from slidesparse.timing.cuda_tools import Wait

        if not hasattr(self, "_slidesparse_wait"):
            self._slidesparse_wait = Wait()
        self._slidesparse_wait.reset()
        self._slidesparse_wait(200_000)
        return {
            "clock_mhz": self._slidesparse_wait.clock_mhz,
            "peak_memory_bytes": torch.cuda.max_memory_reserved(),
        }

    def slidesparse_model(self, M):
        """What runs at M: {linears: {name: choice}, weight_bytes, graph_sizes}.

        Only our own engines have linears here, those of the first block.
        """
        model = self.model_runner.get_model()
        linears, stored = {}, sum(weight.nbytes for weight in model.parameters())
        for name, module in model.named_modules():
            method = getattr(module, "quant_method", None)
            if hasattr(method, "choice"):
                stored += method.bytes
                if ".layers.0." in f".{name}":
                    linears[name.rpartition(".")[2].removesuffix("_proj")] = method.choice(M)
        manager = getattr(self.model_runner, "cudagraph_manager", None)
        return {"linears": linears, "weight_bytes": stored, "graph_sizes": getattr(manager, "sizes", [])}
