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

    def slidesparse_states(self, begin):
        """Start to keep what the model returns before its head, or stop and return it, one step after the other.

        A step is (token ids [rows], hidden states [rows, hidden]) on the CPU. Rows beyond its tokens are padding. A
        step that replays a whole CUDA graph does not call the model, so nothing is kept of it.
        """
        if begin:
            self._slidesparse_kept, model = [], self.model_runner.get_model()
            self._slidesparse_keeping = model.register_forward_hook(self._slidesparse_keep, with_kwargs=True)
            return None
        self._slidesparse_keeping.remove()
        kept, self._slidesparse_kept = self._slidesparse_kept, []
        return kept

    def _slidesparse_keep(self, model, arguments, keywords, states):
        tokens = keywords["input_ids"] if "input_ids" in keywords else arguments[0]
        self._slidesparse_kept.append((tokens.to("cpu", copy=True), states.to("cpu", copy=True)))

    def slidesparse_profile(self, begin):
        """Start to record what the GPU does, or stop and return {clock_mhz, steps, launches, gpu_ns, kernels}.

        clock_mhz: mean of the multiprocessors over a fifth of a millisecond, right behind the step before the record.
        gpu_ns: nanoseconds in which at least one kernel ran.
        kernels: [[name, count, nanoseconds]]. Time in which several ran is counted once.
        Both calls wait for the steps in flight.
        """
        if begin:
            clock = self._slidesparse_clock()
            clock.reset()
            clock(200_000)  # the GPU runs it when the steps in flight end, with no pause
            torch.cuda.synchronize()
            self._slidesparse_before = len(self._slidesparse_modes())
            self._slidesparse_profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self._slidesparse_profiler.start()
            return None
        torch.cuda.synchronize()
        steps = len(self._slidesparse_modes()) - self._slidesparse_before
        self._slidesparse_profiler.stop()
        events = self._slidesparse_profiler.profiler.kineto_results.events()
        del self._slidesparse_profiler
        cuda = torch.autograd.DeviceType.CUDA
        ran = [event for event in events if event.device_type() == cuda and not event.is_user_annotation()]
        return {
            "clock_mhz": self._slidesparse_clock().clock_mhz,
            "steps": steps,
            **breakdown.attributed([(e.start_ns(), e.duration_ns(), e.name()) for e in ran]),
        }

    def _slidesparse_clock(self):
        if not hasattr(self, "_slidesparse_wait"):
            from slidesparse.timing.cuda_tools import Wait

            self._slidesparse_wait = Wait()
        return self._slidesparse_wait

    def slidesparse_memory(self):
        """Most bytes of GPU memory that were reserved; None on a CPU."""
        return torch.cuda.max_memory_reserved() if torch.cuda.is_available() else None

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
