"""Drawn faces: data to try everything on that shows nobody."""
