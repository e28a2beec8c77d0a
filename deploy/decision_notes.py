"""What a log says of a comparison and of an identification: no name, no score, no picture."""

from collections.abc import Sequence
from typing import Optional

from ..common.files import PathLike
from .decide import Decision
from .decision_log import append
from .gallery import Gallery, Match
from .tail import GalleryDecision

_OUTCOMES = {True: 'match', False: 'no match', None: 'no decision'}


def note_comparison(
    log_path: Optional[PathLike], what: str, model: str, decision: Decision, same: Optional[bool]
) -> None:
    """Log a comparison of two photographs, if there is a log; RunError if it cannot be."""
    if log_path is not None:
        append(log_path, what, model=model, **decision._asdict(), outcome=_OUTCOMES[same])


def note_identification(
    gallery: Gallery, what: str, decision: Optional[GalleryDecision], matches: Sequence[Match]
) -> None:
    """Log an identification in the gallery, with the people above the threshold by number."""
    threshold = decision.threshold if decision else None
    known = threshold is not None
    people = [match.person for match in matches if known and match.cosine > threshold]
    outcome = _OUTCOMES[bool(people) if known else None]
    applied = decision.as_dict() if decision else {}
    gallery.note(what, people=people, **applied, outcome=outcome)
