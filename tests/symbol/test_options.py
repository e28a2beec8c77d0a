"""Wrong networks, options and values give one clear InputError."""

import dataclasses
import runpy

import numpy as np
import pytest
from conftest import registered_for_now
from vargfacenet.common.errors import InputError
from vargfacenet.symbol import get_symbol, list_networks, network_options, parse_options
from vargfacenet.symbol.options import NETWORKS


def test_unknown_network_suggests_the_nearest():
    with pytest.raises(InputError, match=r"'vargfacnet'; known: .*did you mean 'vargfacenet'\?"):
        get_symbol('vargfacnet')
    with pytest.raises(InputError, match='unknown network'):
        network_options('vargfacnet')


def test_unknown_option_suggests_the_nearest():
    with pytest.raises(InputError, match=r"vargfacenet option 'multiplyer'.*'multiplier'\?"):
        get_symbol('vargfacenet', multiplyer=1.0)


def test_option_of_another_network_is_unknown():
    with pytest.raises(InputError, match="unknown y1 option 'multiplier'"):
        get_symbol('y1', multiplier=0.5)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'emb_size': 0}, 'emb_size must be an integer from 1 to 65536, not 0'),
        ({'emb_size': -512}, 'not -512'),
        ({'emb_size': 512.0}, 'must be an integer'),
        ({'emb_size': True}, 'must be an integer'),
        ({'emb_size': '512'}, "not '512'"),
        ({'emb_size': 10**12}, 'not 1000000000000'),
        ({'multiplier': 0}, 'multiplier must be a number above 0'),
        ({'multiplier': float('nan')}, 'not nan'),
        ({'multiplier': float('inf')}, 'not inf'),
        ({'multiplier': None}, 'not None'),
        ({'use_se': 1}, 'use_se must be true or false, not 1'),
        ({'use_se': 'no'}, "not 'no'"),
        ({'act_type': 'swish'}, 'act_type must be one of elu, gelu, .*relu.*, not .swish'),
        ({'bn_mom': 1.0}, 'bn_mom must be a number from 0 up to, not including, 1'),
        ({'bn_eps': 0}, 'bn_eps must be a number above 0'),
        ({'group_base': 0}, 'group_base must be an integer from 1'),
        ({'factor': 0.5}, 'factor must be an integer from 1'),
        ({'se_ratio': 0}, 'se_ratio must be an integer from 1'),
    ],
)
@pytest.mark.parametrize('name', ['vargfacenet', 'vargnet'])
def test_wrong_value(name, options, message):
    with pytest.raises(InputError, match=message) as error:
        get_symbol(name, **options)
    assert '\n' not in str(error.value)
    assert name in str(error.value)


@pytest.mark.parametrize('options', [{'width': 0}, {'width': '1'}, {'dropout': 1}])
def test_wrong_value_of_a_resnet(options):
    with pytest.raises(InputError, match=next(iter(options))):
        get_symbol('r18', **options)


@pytest.mark.parametrize('name', ['vargfacenet', 'vargnet'])
@pytest.mark.parametrize(
    ('options', 'parts'),
    [
        (
            {'multiplier': 1.3},
            ('multiplier 1.3', '41.6, 83.2, 166.4, 332.8 channels', 'work: 1.25 or 1.5'),
        ),
        # 32 * 0.375 = 12 is whole, but no multiple of 8; the wider stages are fine
        ({'multiplier': 0.375}, ('gives 12 channels', 'work: 0.25 or 0.5')),
        ({'multiplier': 0.1}, ('3.2', 'work: 0.25')),
        ({'group_base': 16}, ('gives 40 channels', 'group_base 16', 'work: 1 or 1.5')),
    ],
)
def test_channels_that_the_group_base_does_not_divide(name, options, parts):
    with pytest.raises(InputError) as error:
        get_symbol(name, **options)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize('group_base', [4, 8, 16])
@pytest.mark.parametrize('steps', [1, 2, 3, 5])
def test_multiples_of_the_step_work(group_base, steps):
    multiplier = steps * group_base / 32
    symbol = get_symbol('vargfacenet', multiplier=multiplier, group_base=group_base)
    assert symbol.infer_shape(data=(1, 3, 112, 112))[1] == [(1, 512)]


def test_group_base_that_does_not_divide_the_embedding():
    with pytest.raises(InputError, match='group_base 5 does not divide the 1024 channels'):
        get_symbol('vargfacenet', group_base=5)


def test_numbers_of_other_types_give_the_same_symbol():
    plain = get_symbol('vargfacenet', multiplier=1.0, emb_size=256).tojson()
    assert get_symbol('vargfacenet', multiplier=1, emb_size=np.int64(256)).tojson() == plain
    assert get_symbol('vargfacenet', multiplier=np.float32(1), emb_size=256).tojson() == plain


@pytest.mark.parametrize('name', list_networks())
def test_defaults_are_valid_and_complete(name):
    """An option without a rule would be a KeyError for the user."""
    options = network_options(name)
    for option, value in options.items():
        is_valid, _ = NETWORKS.get(name).rule(option)
        assert is_valid(value), option
    assert get_symbol(name, **options).tojson() == get_symbol(name).tojson()


def test_options_cannot_be_changed_from_outside():
    network_options('y1')['emb_size'] = 7
    assert network_options('y1')['emb_size'] == 128
    with pytest.raises(dataclasses.FrozenInstanceError):
        NETWORKS.get('y1').defaults.emb_size = 7


def test_options_from_the_command_line_have_their_types():
    words = ['multiplier=1', 'use_se=False', 'head_pooling=yes', 'emb_size=128', 'act_type=relu']
    options = parse_options('vargfacenet', words)
    assert options == {
        'multiplier': 1.0,
        'use_se': False,
        'head_pooling': True,
        'emb_size': 128,
        'act_type': 'relu',
    }
    assert [type(value) for value in options.values()] == [float, bool, bool, int, str]


@pytest.mark.parametrize(
    ('word', 'message'),
    [
        ('multiplier', "'multiplier': expected OPTION=VALUE"),
        ('=1', "unknown vargfacenet option ''"),
        ('multiplier=wide', "must be a number above 0, at most 64, not 'wide'"),
        ('use_se=maybe', "must be true or false, not 'maybe'"),
        ('emb_size=1.5', "must be an integer from 1 to 65536, not '1.5'"),
        ('emb_siz=128', "'emb_siz'.*'emb_size'"),
    ],
)
def test_command_line_options_that_cannot_be_read(word, message):
    with pytest.raises(InputError, match=message):
        parse_options('vargfacenet', [word])


def test_option_given_twice():
    with pytest.raises(InputError, match='emb_size is given twice'):
        parse_options('y1', ['emb_size=1', 'emb_size=2'])


OWN_FAMILY = """
from dataclasses import dataclass
from vargfacenet.symbol import NETWORKS, Family, LayerOptions, blocks
from vargfacenet.symbol.options import integer

@dataclass(frozen=True)
class Options(LayerOptions):
    emb_size: int = 64
    layers: int = 2

def plain(options):
    data = blocks.normalized_input()
    for layer in range(options.layers):
        data = blocks.conv_bn_act(data, f'layer{layer}', 16, options, kernel=3, stride=4)
    return blocks.embedding(data, options.emb_size, 2e-5, options, fix_gamma=True)

NETWORKS.register('plain')(Family(plain, Options(), rules={'layers': integer(1, 3)}))
"""


@pytest.fixture
def networks_for_now():
    with registered_for_now(NETWORKS):
        yield


def test_a_file_outside_the_project_adds_a_family(tmp_path, networks_for_now):
    (tmp_path / 'plain.py').write_text(OWN_FAMILY)
    runpy.run_path(str(tmp_path / 'plain.py'))
    assert 'plain' in list_networks()
    assert get_symbol('plain', layers=1).infer_shape(data=(1, 3, 112, 112))[1] == [(1, 64)]
    with pytest.raises(InputError, match='layers must be an integer from 1 to 3, not 4'):
        get_symbol('plain', layers=4)
    with pytest.raises(InputError, match="layers must be an integer from 1 to 3, not 'x'"):
        parse_options('plain', ['layers=x'])
