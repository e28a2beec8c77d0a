"""KEY=VALUE words and the options they set: typed by the default, checked by the rule."""

import math
from dataclasses import dataclass, fields

import pytest
from vargfacenet.common.errors import InputError
from vargfacenet.common.options import (
    FLAG,
    NOT_NEGATIVE,
    REAL,
    SHARE,
    check,
    defaults_of,
    integer,
    one_of,
    option,
    parse,
    positive,
    rules_of,
)


@dataclass(frozen=True)
class Table:
    """One option of each kind."""

    count: int = option('how many', 1, integer(0, 9))
    share: float = option('how much', 0.5, SHARE)
    flag: bool = option('whether', False, FLAG)
    word: str = option('which', 'relu', one_of(['relu', 'elu']))
    free: str = option('anything', '')


def read(*words):
    return parse('network', 'y1', words, defaults_of(Table), rules_of(Table))


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('count=1', {'count': 1}),
        ('share=0.25', {'share': 0.25}),
        ('share=0', {'share': 0.0}),
        *((f'flag={word}', {'flag': True}) for word in ('True', 'true', 'yes', 'YES', '1')),
        *((f'flag={word}', {'flag': False}) for word in ('False', 'no', '0')),
        ('word=elu', {'word': 'elu'}),
        ('free=a=b', {'free': 'a=b'}),
        ('free=', {'free': ''}),
    ],
)
def test_options_are_typed(text, expected):
    values = read(text)
    assert values == expected
    assert [type(value) for value in values.values()] == [type(v) for v in expected.values()]


@pytest.mark.parametrize('text', ['count', ''])
def test_options_need_key_and_value(text):
    with pytest.raises(InputError, match='KEY=VALUE'):
        read(text)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['counts=1'], "unknown y1 option 'counts'.*did you mean 'count'"),
        (['=1'], "unknown y1 option ''"),
        (['count=1', 'count=2'], 'count is given twice'),
        (['count=1.5'], "count must be an integer from 0 to 9, not '1.5'"),
        (['count=10'], 'count must be an integer from 0 to 9, not 10'),
        (['share=1'], 'share must be a number from 0 up to, not including, 1, not 1.0'),
        (['share=nan'], 'not nan'),
        (['flag=maybe'], "flag must be true or false, not 'maybe'"),
        (['word=gelu'], "word must be one of relu, elu, not 'gelu'"),
    ],
)
def test_what_is_wrong_is_said(words, message):
    with pytest.raises(InputError, match=message):
        read(*words)


def test_a_table_without_options_says_so():
    with pytest.raises(InputError, match="softmax has no options, so no 's' either"):
        check('loss', 'softmax', {'s': 1}, {}, {})


@pytest.mark.parametrize(
    ('rule', 'good', 'bad'),
    [
        (REAL, [-1, 0, 0.5, -3.4e38], [math.nan, math.inf, 1e39, -1e39, 1e-39, True, '1', None]),
        (NOT_NEGATIVE, [0, 0.5], [-1e-9, 3.5e38, 1e-39, math.inf, False]),
        (positive(), [1.2e-38, 3.4e38], [0, -1, 1.1e-38, 3.5e38, 10**400, math.inf]),
        (positive(2), [2], [2.1]),
        (integer(1), [1, 10**12], [0, 1.0, True]),
    ],
)
def test_rules(rule, good, bad):
    assert all(rule.test(value) for value in good)
    assert not any(rule.test(value) for value in bad)


def test_defaults_that_can_change_are_not_shared():
    @dataclass
    class Lists:
        options: dict = option('anything', {})  # noqa: RUF009

    Lists().options['a'] = 1
    assert Lists().options == {}
    assert [field.metadata['help'] for field in fields(Lists)] == ['anything']
