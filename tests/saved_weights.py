"""What a checkpoint holds, to compare runs by."""

import numpy as np
from vargfacenet.common.engine import checkpoint


def weights(prefix, number) -> dict:
    """Every parameter and running statistic of a checkpoint as a NumPy array."""
    arg_params, aux_params = checkpoint.load_params(checkpoint.params_path(prefix, number))
    return {**arg_params, **aux_params}


def assert_same_weights(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
