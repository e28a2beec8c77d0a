"""Several processes that evaluate together: who this one is, and one exchange of arrays.

Started by `common/launch` or `horovodrun` the processes talk through Horovod, started by `mpirun`
through mpi4py; otherwise there is one. Neither package is needed then.
"""

import os
from typing import Callable, NamedTuple

import numpy as np

from ...common.errors import InputError
from ...common.extras import how_to_install

_MPI_VARIABLES = ('OMPI_COMM_WORLD_SIZE', 'PMI_SIZE')  # set by Open MPI's, MPICH's mpirun


class World(NamedTuple):
    """The processes of a run."""

    rank: int  # of this process, 0..size - 1
    size: int
    gather: Callable[[np.ndarray], list[np.ndarray]]  # 1-D float32 of any length -> every process's

    @property
    def is_first(self) -> bool:
        """Whether this process reports the result."""
        return self.rank == 0


ALONE = World(0, 1, lambda array: [array])


def current_world() -> World:
    """The world this process was started in; InputError if the package it needs is missing."""
    try:
        if int(os.environ.get('HOROVOD_SIZE', 1)) > 1:
            return _horovod_world()
        if any(int(os.environ.get(name, 1)) > 1 for name in _MPI_VARIABLES):
            return _mpi_world()
    except ImportError as error:
        raise InputError(
            f'started as one of several processes, but {error}; Horovod comes with the extra '
            f"'dist' ({how_to_install('dist')}); for mpirun install mpi4py"
        ) from None
    return ALONE


def _horovod_world() -> World:
    import horovod.mxnet as horovod

    from ...common.backend import mx

    horovod.init()

    def gather(array: np.ndarray) -> list[np.ndarray]:
        # Horovod joins arrays of different lengths, but not empty ones, and does not tell where
        # one ends: each goes with a first element of its own, and the lengths go ahead
        length = mx.nd.array([len(array) + 1], dtype=np.int32)
        lengths = horovod.allgather(length, name='lengths').asnumpy()
        sent = mx.nd.array(np.append(np.float32(0), array), dtype=np.float32)
        joined = horovod.allgather(sent, name='scores').asnumpy()
        return [part[1:] for part in np.split(joined, np.cumsum(lengths)[:-1])]

    return World(horovod.rank(), horovod.size(), gather)


def _mpi_world() -> World:
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    return World(world.Get_rank(), world.Get_size(), world.allgather)
