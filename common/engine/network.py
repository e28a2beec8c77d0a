"""A network as one object: what a checkpoint holds and every engine runs."""

from typing import TYPE_CHECKING, NamedTuple

from ..errors import InputError
from ..names import DATA, IMAGE_SHAPE

if TYPE_CHECKING:
    from ..backend import mx


class Network(NamedTuple):
    """An embedding symbol and its parameters; loaded once and passed whole."""

    symbol: 'mx.sym.Symbol'  # input `data` (N, 3, 112, 112) RGB 0..255, output (N, D)
    arg_params: dict  # name -> mx.nd.NDArray; may hold more than the symbol uses (fc7_weight)
    aux_params: dict  # name -> mx.nd.NDArray, the running statistics

    @property
    def embedding_size(self) -> int:
        """D; InputError for a symbol that does not give one embedding (N, D)."""
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
