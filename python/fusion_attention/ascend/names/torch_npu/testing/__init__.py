"""The part of torch_npu.testing that op-plugin's own tests import."""
