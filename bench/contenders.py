"""The same tensors through this library and through torch's flash kernel, and the check of the answers."""

from __future__ import annotations

import math

import torch

from .cases import Case

flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class Cell:
    """The tensors of a case and one function per contender."""

    def __init__(self, case: Case):
        import fusion_attention.torch as ours

        generator = torch.Generator().manual_seed(7)

        def tensor(heads):
            shape = (case.batch, heads, case.rows, case.depth)
            return torch.randn(shape, generator=generator).to(getattr(torch, case.dtype))

        self.case, self.ours = case, ours
        self.query, self.key, self.value = tensor(case.heads), tensor(case.kv_heads), tensor(case.kv_heads)
        self.gradient, self.scale = tensor(case.heads), 1 / math.sqrt(case.depth)
        mask = torch.ones(2048, 2048, dtype=torch.bool).triu_(1) if case.causal else None
        self.words = {"atten_mask": mask, "sparse_mode": 2 if case.causal else 0}
        self.qkv = (self.query, self.key, self.value)
        # torch wants as many kv heads as query heads in its backward: copies, made before the clock starts.
        repeat = case.heads // case.kv_heads
        self.peer_qkv = (
            (self.query, *(x.repeat_interleave(repeat, 1) for x in self.qkv[1:])) if repeat > 1 else self.qkv
        )
        with torch.no_grad():
            self.answer = self._forward()
            self.peer_answer = self._peer_forward()
            self._check()

    def contenders(self) -> dict:
        if self.case.backward:
            return {"ours": self._backward, "torch": self._peer_backward}
        return {"ours": self._forward, "torch": self._peer_forward}

    def _forward(self):
        return self.ours.npu_fusion_attention(
            *self.qkv, self.case.heads, "BNSD", scale=self.scale, **self.words
        )

    def _backward(self):
        out, top, total = self.answer[:3]
        return self.ours.npu_fusion_attention_grad(
            *self.qkv,
            self.gradient,
            self.case.heads,
            "BNSD",
            softmax_max=top,
            softmax_sum=total,
            attention_in=out,
            scale_value=self.scale,
            **self.words,
        )

    def _peer_forward(self):
        return flash(*self.peer_qkv, 0.0, self.case.causal, attn_mask=None, scale=self.scale)

    def _peer_backward(self):
        out, lse = self.peer_answer[:2]
        return flash_backward(
            self.gradient, *self.peer_qkv, out, lse, 0.0, self.case.causal, attn_mask=None, scale=self.scale
        )

    def _check(self) -> None:
        """Sampled rows of two heads against float64; the gradient of the query too."""
        group, rows = self.case.heads // self.case.kv_heads, self.case.rows
        tolerance = {"bfloat16": 2e-2, "float16": 3e-3, "float32": 2e-5}[self.case.dtype]
        gradients = self._backward() if self.case.backward else None
        for head in {0, self.case.heads - 1}:
            q, dy = self.query[0, head].double(), self.gradient[0, head].double()
            k, v = (x[0, head // group].double() for x in self.qkv[1:])
            for row in {0, 1, rows // 3, rows - 1}:
                seen = row + 1 if self.case.causal else rows
                p = torch.softmax(self.scale * (k[:seen] @ q[row]), 0)
                out = p @ v[:seen]
                size = (p @ v[:seen].abs()).norm()
                self._near(self.answer[0][0, head, row], out, size, tolerance, f"row {row} of head {head}")
                if gradients is not None:
                    dp = v[:seen] @ dy[row]
                    dq = self.scale * ((p * (dp - dy[row] @ out)) @ k[:seen])
                    # dP − Δ may cancel (one visible key: exactly), their rounding errors do not.
                    size = self.scale * ((p * (dp.abs() + dy[row].abs() @ out.abs())) @ k[:seen].abs()).norm()
                    self._near(
                        gradients[0][0, head, row], dq, size, tolerance, f"dq row {row} of head {head}"
                    )

    def _near(self, got, want, size, tolerance, what) -> None:
        """Off by at most tolerance·size, the norm of the sum of the terms' magnitudes."""
        error = (got.double() - want).norm() / size
        if not error <= tolerance:
            raise AssertionError(
                f"{self.case.name}: {what} is off by {error:.2e} relative, allowed {tolerance}"
            )
