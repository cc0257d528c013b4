"""What `benchmarks.mutants` is made of: the changes, the lists of tests and of equivalent changes, and the runs."""
