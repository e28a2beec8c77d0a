"""What the networks' authors published, and what others measured of them."""

from typing import NamedTuple, Optional


class Published(NamedTuple):
    """Accuracies in percent, None where none is published; IJB: TAR at FAR 1e-4."""

    lfw: Optional[float]
    cfp_fp: Optional[float]
    agedb_30: Optional[float]
    ijb_b: Optional[float]
    ijb_c: Optional[float]
    data: str  # trained on
    source: str


_VARGFACENET = 'arXiv:1910.04985'
# The README of the authors calls their IJB columns FAR 1e-6; their plots have the same numbers as
# FAR 1e-4, which they are.
_MIXFACENET = 'arXiv:2107.13046 and plots'
_COLLECTED = 'tables of FaceLiVT, EdgeFace, GhostFaceNets'

PUBLISHED = {
    'vargfacenet': Published(99.85, 98.50, 98.15, 92.90, 94.70, 'MS1MV3', _COLLECTED),
    'y1': Published(99.70, 96.90, 97.60, 92.83, 94.70, 'MS1MV2', _COLLECTED),
    'y2': Published(99.700, 97.829, 97.517, None, None, 'MS1M, cleaned', _VARGFACENET),
    'vargnet': Published(99.77, 98.10, 98.10, None, None, 'MS1M, cleaned', _VARGFACENET),
    'r100_se': Published(99.87, 99.17, 98.52, None, None, 'MS1M, cleaned', _VARGFACENET),
    'mixfacenet_m': Published(99.683, None, 97.05, 91.55, 93.42, 'MS1MV2', _MIXFACENET),
    'shufflemixfacenet_m': Published(99.6, None, 96.983, 91.47, 93.5, 'MS1MV2', _MIXFACENET),
    'mixfacenet_s': Published(99.65, None, 96.633, 90.17, 92.30, 'MS1MV2', _MIXFACENET),
    'shufflemixfacenet_s': Published(99.583, None, 97.05, 90.94, 93.08, 'MS1MV2', _MIXFACENET),
    'mixfacenet_xs': Published(99.6, None, 95.85, 88.48, 90.73, 'MS1MV2', _MIXFACENET),
    'shufflemixfacenet_xs': Published(99.533, None, 95.617, 87.86, 90.43, 'MS1MV2', _MIXFACENET),
}
