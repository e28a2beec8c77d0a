"""Lists that give pictures their labels, in the forms that other tools write.

- MXNet's im2rec `.lst`: `index TAB label TAB path`
- InsightFace's `.lst`: `aligned TAB path TAB label`, more columns may follow
- `path label` or `label path`, separated by a tab, a comma or blanks

A label may be any word; classes are numbered by the sorted labels, as numbers if all are.
"""

from pathlib import Path

from ..errors import InputError
from ..files import PathLike, is_file, read_lines
from .folders import Identity


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _parse(words: list[str]) -> tuple[str, str]:
    """(label, path) of a line's words; ValueError for another form."""
    if len(words) >= 3 and _is_number(words[0]):
        if not _is_number(words[-1]):
            return words[1], words[-1]  # index, label(s), path
        if not _is_number(words[1]):
            return words[2], words[1]  # aligned, path, label
    first, second = words
    return (first, second) if _is_number(first) and not _is_number(second) else (second, first)


def _words(text: str) -> list[str]:
    if '\t' in text:
        return [word.strip() for word in text.split('\t')]
    if ',' in text:
        return [word.strip() for word in text.split(',')]
    words = text.split()
    if len(words) > 2 and _is_number(words[-1]):  # a path with blanks
        return text.strip().rsplit(None, 1)
    return words


def _label_key(label: str) -> str:
    """One name for 3, 3.0 and 3.000000, as im2rec writes labels."""
    return str(int(float(label))) if _is_number(label) and float(label).is_integer() else label


def read_label_list(path: PathLike, root: PathLike = '') -> list[Identity]:
    """Identities of a list, in the order of their labels; pictures in the order of the list.

    Parameters
    ----------
    path : the list
    root : folder that its paths are relative to; the list's own if empty

    Raises
    ------
    InputError naming the line that is of another form or names no file.
    """
    folder = Path(root) if root else Path(path).parent
    groups: dict[str, list[Path]] = {}
    for line, text in enumerate(read_lines(path, 'label list'), 1):
        if not text.strip():
            continue
        try:
            label, name = _parse(_words(text))
        except ValueError:
            raise InputError(
                f'{path} line {line}: {text!r}; expected PATH LABEL, or INDEX TAB LABEL TAB PATH'
            ) from None
        picture = folder / name
        if not is_file(picture):
            raise InputError(
                f'{path} line {line}: there is no picture {picture}; --root names the folder that '
                f'paths are relative to'
            )
        groups.setdefault(_label_key(label), []).append(picture)
    if not groups:
        raise InputError(f'label list {path} is empty')
    numeric = all(_is_number(label) for label in groups)
    labels = sorted(groups, key=float if numeric else None)
    return [Identity(label, tuple(groups[label])) for label in labels]
