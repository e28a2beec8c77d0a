"""How tables, data set and command line become one frozen configuration."""

import argparse
import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from vargfacenet.common.console import Parser
from vargfacenet.common.errors import InputError
from vargfacenet.recognition import configure, presets
from vargfacenet.recognition.config import (
    SETTINGS,
    TrainConfig,
    add_arguments,
    flag_of,
)
from vargfacenet.recognition.configure import resolve

NEWER_FIELDS = (
    'shuffle',
    'teacher_store',
    'distill',
    'distill_options',
    'augment_options',
    'views',
    'view_seed',
    'freeze',
    'accumulate',
    'clip_gradient',
    'ema',
)


def parse(*words) -> argparse.Namespace:
    parser = Parser()
    add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def test_the_recipe_of_the_paper(patterns):
    """Batch 512, ArcFace s 64 m 0.5, lr 0.1 with warm-up and cosine, VarGFaceNet at 1.25."""
    config = resolve(parse('--recipe', 'paper', '--data-dir', patterns, '--per-batch-size', 8))
    assert (config.network, config.network_options) == ('vargfacenet', {})
    assert config.loss_options == {'s': 64.0, 'm1': 1.0, 'm2': 0.5, 'm3': 0.0}
    assert (config.lr, config.lr_mode, config.wd, config.mom) == (0.1, 'cosine', 5e-4, 0.9)
    assert config.warmup_steps == 14  # 10,000 were meant for 240,000 steps; these are 144
    words = ('--recipe', 'paper', '--data-dir', patterns, '--per-batch-size', 8)
    assert resolve(parse(*words, '--steps', 240_000)).warmup_steps == 10_000


def test_a_warm_up_never_eats_a_short_run(patterns):
    words = ('--recipe', 'small', '--data-dir', patterns, '--steps')
    assert resolve(parse(*words, 60)).warmup_steps == 6
    assert resolve(parse(*words, 3640)).warmup_steps == 300  # the README's run: as the recipe says
    assert resolve(parse(*words, 60, '--warmup-steps', 59)).warmup_steps == 59  # asked for
    with pytest.raises(InputError, match='--warmup-steps 60: must be below the 60 steps'):
        resolve(parse(*words, 60, '--warmup-steps', 60))


def test_the_help_tells_the_defaults_of_the_presets():
    parser = Parser()
    add_arguments(parser)
    told = ' '.join(parser.format_help().split())
    for row in (presets.default, presets.dataset[presets.default.dataset]):
        for name, value in row.items():
            shown = ','.join(value) if isinstance(value, list) else value
            if 'group' in SETTINGS[name].metadata:
                assert f'(default {shown})' in told, name
    for recipe in presets.recipe.values():
        for name, value in recipe.items():
            assert f'{flag_of(name)} {value}' in told


def test_the_recipe_divides_its_batch_among_the_workers(patterns):
    """512 images a step on any number of workers: more than the 48 images there are."""
    for workers in (1, 2):
        with pytest.raises(InputError, match='fewer than one step of 512'):
            resolve(parse('--recipe', 'paper', '--data-dir', patterns), workers)


def test_the_recipe_expects_its_data_set():
    with pytest.raises(InputError, match=r'ms1m-retinaface-t1.*does not exist'):
        resolve(parse('--recipe', 'paper'))


def test_a_property_that_disagrees_with_the_preset(patterns, tmp_path):
    tables = tmp_path / 'mine.py'
    tables.write_text(f'dataset = dict(mine=dict(data_dir={str(patterns)!r}, num_classes=93431))')
    with pytest.raises(InputError, match=r'says 6 classes.*expects 93431'):
        resolve(parse('--config', tables, '--dataset', 'mine'))


def test_more_classes_than_labels_tell_apart(tmp_path, monkeypatch):
    """The first whole number that is another one in float32 is 2**24 + 1."""
    assert np.float32(2**24 + 1) == np.float32(2**24) and np.float32(2**24 - 1) == 2**24 - 1
    monkeypatch.setattr(configure, 'check_crops', lambda records: None)
    for classes, told in ((2**24, False), (2**24 + 2, True)):
        sizes = {'num_classes': classes, 'num_images': 2**25, 'source': tmp_path}
        records = SimpleNamespace(**sizes, close=lambda: None)
        monkeypatch.setattr(configure, 'open_records', lambda path, found=records: found)
        if told:
            with pytest.raises(InputError, match=r'16777218 classes.*labels are float32'):
                resolve(parse('--data-dir', tmp_path))
        else:
            assert resolve(parse('--data-dir', tmp_path)).num_classes == classes


def test_the_command_line_wins(patterns, tmp_path):
    tables = tmp_path / 'mine.py'
    tables.write_text('default = dict(lr=0.3, mom=0.7, per_batch_size=4)')
    config = resolve(parse('--data-dir', patterns, '--config', tables, '--lr', 0.2))
    assert (config.lr, config.mom, config.per_batch_size) == (0.2, 0.7, 4)


def test_epochs_become_steps(patterns):
    config = resolve(parse('--data-dir', patterns, '--per-batch-size', 10, '--epochs', 3))
    assert (config.num_images, config.global_batch_size, config.total_steps) == (48, 10, 12)
    shared = resolve(
        parse('--data-dir', patterns, '--per-batch-size', 10, '--epochs', 3), num_workers=2
    )
    assert (shared.global_batch_size, shared.total_steps) == (20, 6)


def test_images_that_do_not_divide_are_told(patterns, monkeypatch):
    """16 of three workers: refused, or with --batch-may-change 15, before any checkpoint too."""
    told = []
    monkeypatch.setattr(configure.log, 'info', lambda form, *args: told.append(form % args))
    words = ['--data-dir', patterns, '--global-batch-size', 16]
    with pytest.raises(InputError, match='16 images a step do not fall into 3 equal parts'):
        resolve(parse(*words), num_workers=3)
    words += ['--resume', '--batch-may-change']
    assert resolve(parse(*words), num_workers=2).global_batch_size == 16 and not told
    assert resolve(parse(*words), num_workers=3).global_batch_size == 15
    assert told == ['16 images a step do not fall into 3 equal parts: a step has 15']


def test_presets_are_not_changed_by_resolving(patterns):
    words = ['--loss', 'cosface', '--loss-option', 's=20', '--per-batch-size', 8]
    first = resolve(parse('--data-dir', patterns, *words))
    second = resolve(parse('--data-dir', patterns, '--loss', 'cosface', '--per-batch-size', 8))
    assert (first.loss_options['s'], second.loss_options['s']) == (20, 64.0)


def test_json_round_trip_and_differences(patterns):
    config = resolve(parse('--data-dir', patterns, '--per-batch-size', 8, '--target', 'pairs'))
    assert TrainConfig.from_json(config.to_json()) == config
    # a run that was saved before these fields existed goes on
    old = {k: v for k, v in json.loads(config.to_json()).items() if k not in NEWER_FIELDS}
    assert TrainConfig.from_json(json.dumps(old)) == config
    other = dataclasses.replace(config, lr=0.5, frequent=7)
    assert config.differences(other) == ['lr 0.1, saved 0.5']  # frequent changes no weight
    with pytest.raises(InputError, match="did you mean 'lr'"):
        TrainConfig.from_json(config.to_json().replace('"lr":', '"lrr":'))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 1.0


@pytest.mark.parametrize('steps', ['1,x', '20,10', '0,5', ''])
def test_wrong_lr_steps(steps, patterns):
    with pytest.raises(InputError, match='lr-steps'):
        resolve(parse('--data-dir', patterns, '--lr-mode', 'step', '--lr-steps', steps))
