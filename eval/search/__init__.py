"""Exhaustive search for high scores among all pairs, exact and in bounded memory."""
