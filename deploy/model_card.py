"""MODEL_CARD.md of an export: what the model is, what it was made from, how often it errs.

What nobody has said or measured stands there as not known, and is not left out.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

CARD = 'MODEL_CARD.md'
NOT_STATED = 'not stated'
_SHOWN = ('0.1', '0.01', '0.001', '0.0001', '1e-05', '1e-06')

_LIMITS = (
    'The rates below hold for pictures like those they were measured on. Other cameras, light, '
    'ages and people have other rates; measure with your own (`vargfacenet export --people DIR`).',
    'It compares faces. It does not tell whether a face is alive or a picture of one.',
    'Faces are expected upright and aligned by five points to 112x112; small, blurred and turned '
    'faces are recognised less often.',
    'A cosine above a threshold is a likeness and no proof of identity. Nobody should be denied '
    'anything, or accused, by it alone.',
    'Not for: looking for people in public without a law that allows it, collections of pictures '
    'taken from the internet or from cameras without aim, telling feelings, health, origin, belief '
    'or other traits from a face (docs/privacy.md).',
)


def model_card(
    record: Mapping[str, Any],
    training: Optional[Mapping[str, Any]],
    data: str,
    licence: str,
    command: str,
) -> str:
    """The card as Markdown.

    Parameters
    ----------
    record : what export.json holds
    training : the configuration of the training run, as far as it is known; None if it is not
    data : what it was trained on, in words; '' if nobody said
    licence : of the weights; '' if nobody said
    command : that made the export
    """
    parts = (
        _about(record, licence),
        _made(record, training, data, command),
        ('## Limits', '', *(f'* {text}' for text in _LIMITS)),
        _errors(record['verification']),
        _groups(record['verification']),
        _files(record['files']),
    )
    return '\n\n'.join('\n'.join(part) for part in parts) + '\n'


def _about(record: Mapping[str, Any], licence: str) -> Iterator[str]:
    yield '# Model card'
    yield ''
    yield (
        f'A network that turns an aligned picture of a face, 112x112 RGB, into '
        f'{record["output"]["shape"][1]} numbers; the cosine of two such rows tells how alike two '
        f'faces are.'
    )
    yield ''
    yield from _table(
        ('', ''),
        (
            ('parameters', f'{record["params"]:,}'),
            ('operations for a picture', f'{record["flops"] / 1e6:.1f} MFLOPs'),
            ('licence of the weights', licence or NOT_STATED),
        ),
    )


def _made(
    record: Mapping[str, Any], training: Optional[Mapping[str, Any]], data: str, command: str
) -> Iterator[str]:
    yield '## How it was made'
    yield ''
    rows = [
        ('trained on', data or (training or {}).get('data_dir') or NOT_STATED),
        ('exported by', f'vargfacenet {record["vargfacenet"]}: `{command}`'),
        *((f'SHA-256 of {name}', digest) for name, digest in record['source_sha256'].items()),
    ]
    if training is None:
        rows.append(('training', 'not known: no run wrote the checkpoint'))
    else:
        rows += [(f'training, {key}', value) for key, value in training.items()]
    yield from _table(('', ''), rows)


def _errors(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield '## How often it errs'
    yield ''
    measured = [row for row in rows if row['thresholds']]
    if not measured:
        yield 'Not measured. `vargfacenet export --people FOLDER` or `--pairs BIN` does it.'
        return
    first = measured[0]
    yield (
        f'Measured on {first["measured_on"]}: {first["pictures"]:,} pictures of '
        f'{first["people"]:,} people, {first["impostor_pairs"]:,} pairs of different people and '
        f'{first["genuine_pairs"]:,} of the same. FAR is the share of pairs of different people '
        f'that are taken for one, TAR the share of pairs of one person that are; intervals hold 95 '
        f'% of samples of other people like these.'
    )
    yield ''
    lines = []
    for row in measured:
        for far in _rates_shown(row):
            low, high = row['intervals'][far]
            tar = row['true_accepts'].get(far)
            missed = NOT_STATED if tar is None else f'{tar:.4f}'
            cosine = f'{row["thresholds"][far]:.4f} ({low:.4f} to {high:.4f})'
            lines.append((row['file'], row['engine'], far, cosine, missed))
    yield from _table(('file', 'engine', 'FAR', 'threshold, cosine (95 %)', 'TAR'), lines)
    if 'accuracy' in first:
        yield ''
        yield (
            f'Accuracy on {first["pairs"]} pairs, 10 folds: {first["accuracy"]:.4f} '
            f'(deviation of the folds {first["accuracy_std"]:.4f}).'
        )


def _rates_shown(row: Mapping[str, Any]) -> list[str]:
    return [far for far in row['thresholds'] if far in _SHOWN]


def _groups(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield '## Groups of people'
    yield ''
    measured = next((row['groups'] for row in rows if row.get('groups')), None)
    if not measured:
        yield (
            'Not measured: nobody said who belongs to which group (`--groups CSV`). That rates are '
            'alike for women and men, young and old, dark and light skin is not known.'
        )
        return
    yield 'Pairs within each group, at one threshold for all.'
    yield ''
    lines = [
        (
            far,
            rate['group'],
            f'{rate["people"]:,}',
            _rate(rate['far'], rate['far_interval']),
            _rate(rate['tar'], rate['tar_interval']),
        )
        for far, rates in measured.items()
        for rate in rates
    ]
    heading = ('FAR over all', 'group', 'people', 'FAR in the group (95 %)', 'TAR (95 %)')
    yield from _table(heading, lines)


def _rate(value: Optional[float], interval: Optional[Sequence[float]]) -> str:
    if value is None or interval is None:
        return 'no pairs'
    return f'{value:.2g} ({interval[0]:.2g} to {interval[1]:.2g})'


def _files(files: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    yield '## Files'
    yield ''
    rows = [(name, f'{file["bytes"]:,}', file['sha256']) for name, file in files.items()]
    yield from _table(('file', 'bytes', 'SHA-256'), rows)


def _table(heading: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[str]:
    yield _row(heading)
    yield _row(['---'] * len(heading))
    for row in rows:
        yield _row(row)


def _row(cells: Sequence[Any]) -> str:
    texts = (' '.join(str(cell).replace('|', r'\|').split()) for cell in cells)
    return f'| {" | ".join(texts)} |'
