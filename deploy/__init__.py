"""Export, and what uses it on any engine: FaceEmbedder, gallery, web page."""

from .embedder import FaceEmbedder, Faces

__all__ = ['FaceEmbedder', 'Faces']
