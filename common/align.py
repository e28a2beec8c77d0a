"""Raw photographs -> 112x112 crops on the ArcFace five-point template."""

import numpy as np

# left eye, right eye, nose tip, left and right mouth corner, as seen in the picture (ArcFace)
TEMPLATE = np.array([
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
])  # fmt: skip


def estimate_similarity(landmarks: np.ndarray) -> np.ndarray:
    """Least-squares similarity transform from landmarks to the template (Umeyama 1991, Eq. 40-43).

    Parameters
    ----------
    landmarks : (5, 2), x and y in pixels, in the template's order

    Returns
    -------
    (2, 3) float64: template = matrix[:, :2] @ point + matrix[:, 2]; never a reflection
    """
    points = np.asarray(landmarks, np.float64)
    mean, target_mean = points.mean(axis=0), TEMPLATE.mean(axis=0)
    centred, target = points - mean, TEMPLATE - target_mean
    # In the plane, Umeyama's SVD without reflection is one complex division.
    spread = (centred**2).sum()
    cosine = (centred * target).sum() / spread
    sine = (centred[:, 0] * target[:, 1] - centred[:, 1] * target[:, 0]).sum() / spread
    linear = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([linear, target_mean - linear @ mean])
