"""The profiles' models from their real configurations with random weights, rigged so that every stage does its work.

Belongs here: what ``benchmarks/gpu.py`` builds, rigs and counts. Does not: anything that a user of the package needs.
"""
