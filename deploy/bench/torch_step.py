"""VarGFaceNet, its ArcFace head and a training step in PyTorch, for `bench train --against torch`.

Run as a program by a Python that has PyTorch, which ours need not have; so of ours it imports
`answers.py` alone. Layers have the names that they have in our symbol, as `symbol/vargfacenet.py`
gives them.

    PYTHON -I torch_step.py check OPTIONS    embeddings and loss of given images, as JSON
    PYTHON -I torch_step.py steps OPTIONS    a step again and again, as `child.Program` says

OPTIONS is a JSON object: `start` (the .npz of `against_torch.write_start`), `network` (all options
of the network), `head` (s, m2), `optimizer`, `threads`, and for steps `batch_size` and `form`.
"""

import contextlib
import json
import os
import sys
from collections import OrderedDict

try:
    import numpy as np
    import torch
    from torch import nn
    from torch.nn import functional
except ImportError as error:
    if __name__ != '__main__':
        raise
    sys.stderr.write(f'{sys.executable}: {error}; {sys.executable} -m pip install torch numpy\n')
    raise SystemExit(2) from None

sys.path.append(os.path.dirname(os.path.abspath(__file__)))  # which -I leaves out
from answers import answer_with_times, open_answers

HEAD_CHANNELS = 32
STAGES = ((64, 3), (128, 7), (256, 4))  # channels, units
EMBEDDING_CHANNELS = 1024
LAST_MAP = 7  # pixels


class Builder:
    """Makes layers by the network's options."""

    def __init__(self, options):
        if options['act_type'] != 'prelu':
            raise ValueError('only PReLU is written out here')
        self.options = options

    def convolution(self, name, channels, out, kernel=1, stride=1, pad=0, groups=1, act=True):
        """Convolution, batch norm and, if `act`, PReLU."""
        layers = OrderedDict()
        layers[name] = nn.Conv2d(channels, out, kernel, stride, pad, groups=groups, bias=False)
        layers[f'{name}_bn'] = nn.BatchNorm2d(out, **self.norm())
        if act:
            layers[f'{name}_act'] = nn.PReLU(out)
        return nn.Sequential(layers)

    def norm(self):
        return {'eps': self.options['bn_eps'], 'momentum': 1 - self.options['bn_mom']}

    def separable(self, name, channels, out, stride=1, factor=1, act=True):
        """Variable group convolution and its pointwise convolution."""
        wide = channels * factor
        groups = channels // self.options['group_base']
        deep = f'{name}_conv2d_depthwise'
        return nn.Sequential(
            self.convolution(deep, channels, wide, 3, stride, 1, groups),
            self.convolution(f'{name}_conv2d_pointwise', wide, out, act=act),
        )


class Squeeze(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, name, channels, ratio):
        super().__init__()
        hidden = max(1, channels // ratio)
        self.gate = nn.Sequential(
            OrderedDict(
                {
                    f'{name}_conv1': nn.Conv2d(channels, hidden, 1),
                    f'{name}_act1': nn.PReLU(hidden),
                    f'{name}_conv2': nn.Conv2d(hidden, channels, 1),
                }
            )
        )

    def forward(self, x):
        return x * torch.sigmoid(self.gate(functional.adaptive_avg_pool2d(x, 1)))


class NormalBlock(nn.Module):
    """Two separable convolutions, SE and a shortcut."""

    def __init__(self, make, name, channels, stride=1, factor=1, project=False):
        super().__init__()
        first = make.separable(f'{name}_sep1_data', channels, channels, stride, factor)
        second = make.separable(f'{name}_sep2_data', channels, channels, 1, factor, act=False)
        self.main = nn.Sequential(first, second)
        if make.options['use_se']:
            self.main.append(Squeeze(f'{name}_se', channels, make.options['se_ratio']))
        self.shortcut = nn.Identity()
        if project:
            shortcut = f'{name}_shortcut'
            self.shortcut = make.separable(shortcut, channels, channels, stride, factor, act=False)
        self.act = nn.Sequential(OrderedDict({f'{name}_out_data_act': nn.PReLU(channels)}))

    def forward(self, x):
        return self.act(self.main(x) + self.shortcut(x))


class DownSamplingBlock(nn.Module):
    """Halves the map: two parallel separable convolutions, one more after their sum, a shortcut."""

    def __init__(self, make, name, channels, out):
        super().__init__()

        def half(part):
            return make.separable(f'{name}_{part}', channels, out, 2, factor, act=False)

        factor = make.options['factor']
        self.left, self.right = half('sep1_data_branch'), half('sep2_data_branch')
        self.middle = nn.Sequential(OrderedDict({f'{name}_sep1_data_act': nn.PReLU(out)}))
        self.main = make.separable(f'{name}_sep2_data', out, out, 1, factor, act=False)
        self.shortcut = half('shortcut')
        self.act = nn.Sequential(OrderedDict({f'{name}_out_data_act': nn.PReLU(out)}))

    def forward(self, x):
        main = self.main(self.middle(self.left(x) + self.right(x)))
        return self.act(main + self.shortcut(x))


class VarGFaceNet(nn.Module):
    """(N, 3, 112, 112) RGB 0..255 -> (N, emb_size)."""

    def __init__(self, options):
        super().__init__()
        make, multiplier = Builder(options), options['multiplier']
        channels = int(HEAD_CHANNELS * multiplier)
        layers = [make.convolution('vargface_head_conv1', 3, channels, 3, 1, 1)]
        if options['head_pooling']:
            layers.append(nn.MaxPool2d(3, 2, 1))
        else:
            name = 'vargface_head_head_pooling'
            layers.append(NormalBlock(make, name, channels, stride=2, project=True))
        for stage, (base, units) in enumerate(STAGES, start=2):
            out, name = int(base * multiplier), f'vargface_stage_{stage}_unit'
            layers.append(DownSamplingBlock(make, f'{name}_1', channels, out))
            for unit in range(2, units + 1):
                layers.append(NormalBlock(make, f'{name}_{unit}', out, factor=options['factor']))
            channels = out
        deep, groups = EMBEDDING_CHANNELS, EMBEDDING_CHANNELS // options['group_base']
        name = 'embed_convx'
        layers += [
            make.convolution(name, channels, deep),
            make.convolution(f'{name}_depthwise', deep, deep, LAST_MAP, groups=groups, act=False),
            make.convolution(f'{name}_pointwise', deep, deep // 2),
        ]
        self.body = nn.Sequential(*layers)
        size = options['emb_size']
        dense, norm = nn.Linear(deep // 2, size), nn.BatchNorm1d(size, **make.norm())
        self.embedding = nn.Sequential(OrderedDict({'pre_fc1': dense, 'fc1': norm}))

    def forward(self, images):
        return self.embedding(self.body((images - 127.5) / 128).flatten(1))


class Training(nn.Module):
    """Images and labels -> mean ArcFace loss; the head is float32 whatever the network is."""

    def __init__(self, options, classes, s, m2, bfloat16=False):
        super().__init__()
        self.network = VarGFaceNet(options)
        self.fc7 = nn.Linear(options['emb_size'], classes, bias=False)
        self.s, self.m2, self.bfloat16 = s, torch.tensor(m2), bfloat16

    def forward(self, images, label):
        reduced = contextlib.nullcontext()
        if self.bfloat16:
            reduced = torch.autocast('cpu', torch.bfloat16)
        with reduced:
            embedding = self.network(images)
        unit = functional.normalize(embedding.float())
        cosines = functional.linear(unit, functional.normalize(self.fc7.weight))
        target = cosines.gather(1, label[:, None])
        sine = (1 - target * target).clamp_min(1e-12).sqrt()
        moved = target * torch.cos(self.m2) - sine * torch.sin(self.m2)
        return functional.cross_entropy(self.s * cosines.scatter(1, label[:, None], moved), label)


def load(module, start):
    """Copy our parameters, by layer and kind; every one of both sides has its place."""
    left = {name for name in start if '.' in name}
    with torch.no_grad():
        for key, tensor in module.state_dict().items():
            name = '.'.join(key.split('.')[-2:])
            if not name.endswith('num_batches_tracked'):
                tensor.copy_(torch.from_numpy(start[name]))
                left.remove(name)
    if left:
        raise ValueError(f'the network here has no {", ".join(sorted(left))}')


def make_training(options, **how):
    with np.load(options['start']) as file:
        start = {name: file[name] for name in file.files}
    classes = len(start['fc7.weight'])
    training = Training(options['network'], classes, **options['head'], **how)
    load(training, start)
    return training, start


def check(options):
    """What our images give: the embeddings as the network is used, the loss as it trains."""
    training, start = make_training(options)
    images, label = torch.from_numpy(start['images']), torch.from_numpy(start['label'])
    with torch.no_grad():
        embedding = training.eval().network(images)
        loss = training.train()(images, label)
    return {
        'torch': torch.__version__,
        'vector_units': torch.backends.cpu.get_cpu_capability(),
        'threads': torch.get_num_threads(),
        'embedding': embedding.tolist(),
        'loss': loss.item(),
    }


def make_step(options):
    """A function that makes one training step on noise images that are in memory."""
    form = options['form']
    training, _ = make_training(options, bfloat16=form['bfloat16'])
    layout = torch.channels_last if form['channels_last'] else torch.contiguous_format
    training = training.to(memory_format=layout).train()
    # MXNet's SGD decays weights, gammas and slopes, which are all called weight here
    kinds = [[], []]
    for name, parameter in training.named_parameters():
        kinds[name.endswith('.bias')].append(parameter)
    decay = options['optimizer'].pop('weight_decay')
    groups = [{'params': kinds[0], 'weight_decay': decay}, {'params': kinds[1]}]
    optimizer = torch.optim.SGD(groups, **options['optimizer'])
    if form['compiled']:
        training = torch.compile(training)
    count, classes = options['batch_size'], options['classes']
    images = torch.randint(0, 256, (count, 3, 112, 112)).float().to(memory_format=layout)
    label = torch.randint(0, classes, (count,))

    def step():
        optimizer.zero_grad(set_to_none=True)
        training(images, label).backward()
        optimizer.step()

    return step


def main(what, options):
    answers = open_answers()
    torch.manual_seed(0)
    torch.set_num_threads(options['threads'])
    if what == 'check':
        answers.write(json.dumps(check(options)) + '\n')
        answers.close()
    else:
        answer_with_times(make_step(options), answers)


if __name__ == '__main__':
    main(sys.argv[1], json.loads(sys.argv[2]))
