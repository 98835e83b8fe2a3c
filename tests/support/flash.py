"""FlashAttention for a decode in a CUDA graph, as vLLM's backend FLASH_ATTN calls it: the rival of decode attention.

And how to let engines run another version of it than vLLM takes on this GPU.
"""

import torch

from slidesparse.machine import families

_forced = []
"""The version that `force` asked for, if any."""


def version():
    """The version of FlashAttention that engines run here: the one that vLLM takes, unless one was forced."""
    major, minor = torch.cuda.get_device_capability()
    return _forced[-1] if _forced else families.attention(10 * major + minor)


def lacking(wanted):
    """Why FlashAttention `wanted` cannot run here, or None."""
    from vllm.vllm_flash_attn import flash_attn_interface as interface

    if interface.is_fa_version_supported(wanted):
        return None
    return f"vLLM has no FlashAttention {wanted} here: {interface.fa_version_unsupported_reason(wanted)}"


def force(wanted, monkeypatch):
    """Let engines run FlashAttention `wanted`, with the CUDA graphs that vLLM makes on a GPU that takes it by itself.

    vLLM decides which graphs its attention supports when the module is imported, by the GPU alone.
    """
    from vllm.v1.attention.backend import AttentionCGSupport
    from vllm.v1.attention.backends.flash_attn import FlashAttentionMetadataBuilder

    from slidesparse.engine.engine import Engine

    running = Engine._running

    def with_version(self, tuning):
        settings = running(self, tuning)
        attention = settings.get("attention_config", {}) | {"flash_attn_version": wanted}
        return settings | {"attention_config": attention}

    monkeypatch.setattr(Engine, "_running", with_version)
    graphs = AttentionCGSupport.UNIFORM_BATCH if wanted == 2 else AttentionCGSupport.ALWAYS
    monkeypatch.setattr(FlashAttentionMetadataBuilder, "_cudagraph_support", graphs)
    monkeypatch.setitem(globals(), "_forced", [wanted])


class Flash:
    """Attention of one query for each sequence, with the version that engines run here.

    longest: tokens for which a sequence has room, which the host tells the kernel.
    splits: most splits of a sequence, as vLLM's `flash_attn_max_num_splits_for_cuda_graph`.
    Arguments are those of `decode_attention`; lengths and pages are kept, and read by every call.
    """

    def __init__(self, lengths, pages, heads, kv_heads, D, block, longest, splits=1):
        from vllm import vllm_flash_attn  # only GPUs have its kernels

        self._attend, self._schedule = vllm_flash_attn.flash_attn_varlen_func, vllm_flash_attn.get_scheduler_metadata
        self.version = version()
        self._lengths, self._pages, self._longest, self._splits = lengths, pages, longest, splits
        self._heads, self._kv_heads, self._D, self._block = heads, kv_heads, D, block
        M = len(lengths)
        self._starts = torch.arange(M + 1, dtype=torch.int32, device=lengths.device)
        self._one = torch.ones(1, device=lengths.device).expand(M, kv_heads)
        self._stored, self._made = torch.zeros(1 + (M + 3) // 4 * 16, dtype=torch.int32, device=lengths.device), None
        self.schedule()

    def schedule(self):
        """Make the schedule for today's lengths. It is no part of a graph, and vLLM makes one for each step."""
        if self.version != 3:
            return
        made = self._schedule(
            batch_size=len(self._lengths),
            max_seqlen_q=1,
            max_seqlen_k=self._longest,
            num_heads_q=self._heads,
            num_heads_kv=self._kv_heads,
            headdim=self._D,
            cache_seqlens=self._lengths,
            qkv_dtype=torch.bfloat16,
            cu_seqlens_q=self._starts,
            page_size=self._block,
            causal=True,
            window_size=(-1, -1),
            num_splits=self._splits,
        )
        self._stored.zero_()
        self._stored[: len(made)] = made
        self._made = self._stored[: len(made)]

    def __call__(self, query, keys, values, out):
        scales = dict.fromkeys(("q_descale", "k_descale", "v_descale"), self._one if self.version == 3 else None)
        self._attend(
            q=query.view(-1, self._heads, self._D),
            k=keys,
            v=values,
            out=out.view(-1, self._heads, self._D),
            cu_seqlens_q=self._starts,
            max_seqlen_q=1,
            seqused_k=self._lengths,
            max_seqlen_k=self._longest,
            softmax_scale=self._D**-0.5,
            causal=True,
            window_size=[-1, -1],
            block_table=self._pages,
            scheduler_metadata=self._made,
            fa_version=self.version,
            num_splits=self._splits if self.version == 3 else 0,
            **scales,
        )
