"""Configuration: the model, where values come from, and what a reload means.

``model`` is open to every layer; ``load`` builds a model from file, flags and environment; ``reload`` compares two models.
This package imports msgspec and PyYAML and nothing heavier, because the supervisor loads it.
"""
