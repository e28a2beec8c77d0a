"""A network as one object: what a checkpoint holds and every engine runs.

It is of one of two kinds, whole: plain, of `symbol_file.Symbol` and NumPy arrays, which needs no
MXNet, or MXNet's own, of mx.sym.Symbol and NDArrays. What is read from files and what passes make
is plain; what a training or `symbol` makes is MXNet's. Whoever computes takes either and turns it
into the kind that it needs (`plain`, `in_mxnet`).
"""

import json
from typing import TYPE_CHECKING, NamedTuple, Union

import numpy as np

from ..errors import InputError
from ..names import DATA, IMAGE_SHAPE
from .symbol_file import Symbol, symbol_of_graph

if TYPE_CHECKING:
    from ..backend import mx


class Network(NamedTuple):
    """An embedding symbol and its parameters; loaded once and passed whole."""

    # input `data` (N, 3, 112, 112) RGB 0..255, output `fc1_output` (N, D)
    symbol: Union[Symbol, 'mx.sym.Symbol']
    arg_params: dict  # name -> array; may hold more than the symbol uses (fc7_weight)
    aux_params: dict  # name -> array, the running statistics

    @property
    def embedding_size(self) -> int:
        """D; InputError for a symbol that does not give one embedding (N, D)."""
        if isinstance(self.symbol, Symbol):
            return self.symbol.embedding_size
        _, shapes, _ = self.symbol.infer_shape(**{DATA: (1, *IMAGE_SHAPE)})
        if len(shapes) != 1 or len(shapes[0]) != 2:
            raise InputError(
                f'symbol with outputs {self.symbol.list_outputs()}: expected one embedding (N, D)'
            )
        return shapes[0][1]

    @property
    def params(self) -> dict:
        """All parameters and running statistics by name."""
        return {**self.arg_params, **self.aux_params}

    def plain(self) -> 'Network':
        """The same network without MXNet's types; itself if it is plain.

        Raises InputError for one that no checkpoint may hold, see `symbol_file.read_symbol`.
        """
        if isinstance(self.symbol, Symbol):
            return self
        parameters = map(plain_arrays, (self.arg_params, self.aux_params))
        return Network(plain_symbol(self.symbol), *parameters)

    def in_mxnet(self) -> 'Network':
        """The same network in MXNet's types, on the CPU; itself if it is MXNet's."""
        if not isinstance(self.symbol, Symbol):
            return self
        from ..backend import mx

        def arrays(params: dict) -> dict:
            return {name: mx.nd.array(v, dtype=v.dtype) for name, v in params.items()}

        symbol = mx.sym.load_json(self.symbol.tojson())
        return Network(symbol, arrays(self.arg_params), arrays(self.aux_params))


def plain_symbol(symbol: Union[Symbol, 'mx.sym.Symbol']) -> Symbol:
    """An embedding symbol as one that needs no MXNet; InputError as `symbol_file.read_symbol`."""
    return symbol if isinstance(symbol, Symbol) else symbol_of_graph(json.loads(symbol.tojson()))


def plain_arrays(params: dict) -> dict:
    """Parameters of either kind as NumPy arrays."""
    return {
        name: value if isinstance(value, np.ndarray) else value.asnumpy()
        for name, value in params.items()
    }
