"""What stands first: the verdict in sentences, the thresholds, and what was measured by what."""

from collections.abc import Mapping, Sequence
from typing import Optional, Union

from ...common.engine.model_name import shown_name
from .cells import DASH
from .identification import identification_sentence
from .page import Cell, Origin, Section, TableItem
from .runs import Run
from .statistics import Interval, bootstrap, held_out_correct, weighted_mean
from .verification import Measured, threshold_table

_DIGITS = 16  # of a hash that are shown; the CSV has all
_FIRST_DIGITS = 12  # in the line under the title
_FACTS = (
    ('model', 'model'),
    ('sha256', 'hash of its file (SHA-256)'),
    ('engine', 'engine'),
    ('date', 'measured, UTC'),
    ('version', 'version of vargfacenet'),
    ('command', 'command'),
)


def _rate(interval: Interval) -> str:
    value, low, high = (100 * number for number in interval)
    return f'{value:.2f} % [{low:.2f}, {high:.2f}]'


def _accepted(each: Measured) -> str:
    """'at most 1 % (5 of 503)' at the lowest FAR that can be measured."""
    return f'at most {100 * each.fars[0]:g} % ({each.accepted[0]:,} of {each.impostor:,})'


def _sentence(name: str, run: str, each: Measured) -> str:
    """What one run does on a pair set."""
    pairs = each.genuine + each.impostor
    text = f'{run} decides {_rate(each.accuracy)} of the {pairs:,} pairs of {name} rightly'
    if each.fars:
        tar = each.tars[0]
        fnmr = Interval(1 - tar.value, 1 - tar.high, 1 - tar.low)
        text += (
            f'; above a cosine of {each.cosines[0]:.3f} it accepts {_accepted(each)} of '
            f'impostor pairs and refuses {_rate(fnmr)} of genuine pairs'
        )
        if each.failed[0]:
            text += f', {100 * each.frr(0):.2f} % with those that gave no score'
    return text + '.'


def _comparison(name: str, targets: Mapping[str, Mapping]) -> Optional[str]:
    """Who is better on a pair set, as far as it shows."""
    (first_name, first), *others = targets.items()
    right = held_out_correct(first['distances'], first['issame'], first['fold_thresholds'])
    parts = []
    for run, target in others:
        if str(target['pairs_digest']) != str(first['pairs_digest']):
            continue
        own = held_out_correct(target['distances'], target['issame'], target['fold_thresholds'])
        gain = own.astype(float) - right

        def mean(weights, gain=gain):
            return [weighted_mean(gain, weights)]

        (difference,) = bootstrap(mean, first['identities'], first['issame'])
        value, low, high = (100 * number for number in difference)
        points = f'{value:+.2f} points of accuracy [{low:+.2f}, {high:+.2f}]'
        if low > 0 or high < 0:
            word = 'better' if low > 0 else 'worse'
            parts.append(f'{run} is {word} than {first_name}: {points}')
        else:
            parts.append(f'no difference of {run} from {first_name} is shown: {points}')
    if not parts:
        return None
    text = f'On {name}, {"; ".join(parts)}.'
    return text


def verdict(
    runs: Sequence[Run],
    verified: Mapping[str, tuple[Mapping[str, Mapping], Mapping[str, Measured]]],
) -> list[str]:
    """Sentences that tell the outcome.

    Parameters
    ----------
    verified : pair set -> (its targets by run, what was measured of them)
    """
    sentences = []
    for name, (targets, measured) in verified.items():
        best = max(measured, key=lambda run: measured[run].accuracy.value)
        sentences.append(_sentence(name, best, measured[best]))
        compared = _comparison(name, targets)
        if compared:
            sentences.append(compared)
    sentences += filter(None, map(identification_sentence, runs))
    if not sentences:
        sentences = ['Nothing was evaluated: these are runs of training alone.']
    return sentences


def _made(run: Run, key: str) -> list[str]:
    """What the results of a run say of it, each once."""
    return list(dict.fromkeys(filter(None, (made.get(key) for made in run.made))))


def origins(runs: Sequence[Run], report: Mapping[str, str]) -> list[Origin]:
    """A line for each run: model, hash, date, version, seed, command; the long ones shortened.

    Without a training's seed it is the bootstrap's, by which alone an evaluation draws.
    """
    short = {
        'model': shown_name,
        'sha256': lambda text: f'SHA-256 {text[:_FIRST_DIGITS]}…',
        'date': lambda text: text[:10],
        'version': lambda text: f'vargfacenet {text}',
    }
    found = []
    for run in runs:
        line = []
        for key, shorten in short.items():
            line += dict.fromkeys(map(shorten, _made(run, key)))
        seed = run.config.get('seed')
        line.append(f'seed {report["seed"]} (bootstrap)' if seed is None else f'seed {seed}')
        line += [f'{" ".join(text.split()[1:2])} …' for text in _made(run, 'command')]
        titles = dict(_FACTS)
        whole = [
            (titles[key], '; '.join(_made(run, key)))
            for key in ('model', 'sha256', 'command')
            if _made(run, key)
        ]
        found.append(Origin(run.name, line, whole or [('model', 'no results say of which')]))
    return found


def _facts_table(runs: Sequence[Run], report: Mapping[str, str]) -> TableItem:
    """What was measured by what: a column for each run, and one for this report."""
    rows = []
    for key, title in _FACTS:
        cells = [_made(run, key) for run in runs]
        cells.append([report[key]] if key in report else [])
        rows.append((title, *(_fact(key, values) for values in cells)))
    seeds = (run.config.get('seed') for run in runs)
    texts = (DASH if seed is None else str(seed) for seed in seeds)
    rows.append(('seed', *texts, f'{report["seed"]} (of the bootstrap)'))
    columns = ('what', *(run.name for run in runs), 'this page')
    note = 'The seed of a run is that of its training; evaluating draws nothing.'
    return TableItem('made', 'What was measured, when, and by what', columns, rows, note, True)


def _fact(key: str, values: Sequence[str]) -> Union[Cell, str]:
    whole = '; '.join(values)
    if key == 'sha256' and values:
        return Cell('; '.join(f'{value[:_DIGITS]}…' for value in values), (whole,))
    return whole or DASH


def summary_section(
    runs: Sequence[Run],
    verified: Mapping[str, tuple[Mapping[str, Mapping], Mapping[str, Measured]]],
    report: Mapping[str, str],
) -> Section:
    """Thresholds of every pair set, and where the numbers are from."""
    section = Section('Summary')
    section.items += [
        threshold_table(name, measured)
        for name, (_, measured) in verified.items()
        if any(each.fars for each in measured.values())
    ]
    section.items.append(_facts_table(runs, report))
    return section
