"""acctransformer on the CPU: its cell FlashAttention."""
