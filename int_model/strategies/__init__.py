"""Every way from a task prompt to masks, behind one Protocol (`base`) and one `registry`; `model_options` sets it up.

Belongs here: methods, as compositions of roles. Does not: networks (`int_model.models`), files (`int_model.io`).
"""
