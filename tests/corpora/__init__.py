"""Corpora of hostile input, made by code from a seed; ``benchmarks/corpora.py`` counts outcomes."""
