"""Puts ``tests`` itself on the path, so that ``from unit.fakes import fake_suite`` works in every test."""

from hypothesis import settings

settings.register_profile("quiet", deadline=None, derandomize=True)  # no test may depend on the machine's speed
settings.load_profile("quiet")
