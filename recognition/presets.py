"""Presets by name, as EasyDict tables: `network`, `dataset`, `loss`, `recipe`, `default`.

The tables are data and are never changed by the program. `configure.resolve` merges them once, in
the order default < recipe < dataset < network < loss < command line, into a frozen `TrainConfig`.
A user's own file (`--config FILE`) is Python that fills tables of the same names, which are laid
over these, and may register losses, distillation losses, augmentations, learning-rate schedules
and networks of its own:

    from easydict import EasyDict as edict
    dataset = edict(mine=edict(data_dir='faces_mine', val_targets=['lfw']))
    default = edict(per_batch_size=64)
"""

from pathlib import Path

from easydict import EasyDict as edict

from ..common.errors import InputError
from ..common.files import PathLike
from ..common.plugins import run_file
from ..common.registry import Registry, unknown_name

TABLES = ('network', 'dataset', 'loss', 'recipe', 'default')

# Any name of symbol.list_networks() works without an entry here; an entry gives it other options.
network = edict()
network.vargfacenet = edict(network_options={})
# a quarter of the multiply-adds, for two-core machines; channels 16, 32, 64, 128
network.vargfacenet_half = edict(network='vargfacenet', network_options={'multiplier': 0.5})
# trained with the last batch norm, which the authors leave out when they verify
network.polyface = edict(network_options={'feature_nobn': False})
network.polyface_deep = edict(network_options={'feature_nobn': False})

dataset = edict()
# made on first use by `vargfacenet synth`, so that everything runs without a download
dataset.synth = edict(data_dir='datasets/synth', val_targets=['synth'])
# InsightFace's packs: MS1M-ArcFace, and the cleaned MS1M of the paper (Section 4.1)
dataset.emore = edict(
    data_dir='datasets/faces_emore', num_classes=85742, val_targets=['lfw', 'cfp_fp', 'agedb_30']
)
dataset.retina = edict(
    data_dir='datasets/ms1m-retinaface-t1',
    num_classes=93431,
    val_targets=['lfw', 'cfp_fp', 'agedb_30'],
)

# s is the scale of the logits; the target's angle becomes m1 * theta + m2, its cosine loses m3
loss = edict()
loss.softmax = edict(loss='softmax', loss_options={})
loss.nsoftmax = edict(loss='margin', loss_options={'s': 64.0, 'm1': 1.0, 'm2': 0.0, 'm3': 0.0})
loss.arcface = edict(loss='margin', loss_options={'s': 64.0, 'm1': 1.0, 'm2': 0.5, 'm3': 0.0})
loss.cosface = edict(loss='margin', loss_options={'s': 64.0, 'm1': 1.0, 'm2': 0.0, 'm3': 0.35})
loss.combined = edict(loss='margin', loss_options={'s': 64.0, 'm1': 1.0, 'm2': 0.3, 'm3': 0.2})
# for a few thousand images, where the large scale and margin of the others learn slowly
loss.cosface_small = edict(
    loss='margin', loss_options={'s': 20.0, 'm1': 1.0, 'm2': 0.0, 'm3': 0.15}
)

recipe = edict()
# A few thousand images: LFW's training side, 5,833 images of 1,262 people. README has the result.
recipe.small = edict(
    loss='cosface_small', augment='mild', per_batch_size=32, epochs=20, warmup_steps=300
)
# Anchor finetuning, which the papers name and do not define: a trained network meets people whose
# centres (the anchors) are new. First they learn while the network stays, then it while they stay.
recipe.anchor_centres = edict(freeze='backbone', lr=0.1, epochs=4)
recipe.anchor_backbone = edict(freeze='centres', lr=0.01, epochs=8)
# The paper's run: batch 512 over all devices, cleaned MS1M, ArcFace, warm-up and cosine. The
# number of epochs is not in the paper; 24 is the 240,000 steps of 512 that such runs take.
recipe.paper = edict(
    network='vargfacenet',
    dataset='retina',
    loss='arcface',
    global_batch_size=512,
    lr=0.1,
    lr_mode='cosine',
    warmup_steps=10000,
    wd=5e-4,
    mom=0.9,
    epochs=24,
)

default = edict(
    network='vargfacenet',
    dataset='synth',
    loss='arcface',
    models_root='models',
    devices='cpu',
    kvstore='local',
    per_batch_size=32,
    lr=0.1,
    lr_mode='cosine',
    lr_factor=0.1,
    wd=5e-4,
    mom=0.9,
    epochs=20,
    seed=0,
    augment='mirror',
    shuffle='full',
    frequent=20,
    verbose=2000,
    ckpt=3,
)


def load_tables(config_file: PathLike = '') -> edict:
    """The five tables, with those of a user's Python file laid over them.

    Raises
    ------
    InputError for a file that does not run or that defines something that is not a table.
    """
    tables = edict({name: edict(globals()[name]) for name in TABLES})
    if not config_file:
        return tables
    path = Path(config_file)
    registered = Registry.registered
    names = run_file(path, 'configuration file')
    for name in TABLES:
        if name not in names:
            continue
        if not isinstance(names[name], dict):
            raise InputError(f'{path}: {name!r} must be a dict or EasyDict table')
        tables[name].update(edict(names[name]))
    if not any(name in names for name in TABLES) and Registry.registered == registered:
        raise InputError(
            f'{path} defines none of the tables {", ".join(TABLES)} and registers nothing'
        )
    return tables


def entry(tables: edict, table: str, name: str) -> edict:
    """Row `name` of a table; raises InputError with the nearest known name."""
    if name not in tables[table]:
        raise unknown_name(table, name, tables[table])
    return tables[table][name]
