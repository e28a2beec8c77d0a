"""Export, and what uses it on any engine: FaceEmbedder, gallery, web page."""

import importlib

__all__ = ['FaceEmbedder', 'Faces']


def __getattr__(name: str):
    """What finds faces is loaded when it is asked for: an export and the benchmarks do without."""
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module('.embedder', __name__), name)
