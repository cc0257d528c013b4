"""Puts ``tests`` itself on the path, so that ``from unit.fakes import fake_suite`` works in every test."""
