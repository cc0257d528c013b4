"""Label Studio ML backend: HTTP, labeling configs, regions, state. Imports `int_model`; no torch here."""
