"""VarGFaceNet on MXNet: the whole life of a light face-recognition network.

Importing this package loads nothing heavy; MXNet comes in with the subpackage that needs it.
"""

__version__ = '0.1.0'
