"""The project's own MXNet operators for the CPU, and the pass that puts them into a network.

Training on the CPU is several times faster with them and its PReLU gradients are right (stock MXNet
1.9.1 multiplies some slope gradients by the slope). Saved symbols stay the official ones:
`accelerate` is applied to what is bound, never to what is written to disk.
"""

import ctypes
import functools
import logging
import os
from typing import Optional

from ...parallel import cpu_fields, cpu_name

log = logging.getLogger(__name__)

MIRROR = 'MXNET_BACKWARD_DO_MIRROR'  # has MXNet compute the forward pass again in the backward pass
SWITCH = 'VARGFACENET_OPS'  # environment variable; 'off' keeps to stock operators
FLOAT32, BFLOAT16 = PRECISIONS = ('float32', 'bfloat16')  # of the arrays between operators


@functools.cache
def available() -> bool:
    """Whether the compiled operators are loaded; the first call compiles and loads them.

    False, with one warning, without a C++ compiler, with VARGFACENET_OPS=off in the environment, or
    if the library cannot be loaded.
    """
    if os.environ.get(SWITCH, '').lower() == 'off':
        log.warning(
            '%s=off: networks run on stock operators, several times slower; unset it to use the '
            'compiled ones',
            SWITCH,
        )
        return False
    from . import build  # here, or `python -m` would find it imported already

    path = build.library(build.OPERATORS)
    if path is None:
        return False
    from ...backend import mx

    try:
        mx.library.load(str(path), verbose=False)
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        log.warning(
            '%s could not be loaded; networks run on stock operators, several times slower; '
            'delete the file to have it compiled again (%s)',
            path,
            reason,
        )
        return False
    return True


def accelerate(
    symbol,
    shapes: dict,
    accumulate: bool = True,
    input_gradients: bool = True,
    precision: str = FLOAT32,
):
    """The same network with fast operators whose gradients are right; for binding on the CPU.

    Parameters
    ----------
    symbol : mx.sym.Symbol of any network of the family, with heads and several outputs or without
    shapes : shape of every input that has a batch axis, such as {'data': (N, 3, 112, 112),
        'softmax_label': (N,)}; any N will do, the result binds at every batch size
    accumulate : whether parameters may be bound with grad_req='add', which costs a copy of each;
        False is right for 'write' and 'null' only, and gives wrong sums with 'add'
    input_gradients : whether gradients of the inputs in `shapes` are read; with False that of the
        data may be NaN, since a first 3x3 convolution then leaves it out
    precision : of PRECISIONS. With 'bfloat16', 1x1 convolutions and 3x3 ones over a few channels a
        group multiply bfloat16, sum in float32 and store bfloat16, as do BatchNorms, activations
        and additions around them; parameters, inputs, outputs and all other operators stay float32
        (see `bfloat16.store`). On a CPU without AVX512_BF16 the same in float32 arithmetic, slower
        than 'float32' (see `lacks_bfloat16`)

    Returns
    -------
    mx.sym.Symbol with the same argument, auxiliary state and output names, shapes and attributes,
    float32, for training and for inference. Every parameter variable carries its shape.
    Accelerating it again changes nothing.
    Without the compiled operators (see `available`) the PReLUs become stock operators with the
    right gradient; the process is fastest then with DNNL_MAX_CPU_ISA=AVX2 in its environment.

    The running averages of our BatchNorm move in the forward pass, MXNet's own in the backward
    pass: the same after a step, but call mx.nd.waitall() before reading the latter.

    Raises
    ------
    InputError if a parameter's shape does not follow from `shapes`; for bfloat16 without the
    compiled operators, or in a network none of whose convolutions takes it.
    """
    from .graph import rewrite  # imports MXNet, which `python -m ...ops.build` does without

    mirror = os.environ.get(MIRROR, '0') not in ('', '0')
    if mirror:
        log.warning(
            "%s is set: training keeps MXNet's slow BatchNorm, since ours would move its running "
            'averages twice; unset it',
            MIRROR,
        )
    return rewrite(
        symbol,
        shapes,
        available(),
        norms=not mirror,
        accumulate=accumulate,
        input_gradients=input_gradients,
        stores_bfloat16=precision == BFLOAT16,
    )


def lacks_bfloat16() -> str:
    """What this machine lacks for 'bfloat16' to be faster than 'float32'; '' where it is all there.

    The library says it of itself: a compiler may be older than the CPU it compiles for.
    """
    if not available():
        return 'the compiled operators are not there (a warning above says why)'
    if 'avx512_bf16' not in cpu_fields().get('flags', '').split():
        return f'this CPU ({cpu_name()}) has no AVX512_BF16'
    from . import build

    if not ctypes.CDLL(str(build.library(build.OPERATORS))).vg_fast_bf16():
        return 'the C++ compiler knows no AVX512_BF16; install g++ 10 or a later one, or set CXX'
    return ''


def margin_softmax(
    embedding,
    centres,
    label,
    s: float,
    m1: float = 1.0,
    m2: float = 0.0,
    m3: float = 0.0,
    alpha: float = 0.0,
    sigma: float = 2.0,
    smoothing: float = 0.0,
    detach: bool = False,
) -> tuple:
    """Softmax cross entropy with a margin, without arrays of one-hot labels or unit centres.

    For binding on the CPU with the compiled operators (see `available`). In forward and backward
    together two arrays of N x C floats are alive: the cosines, and the gradient that MXNet keeps
    for them. The gradient of `centres` overwrites: bind with grad_req='write'.

    Parameters
    ----------
    embedding : symbol (N, D) float32, any length
    centres : symbol of a variable (C, D) float32, any length
    label : symbol (N,) float32, class numbers in 0..C-1
    s, m1, m2, m3 : logits are s * cos(theta), the target's s * (cos(m1 * theta + m2) - m3), as in
        `recognition.losses.margin.margin_cosine`
    alpha, sigma : with an alpha above 0 the others' logits are those of
        `recognition.losses.arcnegface`
    smoothing : label smoothing, as in `recognition.symbols.cross_entropy`
    detach : the gradient of the target's logit by its cosine is s, whatever the margin

    Returns
    -------
    (loss, correct) : symbols (N,); correct is 1 where the target's logit is the largest
    """
    from ...backend import mx

    numbers = {'s': s, 'm1': m1, 'm2': m2, 'm3': m3, 'alpha': alpha, 'sigma': sigma}
    numbers['detach'] = int(detach)
    outputs = mx.sym.vg_margin_softmax(embedding, centres, label, smoothing=smoothing, **numbers)
    return outputs[0], outputs[1]


_PARTS = 10  # of the time in which a peak is looked for


def peak_gflops(threads: int, seconds: float = 0.5) -> Optional[float]:
    """Measured limit of float32 arithmetic, in 1e9 operations a second; None without a compiler.

    Multiply-adds on registers alone, two operations each: what no real work can pass. The most of
    ten parts of the time, since other work on the machine can only make it less.
    """
    from . import build

    path = build.library(build.OPERATORS)
    if path is None:
        return None
    function = ctypes.CDLL(str(path)).vg_peak_gflops
    function.argtypes, function.restype = (ctypes.c_int, ctypes.c_double), ctypes.c_double
    return max(function(threads, seconds / _PARTS) for _ in range(_PARTS))
