"""The report's section on training: what was trained on what, and how it went."""

from collections.abc import Mapping, Sequence
from typing import Optional

from ...common import console
from . import figures
from .cells import DASH, number_cell, option_text, slug
from .page import FigureItem, Section, TableItem
from .runs import Run

_SHOWN_CONFIG = (
    ('network', 'network'),
    ('network_options', 'options'),
    ('loss', 'loss'),
    ('loss_options', 'options of the loss'),
    ('pretrained', 'starts from'),
    ('teacher', 'teacher'),
    ('data_dir', 'data'),
    ('num_classes', 'people'),
    ('num_images', 'images'),
    ('total_steps', 'steps'),
    ('per_batch_size', 'batch'),
    ('lr', 'learning rate'),
    ('lr_mode', 'its way down'),
    ('warmup_steps', 'warm-up, steps'),
    ('wd', 'weight decay'),
    ('augment', 'augmentation'),
    ('seed', 'seed'),
)
_OF_DISTILLATION = (
    ('distill', 'distillation loss'),
    ('distill_options', 'its options'),
    ('alpha', 'its weight'),
)


def training_table(runs: Sequence[Run]) -> TableItem:
    """What was trained on what, and how it ended; a column a run."""
    distils = any(run.config.get('teacher') for run in runs)
    shown = (*_SHOWN_CONFIG, *(_OF_DISTILLATION if distils else ()))
    rows = [
        (title, *(option_text(run.config.get(key)) for run in runs))
        for key, title in shown
        if any(run.config.get(key) not in ('', None, {}) for run in runs)
    ]
    last = [next((row for row in reversed(run.history) if 'loss' in row), {}) for run in runs]
    for key, title in (('loss', 'last loss'), ('images_per_second', 'images/s at the end')):
        rows.append(
            (title, *(number_cell(row[key], '.3g') if key in row else DASH for row in last))
        )
    rows.append(('time', *(console.duration(run.seconds) if run.seconds else DASH for run in runs)))
    return TableItem('training', 'Runs', ('what', *(run.name for run in runs)), rows)


def _history_figures(
    histories: Mapping[str, list[dict]], looks: Mapping[str, figures.Look]
) -> list[FigureItem]:
    """A figure for whatever was logged: loss, rate, accuracies."""
    logged = {name for rows in histories.values() for row in rows for name in row}
    suffix = '_accuracy'
    targets = sorted(name for name in logged if name.endswith(suffix))
    items = []
    for title, name, percent in (
        ('Loss', 'loss', False),
        ('Learning rate', 'learning_rate', False),
        ('Training accuracy', 'accuracy', True),
        *((f'Accuracy on {name[: -len(suffix)]}', name, True) for name in targets),
    ):
        figure = figures.history_curves(title, histories, [name], percent, looks)
        if figure is not None:
            caption = f'{title} over training steps'
            items.append(FigureItem(slug('training', title), figure, caption))
    return items


def training_section(
    runs: Sequence[Run], looks: Optional[Mapping[str, figures.Look]] = None
) -> Optional[Section]:
    """What was trained on what, and the curves."""
    looks = looks or figures.looks_of(run.name for run in runs)
    runs = [run for run in runs if run.history or run.config]
    if not runs:
        return None
    section = Section('Training', 'What was trained on what, and how it went.')
    section.items.append(training_table(runs))
    section.items += _history_figures({run.name: run.history for run in runs}, looks)
    return section
