"""All that a gallery keeps of one person, to show and to hand over."""

import json
import zipfile

from ..common.errors import InputError
from ..common.files import PathLike, atomic_path, output_file
from .decision_log import entries
from .gallery import Gallery, KeptFace
from .gallery_records import Person


def about_person(gallery: Gallery, name: str) -> dict:
    """What is kept of a person, without embeddings and pictures.

    Returns
    -------
    dict with `person` (name, basis, purpose, expires, recorded, number in the log), `faces`
    (source, enrolled, picture: its SHA-256, crop: whether it is kept, damaged: of `embedding`,
    `record` and `picture` those that are not what was enrolled, and left out) and `decisions`, the
    lines of the gallery's log that name the person. UnknownIdentity if there is none.
    """
    return _about(gallery, *gallery.person(name))


def _about(gallery: Gallery, number: str, person: Person, faces: list[KeptFace]) -> dict:
    return {
        'person': {
            'name': person.name,
            **person.terms._asdict(),
            'recorded': person.recorded,
            'number': number,
        },
        'faces': [
            {
                **face.record._asdict(),
                'crop': face.crop is not None,
                'damaged': list(face.damaged),
            }
            for face in faces
        ],
        'decisions': list(entries(gallery.log_path, number)),
    }


def check_export_path(path: PathLike) -> None:
    """Raise InputError where `export_person` cannot write."""
    if output_file(path).exists():
        raise InputError(f'{path} is there already, and is not replaced; choose another file')


def export_person(gallery: Gallery, name: str, path: PathLike) -> None:
    """Write all that is kept of a person to a new .zip file, for its owner alone.

    person.json is `about_person` with each face's embedding, null if damaged; crop-N.jpg are the
    pictures, where they are kept and whole. The gallery's log tells that it was exported. Raises
    InputError if the file is there, UnknownIdentity if the person is not, RunError, and no file is
    there, where that cannot be logged.
    """
    check_export_path(path)
    number, person, faces = gallery.person(name)
    about = _about(gallery, number, person, faces)
    for face, kept in zip(about['faces'], faces):
        face['embedding'] = None if kept.embedding is None else kept.embedding.tolist()
    with atomic_path(path, private=True) as temporary:
        with zipfile.ZipFile(temporary, 'w', zipfile.ZIP_DEFLATED) as archive:
            archive.writestr('person.json', json.dumps(about, indent=1) + '\n')
            for row, face in enumerate(faces):
                if face.crop:
                    archive.writestr(f'crop-{row}.jpg', face.crop)
        gallery.note('export', people=[number])  # what cannot be logged has no name yet, and goes
