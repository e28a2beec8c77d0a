"""Pair sets, embedding, metrics and verification."""
