"""Tests that need a GPU, and no Ray: `pytest -m gpu tests/gpu`."""
