"""Our adapters against the packages that the checkpoints come from, on small random checkpoints.

    python -m benchmarks.originals

Each module builds a model of one package, saves its tensors as the package publishes them, loads the file with our
adapter, and says how far the answers differ at most. A package that is not installed is named.
"""
