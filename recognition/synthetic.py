"""Drawn faces to train on where no data set was named."""

import logging
from pathlib import Path
from typing import Any

from . import presets

log = logging.getLogger(__name__)


def make_if_missing(values: dict[str, Any]) -> None:
    """Write the synthetic data set where the run of these settings would read it, if it reads the
    presets' one and nothing is there yet."""
    folder = Path(values['data_dir'])
    if values['dataset'] != 'synth' or folder != Path(presets.dataset.synth.data_dir):
        return
    from ..common.synth.dataset import FILES, make_dataset  # which few runs need

    if not all((folder / name).exists() for name in FILES):
        log.info('no --data-dir and no --dataset: drawing faces in %s, in some minutes', folder)
        make_dataset(folder)
