"""mindspeed on the CPU, so far only `mindspeed.ops.fusion_attention_v2`."""
