"""Whether a face should go into a gallery: poor pictures, people with another name there."""

from collections.abc import Sequence
from typing import Optional

from ..common.data.image import encode_jpeg
from .faces import Face
from .gallery import Gallery
from .gallery_records import picture_digest
from .quality import ENROL

_LOOKED_AT = 3  # people most alike, among whom the same picture is looked for


def enrolment_doubts(
    gallery: Gallery, name: str, face: Face, threshold: Optional[float]
) -> list[str]:
    """Why a face should not be enrolled under a name; empty if nothing speaks against it.

    Parameters
    ----------
    gallery : as it is before
    name : of the person
    face : a person's, of a picture
    threshold : cosine above which a face of the gallery is of the same person; None if not known
    """
    doubts = poor_quality(face)
    digest = picture_digest(encode_jpeg(face.crop))
    alike = gallery.identify(face.embedding, _LOOKED_AT)
    same = [match.identity for match in alike if gallery.has_picture(match.identity, digest)]
    if same:
        doubts.append(f'the same picture is enrolled as {same[0]!r} already')
    for match in alike:
        other = match.identity not in (name, *same)
        if other and threshold is not None and match.cosine > threshold:
            doubts.append(
                f'it looks like {match.identity!r}, who is enrolled (cosine {match.cosine:.3f}, '
                f'above {threshold:.3f}), maybe one person under two names'
            )
            break
    return doubts


def poor_quality(face: Face) -> list[str]:
    """What is wrong with a face too poor to be enrolled, as one text; empty if it is not."""
    if face.quality.score >= ENROL:
        return []
    reasons = '; '.join(face.quality.reasons)
    return [f'its quality is {face.quality.score:.2f}, below {ENROL:g}: {reasons}']


def repeated(faces: Sequence[Face]) -> list[int]:
    """Positions of faces whose crop is that of an earlier one."""
    seen: set[bytes] = set()
    again = []
    for position, face in enumerate(faces):
        content = face.crop.tobytes()
        if content in seen:
            again.append(position)
        seen.add(content)
    return again
