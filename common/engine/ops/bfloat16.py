"""The part of the graph pass that stores the arrays between operators in bfloat16.

Which of a network's arrays these are: pictures of more than one position and an even number of
channels that an operator of ours writes and operators of ours read (`storage.h` says how they lie
in memory). MXNet takes them for float16 and must never compute with them, and it would: it adds up
the gradients of an array with several readers. So

* what knows float32 alone reads the output of a cast, and the other way round;
* an array for several readers is written once for each, by the operator that makes it or by a
  `vg_sum_bf16` behind it, whose backward function adds up their gradients itself;
* the mean of an array that a BatchNorm writes, which squeeze-and-excitation begins with, is an
  output of the BatchNorm's.

A BatchNorm with its PReLU goes into the convolution that alone reads what it gives: that array is
computed again in the backward pass, not kept for it.

Parameters, statistics, single numbers of a channel and the network's outputs are float32.
"""

import re
from collections import Counter, defaultdict

from ..graph import Node, reached

SUFFIX = '_bf16'
TO, FROM, SUM = 'vg_to_bf16', 'vg_from_bf16', 'vg_sum_bf16'
ADDITIONS = ('elemwise_add', '_plus', '_Plus', '_add', 'broadcast_add', 'broadcast_plus')
NORMS = ('vg_bn', 'vg_bn_prelu', 'vg_bn_swish')
POOL = 'vg_global_pool'
# Positions of the pictures among the inputs.
POINTWISE = {
    'vg_prelu': (0,),
    'vg_add_prelu': (0, 1),
    'vg_scale_add_prelu': (0, 2),
    'vg_scale': (0,),
}
COPY = ('vg_prelu', 'vg_add_prelu', 'vg_scale_add_prelu', *NORMS)  # know the attribute `copies`
CONVOLUTIONS = ('vg_pointwise', 'vg_mixed_pointwise', 'vg_grouped')
NORM_INSIDE = 'vg_bn_prelu'  # which these convolutions take in, under a name with both
TAKE_NORM_IN = ('vg_pointwise', 'vg_grouped')


def is_convolution(node: Node) -> bool:
    """Whether a node multiplies bfloat16 numbers."""
    base = node.op.removesuffix(SUFFIX).removesuffix('_to').replace(f'{NORM_INSIDE}_', 'vg_')
    return node.op.endswith(SUFFIX) and base in CONVOLUTIONS


def store(heads: list) -> None:
    """Change what `heads` reach, (node, output index) pairs, in place; they stay float32."""
    nodes = reached(heads)
    readers = defaultdict(list)
    for node in nodes:
        for entry in node.inputs:
            readers[entry].append(node)
    stored: set[Node] = set()  # nodes whose first output is in bfloat16
    wanted: dict[Node, set] = {}  # positions of the inputs that are
    for node in nodes:
        reads = [entry[0] in stored and entry[1] == 0 for entry in node.inputs] or [False]
        out = _is_picture((node, 0)) and (node, 0) not in heads
        if node.op in NORMS:
            out = out and any(map(_wants, readers[node, 0]))
            kind = {(True, True): '', (True, False): '_from', (False, True): '_to'}
            if reads[0] or out:
                node.op += kind[reads[0], out] + SUFFIX
            wanted[node] = {0} if reads[0] else set()
        elif out and _fits(node, reads[0]):
            from_floats = node.op == 'vg_grouped' and not reads[0]
            node.op += '_to' + SUFFIX if from_floats else SUFFIX
            wanted[node] = set() if from_floats else {0}
        elif node.op in POINTWISE and out and any(reads):
            wanted[node] = set(POINTWISE[node.op])
            node.op += SUFFIX
        elif node.op == POOL and reads[0]:
            wanted[node] = {0}
            node.op += SUFFIX
            out = False
        elif _is_sum(node) and out and any(reads):
            wanted[node] = {0, 1}
            node.become(SUM, node.inputs, terms='2', copies='1')
        else:
            continue
        if out:
            stored.add(node)
    _cast(nodes, stored, wanted)
    _give_each_reader_its_own(reached(heads), heads)
    _take_norms_in(reached(heads))


def _is_picture(entry: tuple) -> bool:
    node, output = entry
    shape = node.shapes[output] if output < len(node.shapes) else ()
    many = len(shape) == 4 and shape[2] * shape[3] > 1
    return many and shape[1] % 2 == 0 and node.batched


def _fits(node: Node, reads: bool = False) -> bool:
    """Whether a node is a convolution whose channels lie in pairs; `reads` says that its data do, a
    3x3 one may read float32."""
    if node.op == 'vg_pointwise':
        return _is_picture(node.inputs[0]) and _is_picture((node, 0))
    if node.op == 'vg_mixed_pointwise':
        numbers = re.findall(r'\d+', node.attrs['channels'] + node.attrs['filters'])
        return all(int(number) % 2 == 0 for number in numbers)
    if node.op != 'vg_grouped':
        return False
    groups, channels = int(node.attrs['num_group']), node.inputs[1][0].shape[1]
    filters = int(node.attrs['num_filter']) // groups
    return filters % 2 == 0 and not (reads and channels % 2)


def _is_sum(node: Node) -> bool:
    if node.op not in ADDITIONS or not node.shapes:
        return False
    return all(n.batched and n.shapes[o : o + 1] == [node.shape] for n, o in node.inputs)


def _wants(reader: Node) -> bool:
    """Whether a reader of a picture takes it in bfloat16."""
    return (
        reader.op in POINTWISE or reader.op == POOL or _fits(reader, True) or reader.op in ADDITIONS
    )


def _cast(nodes: list[Node], stored: set, wanted: dict) -> None:
    """Put a cast, one for all readers, where an array is not as its reader wants it."""
    casts: dict[tuple, Node] = {}

    def cast(op: str, entry: tuple) -> tuple:
        if (op, entry) not in casts:
            node, output = entry
            name = f'{node.name}{op.removeprefix("vg")}{output or ""}'
            casts[op, entry] = Node(op, name, {}, [entry], {}, [node.shapes[output]], True, True)
        return casts[op, entry], 0

    for node in nodes:
        for position, entry in enumerate(node.inputs):
            have, want = entry[0] in stored and entry[1] == 0, position in wanted.get(node, ())
            if have != want:
                node.inputs[position] = cast(TO if want else FROM, entry)


def _gives(node: Node) -> bool:
    if node.op.startswith(NORMS):
        return node.op.endswith(SUFFIX) and '_from' not in node.op
    return node.op.endswith(SUFFIX) and node.op not in (FROM, POOL + SUFFIX)


def _give_each_reader_its_own(nodes: list[Node], heads: list) -> None:
    readers = defaultdict(list)  # (node, position) of what reads a node's first output
    for node in nodes:
        for position, (source, output) in enumerate(node.inputs):
            if output == 0 and _gives(source):
                readers[source].append((node, position))
    moved = {}  # a pool that a BatchNorm does
    for source, places in readers.items():
        # one that is an output of the network stays, and reads a copy like others
        pools = [node for node, _ in places if node.op == POOL + SUFFIX and (node, 0) not in heads]
        pooled = bool(pools) and source.op.startswith(NORMS)
        if pooled:
            places = [place for place in places if place[0] not in pools]
            source.attrs['pool'] = 'True'
            moved.update({pool: (source, max(1, len(places))) for pool in pools})
        if len(places) < 2:
            continue
        writer = source
        if source.op == SUM or source.op.startswith(COPY):
            source.attrs['copies'] = str(len(places))
        else:
            options = {'terms': '1', 'copies': str(len(places))}
            name = f'{source.name}_copies'
            writer = Node(SUM, name, options, [(source, 0)], {}, source.shapes, True, True)
        for index, (node, position) in enumerate(places):
            node.inputs[position] = (writer, index)
    for node in nodes:
        node.inputs = [
            moved[entry[0]] if entry[0] in moved and entry[1] == 0 else entry
            for entry in node.inputs
        ]


def _take_norms_in(nodes: list[Node]) -> None:
    uses = Counter(entry for node in nodes for entry in node.inputs)
    for node in nodes:
        convolution = node.op.removesuffix(SUFFIX)
        if not node.op.endswith(SUFFIX) or convolution not in TAKE_NORM_IN:
            continue
        norm, output = node.inputs[0]
        several = uses[norm, output] > 1 or {'copies', 'pool'} & set(norm.attrs)
        if norm.op != NORM_INSIDE + SUFFIX or several:
            continue
        *learnt, mode, mean, variance = norm.inputs
        inputs = [*learnt, *node.inputs[1:], mode, mean, variance]
        op = f'{NORM_INSIDE}_{convolution.removeprefix("vg_")}{SUFFIX}'
        options = {name: norm.attrs[name] for name in ('eps', 'momentum')}
        shown = {name: value for name, value in node.attrs.items() if not name.startswith('__')}
        node.become(op, inputs, **shown, **options)
