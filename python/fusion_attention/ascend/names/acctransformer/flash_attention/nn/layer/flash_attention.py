"""The acctransformer cell under one of its document's names."""

from fusion_attention.cell.served import FlashAttention

__all__ = ["FlashAttention"]
