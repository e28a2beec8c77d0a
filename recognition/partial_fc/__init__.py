"""PartialFC: a margin loss over a sample of the classes, their centres sharded over ranks.

Paper: An et al., "Partial FC: Training 10 Million Identities on a Single Machine",
arXiv:2010.05222.
"""

from .centres import DTYPES, Centres
from .head import DENSE, UPDATES, PartialFC, Settings, Step
from .margins import check_loss
from .sampling import check_room

__all__ = [
    'DENSE',
    'DTYPES',
    'UPDATES',
    'Centres',
    'PartialFC',
    'Settings',
    'Step',
    'check_loss',
    'check_room',
]
