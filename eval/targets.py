"""Which pair sets a command is to verify: `.bin` files and names, from what the user gave."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Optional

from ..common.errors import InputError
from ..common.files import input_file


def resolve_targets(texts: list[str], data_dir: Optional[str]) -> dict[str, Path]:
    """Files of the `--target` values, by the name that results go under.

    Parameters
    ----------
    texts : each a .bin path, a name such as `lfw` (data_dir/lfw.bin), or several with commas
    data_dir : folder of named targets

    Returns
    -------
    dict of name -> existing file, in the order given. The name is the file's stem, or the path as
    given where two files have the same stem.

    Raises
    ------
    InputError for a file that does not exist, a name without `data_dir` and a target given twice.
    """
    words = []
    for text in texts:  # a file's own name may have a comma
        words += [text] if Path(text).is_file() else [word for word in text.split(',') if word]
    if not words:
        raise InputError(f'--target {",".join(texts)!r}: expected a .bin file or a name like lfw')
    paths = {}
    for word in words:
        path = Path(word)
        if path.suffix != '.bin':
            if path.suffix == '.npz':
                raise InputError(f'target {word!r}: a set of make-pairs is for --pairs')
            if data_dir is None and path.is_file():
                raise InputError(
                    f'target {word!r} is a file that does not end in .bin; make-bin writes targets'
                )
            if data_dir is None:
                raise InputError(
                    f'target {word!r} is no .bin file; a name needs --data-dir (DIR/{word}.bin)'
                )
            path = Path(data_dir) / f'{word}.bin'
        if path in paths.values():
            raise InputError(f'target {path} is given twice')
        paths[word] = input_file(path, 'target')
    stems = [path.stem for path in paths.values()]
    return {
        _printable(path.stem if stems.count(path.stem) == 1 else word): path
        for word, path in paths.items()
    }


def resolve_sets(texts: list[str], targets: Iterable[str] = ()) -> dict[str, Path]:
    """Files of the `--pairs` values by their stems; InputError for one that does not exist, and for
    two, or one and a target, of one name."""
    paths = {}
    for text in texts:
        name = _printable(Path(text).stem)
        if name in paths or name in targets:
            raise InputError(f'--pairs {text}: {name} is the name of another set or target')
        paths[name] = input_file(text, 'set of people')
    return paths


def _printable(name: str) -> str:
    """A file's name as text that can be stored: bytes of it that are no UTF-8 become U+FFFD."""
    return os.fsencode(name).decode('utf-8', 'replace')
