"""From gradients to weights: sums over passes and over ranks, clipping by norm, averaged weights.

Each is a plain SGD step's neighbour: none changes a bit of it when it is not asked for.
"""

from typing import Optional

import numpy as np

from ..common.backend import mx
from ..common.ranks import Ranks


def clipping_updater(optimizer: 'mx.optimizer.Optimizer', max_norm: float):
    """An updater that first scales all gradients of a device to a global norm of `max_norm`, where
    theirs is larger (Pascanu et al., arXiv:1211.5063, Algorithm 1).

    The norm is that of the mean gradient of an image (MXNet's are sums) over all parameters
    together, the classifier's included, without weight decay.
    """

    class ClippingUpdater(mx.optimizer.Updater):
        def __call__(self, index, grad, weight):
            unclipped = self.optimizer.rescale_grad
            squares = mx.nd.multi_sum_sq(*grad, num_arrays=len(grad)).asnumpy()
            norm = unclipped * np.sqrt(squares.sum(dtype=np.float64))
            # as a factor of the update: one number, in place of every array of gradients
            if norm > max_norm:
                self.optimizer.rescale_grad = unclipped * max_norm / norm
            super().__call__(index, grad, weight)
            self.optimizer.rescale_grad = unclipped

    return ClippingUpdater(optimizer)


def _gradients(module: 'mx.mod.Module') -> list:
    """The gradients of a Module's newest pass, of every parameter on every device."""
    return [
        gradient
        for devices in module._exec_group.grad_arrays
        for gradient in devices
        if gradient is not None
    ]


class RankSum:
    """What the ranks of a run make common in a step: gradients, and states of losses.

    Parameters
    ----------
    module : of this rank, on one device
    states : arrays that the losses carry from step to step, the same in all ranks now
    """

    def __init__(self, module: 'mx.mod.Module', states: list, ranks: Ranks):
        self._ranks = ranks
        self._gradients = _gradients(module) if ranks.size > 1 else []
        self._states = states if ranks.size > 1 else []
        self._before = [array.asnumpy() for array in self._states]
        self._flag = mx.nd.zeros(1)

    def gradients(self, asked: bool) -> bool:
        """Sum the gradients of the newest pass over the ranks; whether one of them was `asked` to
        stop, which all learn in the same step."""
        if self._ranks.size == 1:
            return asked
        self._flag[:] = float(asked)
        device = self._gradients[0].context if self._gradients else self._flag.context
        flag = self._flag.as_in_context(device)
        self._ranks.sum_in_place([*self._gradients, flag], 'gradients')
        return flag.asscalar() > 0

    def states(self) -> None:
        """Move every value of a state by the mean move of those ranks that moved it: a scalar by
        that of all, a class's row by that of those that saw the class."""
        for number, (array, before) in enumerate(zip(self._states, self._before)):
            move = array.asnumpy() - before
            moves, movers = self._ranks.sum(
                np.stack([move, (move != 0).astype(move.dtype)]), f'state {number}'
            )
            before += moves / np.maximum(movers, 1)
            array[:] = before


class GradientSum:
    """Gradients of several passes of a Module, summed before an update.

    Gradients are written, not added to: some of the project's operators can do no other.
    """

    def __init__(self, module: 'mx.mod.Module'):
        self._gradients = _gradients(module)
        self._sums: list[mx.nd.NDArray] = []

    def keep(self) -> None:
        """Add the gradients of the newest pass to those that are kept; not of the last one."""
        if self._sums:
            for total, gradient in zip(self._sums, self._gradients):
                total += gradient
        else:
            self._sums = [gradient.copy() for gradient in self._gradients]

    def give_back(self) -> None:
        """Add what was kept to the gradients of the last pass, and forget it."""
        for total, gradient in zip(self._sums, self._gradients):
            gradient += total
        self._sums = []


class WeightAverage:
    """Exponential moving average of weights and running statistics (Polyak averaging).

    After step t every array moves to the newest one by 1 - d, d = min(decay, (1 + t) / (10 + t)):
    the initial weights are forgotten in a short run as well. What the optimizer does not change
    (frozen parameters, arrays that a loss carries along) is not averaged.

    Parameters
    ----------
    module : bound, with its parameters
    decay : of the average, from 0 up to 1
    start : (arg_params, aux_params) of a resumed average; by default the module's own
    """

    def __init__(self, module: 'mx.mod.Module', decay: float, start: Optional[tuple] = None):
        self._module, self._decay = module, decay
        group = module._exec_group
        names = zip(group.param_names, group.param_arrays)
        fixed = set(module._fixed_param_names)
        self._newest = [
            {name: devices[0] for name, devices in names if name not in fixed},
            {name: devices[0] for name, devices in zip(group.aux_names, group.aux_arrays)},
        ]
        # on the host: one thread does it in less time than the engine takes to start each array
        self._average = [
            {name: array.asnumpy() for name, array in part.items()} for part in self._newest
        ]
        for part, values in zip(self._average, start or ()):
            part.update({name: values[name].copy() for name in part})

    def update(self, step: int) -> None:
        """Move towards the weights after `step` updates."""
        mx.nd.waitall()  # MXNet's BatchNorm moves its statistics without telling the engine
        share = 1 - min(self._decay, (1 + step) / (10 + step))
        for average, newest in zip(self._average, self._newest):
            for name, array in newest.items():
                average[name] += share * (array.asnumpy() - average[name])

    def params(self, arg_params: dict, aux_params: dict) -> tuple[dict, dict]:
        """The module's parameters, as given, with the averages in place of what is averaged."""
        args, aux = (
            {name: mx.nd.array(value) for name, value in part.items()} for part in self._average
        )
        return {**arg_params, **args}, {**aux_params, **aux}
