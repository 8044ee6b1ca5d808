"""The inference operators: one table, and fronts for NumPy arrays, torch tensors and MindSpore tensors."""
