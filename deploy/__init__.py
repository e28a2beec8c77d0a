"""Export, run-time back ends, and what runs on them: FaceEmbedder, gallery, web page."""

from .embedder import FaceEmbedder, Faces

__all__ = ['FaceEmbedder', 'Faces']
