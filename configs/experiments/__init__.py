"""Packaged studies."""
