"""The processes of a run: one, or several through Horovod or MXNet's parameter server."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from ..common import console
from ..common.backend import mx
from ..common.errors import InputError, RunError
from ..common.extras import need
from ..common.ranks import Ranks, SingleRank

HOROVOD = 'horovod'
KVSTORES = ('local', 'device', 'dist_sync', HOROVOD)


@dataclass(frozen=True)
class Processes:
    """Who takes part in a run.

    With Horovod the `ranks` sum gradients before an update; with a parameter server the `kvstore`
    of the Module does.
    """

    kvstore: Any = 'local'  # of the Module: a name, or the connected store of dist_sync
    ranks: Ranks = field(default_factory=SingleRank)

    @property
    def size(self) -> int:
        return self.ranks.size * getattr(self.kvstore, 'num_workers', 1)

    @property
    def rank(self) -> int:
        return self.ranks.rank or getattr(self.kvstore, 'rank', 0)

    @property
    def is_first(self) -> bool:
        """Whether this process writes, verifies, and reports."""
        return self.rank == 0


def connect() -> Ranks:
    """The ranks that this process was started among, by `common/launch` or horovodrun.

    Raises
    ------
    InputError where Horovod is not installed, RunError where the others cannot be reached.
    """
    if int(os.environ.get('HOROVOD_SIZE', 1)) == 1:
        return SingleRank()
    need('horovod.mxnet', 'dist')
    from ..common.engine.horovod_ranks import HorovodRanks

    return HorovodRanks()


def join(name: str, ranks: Ranks) -> Processes:
    """The processes of a run by its --kvstore.

    Updates are always made by the workers, never by a server: every worker then holds the whole
    optimizer state, and one checkpoint format serves one process and many.

    Raises
    ------
    InputError where this process was not started for such a run.
    """
    if name == HOROVOD and 'HOROVOD_SIZE' not in os.environ:
        raise InputError(
            f'--kvstore {name}: this process is no rank; start all with recognition/train_multi.sh'
        )
    if name != HOROVOD and ranks.size > 1:
        raise InputError(f'--kvstore {name}: ranks talk through Horovod; leave it out')
    if name == HOROVOD:
        return Processes(ranks=ranks)
    if name.startswith('dist') and 'DMLC_ROLE' not in os.environ:
        raise InputError(
            f'--kvstore {name}: this process is no part of a parameter server (DMLC_ROLE is not '
            'set); start all of them with recognition/dist_train.sh'
        )
    os.environ['MXNET_UPDATE_ON_KVSTORE'] = '0'
    return Processes(mx.kv.create(name) if name.startswith('dist') else name)


@contextlib.contextmanager
def leaving_at_once(prog: str, one_of_several: bool) -> Iterator[None]:
    """End `one_of_several` processes on an error without MXNet's or Horovod's farewell: they would
    wait for the others, which wait for this one."""
    try:
        yield
    except BaseException as error:
        if not one_of_several:
            raise
        known = isinstance(error, (InputError, RunError, OSError, KeyboardInterrupt))
        if not known or os.environ.get('VARGFACENET_DEBUG'):
            traceback.print_exc()
        code = console.report_error(prog, error) if known else 1
        sys.stderr.flush()
        os._exit(code)
