"""FlashAttention for a decode in a CUDA graph, as vLLM's backend FLASH_ATTN calls it: the rival of decode attention."""

import torch


class Flash:
    """Attention of one query for each sequence, with version 3 on GPUs of compute capability 9, else 2.

    longest: tokens for which a sequence has room, which the host tells the kernel.
    splits: most splits of a sequence, as vLLM's `flash_attn_max_num_splits_for_cuda_graph`.
    Arguments are those of `decode_attention`; lengths and pages are kept, and read by every call.
    """

    def __init__(self, lengths, pages, heads, kv_heads, D, block, longest, splits=1):
        from vllm import vllm_flash_attn  # only GPUs have its kernels

        self._attend, self._schedule = vllm_flash_attn.flash_attn_varlen_func, vllm_flash_attn.get_scheduler_metadata
        self.version = 3 if torch.cuda.get_device_capability()[0] == 9 else 2
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
