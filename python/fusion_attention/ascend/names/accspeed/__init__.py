"""The package of the acctransformer cell, on the CPU."""
