"""A study's result as tables on the terminal and as a page; needs nothing but the result."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from ...common import console
from ...eval.report.figures import interval_figure
from ...eval.report.page import FigureItem, Section, TableItem

log = logging.getLogger(__name__)

_NOTHING_YET = 'None of these runs is there yet.'
_FIRST = 5  # claims under the title
_BY_CHANCE = 20  # one in so many 95 % intervals excludes zero where there is no difference


def measures_of(result: Mapping[str, Any]) -> list[str]:
    """All measures, that of the claims first."""
    names = list(dict.fromkeys(name for arm in result['arms'].values() for name in arm['measures']))
    main = result['measure']
    return [main, *(name for name in names if name != main)] if main in names else names


def _percent(found: Optional[Mapping[str, Any]], signed: bool = False) -> str:
    if found is None:
        return '–'
    sign = '+' if signed else ''
    value, low, high = (100 * found[key] for key in ('value', 'low', 'high'))
    return f'{value:{sign}.1f} [{low:{sign}.1f}, {high:{sign}.1f}]'


def _duration(arm: Mapping[str, Any]) -> str:
    """Mean wall clock of an arm's runs."""
    seconds = [run['seconds'] for run in arm['runs'].values() if run['seconds']]
    return console.duration(sum(seconds) / len(seconds)) if seconds else '–'


def _or_dash(value: Any, form: str = '{}') -> str:
    return '–' if value is None else form.format(value)


def arms_table(result: Mapping[str, Any]) -> TableItem:
    """A row an arm: what it is, what it cost, what it reached."""
    measures = measures_of(result)
    rows = []
    for name, arm in result['arms'].items():
        rows.append(
            (
                name,
                _or_dash(arm.get('network')),
                _or_dash(arm.get('params') and arm['params'] / 1e6, '{:.2f}'),
                _or_dash(arm.get('flops') and arm['flops'] / 1e6, '{:.0f}'),
                _or_dash(arm.get('steps'), '{:,}'),
                len(arm['runs']),
                _duration(arm),
                *(_percent(arm['measures'].get(measure)) for measure in measures),
            )
        )
    columns = ('arm', 'network', 'M params', 'MFLOPs', 'steps', 'seeds', 'time a run', *measures)
    return TableItem(
        'arms',
        'Arms: mean over seeds, %',
        columns,
        rows,
        '[low, high]: 95 %, bootstrap over people and seeds; of one seed, over people alone.',
    )


def _published_table(result: Mapping[str, Any]) -> Optional[TableItem]:
    """Published figures beside ours."""
    rows = []
    for name, arm in result['arms'].items():
        for measure, published in arm['published'].items():
            ours = arm['measures'].get(measure)
            if ours is None:
                rows.append((name, measure, f'{100 * published:.2f}', '–', '–', 'not measured'))
                continue
            inside = ours['low'] <= published <= ours['high']
            gap = 100 * (ours['value'] - published)
            mark = 'agrees' if inside else 'DEVIATES'
            rows.append(
                (name, measure, f'{100 * published:.2f}', _percent(ours), f'{gap:+.2f}', mark)
            )
    if not rows:
        return None
    return TableItem(
        'published',
        'Published figures beside ours, %',
        ('arm', 'measure', 'published', 'ours', 'ours - published', ''),
        rows,
        'DEVIATES: the published figure is outside our interval.',
    )


def comparison_table(number: int, question: Mapping[str, Any]) -> TableItem:
    """Every comparison of a question, every measure."""
    rows = []
    for each in question['comparisons']:
        test = each['mcnemar']
        p_values = ', '.join(f'{p:.2g}' for p in test['p_values']) if test else '–'
        sides = f'{test["only_arm"]} : {test["only_against"]}' if test else '–'
        rows.append(
            (
                f'{each["arm"]} - {each["against"]}',
                each['measure'],
                _percent(each['difference'], signed=True),
                'yes' if each['told'] else 'no',
                ', '.join(f'{100 * value:+.1f}' for value in each['by_seed'].values()),
                sides,
                p_values,
            )
        )
    columns = ('arms', 'measure', 'difference, points', 'told', 'by seed', 'only it : only other')
    return TableItem(
        f'question-{number}',
        'Paired differences',
        (*columns, 'McNemar p by seed'),
        rows,
        'Same seeds, same order of the data, same people in every replicate. McNemar: exact, '
        'two-sided, on pairs of the ten-fold set that one of the two decides rightly.',
    )


def claims(result: Mapping[str, Any], question: Mapping[str, Any]) -> list[str]:
    """The sentences of a question on the measure of the claims."""
    order = measures_of(result)
    found = {each['measure'] for each in question['comparisons']}
    measure = next((name for name in order if name in found), None)
    return [each['sentence'] for each in question['comparisons'] if each['measure'] == measure]


def all_claims(result: Mapping[str, Any]) -> list[str]:
    """The sentences of all questions, each once: two questions may ask for one comparison."""
    return list(
        dict.fromkeys(text for each in result['questions'] for text in claims(result, each))
    )


def lead(said: Sequence[str]) -> list[str]:
    """The first of all claims, for the first screen."""
    more = [f'Further comparisons below: {len(said) - _FIRST}.'] if len(said) > _FIRST else []
    return [*said[:_FIRST], *more]


def _forest(question: Mapping[str, Any], measure: str, number: int) -> Optional[FigureItem]:
    """Differences with intervals, a line each."""
    shown = [each for each in question['comparisons'] if each['measure'] == measure]
    if not shown:
        return None
    names = [f'{each["arm"]} - {each["against"]}' for each in shown]
    triples = [
        tuple(100 * each['difference'][key] for key in ('value', 'low', 'high')) for each in shown
    ]
    figure = interval_figure(f'{measure}: difference, points', names, triples)
    return FigureItem(f'differences-{number}', figure, f'Differences of {measure}')


def _what_was_left(result: Mapping[str, Any]) -> str:
    missing = result['missing']
    shown = ', '.join(missing[:8]) + (' ...' if len(missing) > 8 else '')
    return f' Not there: {len(missing)} runs ({shown}).' if missing else ''


def _by_chance(result: Mapping[str, Any]) -> str:
    count = len(all_claims(result))
    if not count:
        return ''
    return (
        f'{count} comparisons, each at 95 % by itself: where nothing differs, one in {_BY_CHANCE} '
        f'excludes zero by chance.'
    )


def sections(result: Mapping[str, Any]) -> list[Section]:
    """The page."""
    about = f'{result["note"]} {_by_chance(result)}{_what_was_left(result)}'.strip()
    first = Section('Arms', about, [arms_table(result)])
    published = _published_table(result)
    if published:
        first.items.append(published)
    found, measures = [first], measures_of(result)
    for number, question in enumerate(result['questions'], 1):
        said = claims(result, question) or [_NOTHING_YET]
        text = ' '.join([*([question['note']] if 'note' in question else []), *said])
        section = Section(question['ask'], text)
        figure = _forest(question, measures[0], number) if measures else None
        section.items += [figure] if figure else []
        if question['comparisons']:
            section.items.append(comparison_table(number, question))
        found.append(section)
    return found


def show(result: Mapping[str, Any], tables: Sequence[Section]) -> None:
    """The same on the terminal: tables, then the sentences."""
    for section in tables:
        for item in section.items:
            if isinstance(item, TableItem):
                console.table(f'{section.title}: {item.title}', item.columns, item.rows)
    lines = []
    for question in result['questions']:
        said = claims(result, question) or [_NOTHING_YET]
        lines += [question['ask'], *(f'  {text}' for text in said)]
    lines += filter(None, [(_by_chance(result) + _what_was_left(result)).strip()])
    for line in lines:
        log.info('%s', line)
