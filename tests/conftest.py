"""Settings for every test."""

from hypothesis import settings

settings.register_profile("quiet", deadline=None, derandomize=True)  # no test may depend on the machine's speed
settings.load_profile("quiet")
