"""All changes of one picture together: for distillation from few pictures, where the teacher says
what every changed picture is (arXiv:2106.05237), and for pictures of bad cameras."""

from .augmentation import COMBINATIONS

# the order of nature: the face, its light, the lens, the file, and what covers it
COMBINATIONS.register('strong')(
    ('mirror', 'affine', 'jitter', 'grey', 'blur', 'downscale', 'jpeg', 'erasing')
)
