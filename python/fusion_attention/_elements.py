"""The numbers of C++'s `enum class Element`, by the names that NumPy and torch share."""

ELEMENTS = {
    name: code
    for code, name in enumerate(
        ("float32", "float16", "bfloat16", "bool", "uint8", "int8", "int32", "int64", "float64", "uint64")
    )
}
OTHER = len(ELEMENTS)
