"""Of the acctransformer cell."""
