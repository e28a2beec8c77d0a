"""Enrol faces in a gallery on disk, identify photographs with it, remove people from it, show and
export what is kept of them, forget those whose time is over, seal it by a key.

The largest face of a photograph counts. A face is not enrolled if its picture is poor, or if it
seems to be in the gallery under another name, unless --force says so. A gallery belongs to the
model it was made with.

A face is named at a threshold that depends on the gallery's size: such that of people who are not
in it a share of --fpir is named. What `vargfacenet export --people` or `--pairs` measured tells it.
Of a face the embedding is kept, the picture only with --keep-crops. What is decided and changed is
logged in the gallery's decisions.jsonl, people by number.
"""

import argparse
import contextlib
import logging
from datetime import date
from pathlib import Path
from typing import Optional

import numpy as np

from ..common import console
from ..common.data.image import encode_jpeg
from ..common.engine.options import add_options_or_default
from ..common.errors import InputError
from ..common.files import input_file
from .decide import (
    DEFAULT_FPIR,
    add_threshold_options,
    check_gallery_options,
    choose_for_gallery,
    decide_for_gallery,
    embedder_from,
    usual_rates,
)
from .decision_notes import note_identification
from .embedder import FaceEmbedder
from .enrolment import enrolment_doubts, poor_quality, repeated
from .faces import Face, add_faces_option, face_of
from .gallery import Gallery, check_exists
from .gallery_file import holds_gallery, private_folder
from .gallery_records import check_not_over, checked_name, checked_terms, picture_digest
from .person_export import about_person, check_export_path, export_person
from .sealing import CODEC_HELP, NEW, Key, add_key_options, key_for, key_of, make_key
from .tail import GalleryDecision

log = logging.getLogger(__name__)


_HELP = {
    'enrol': 'add the faces of photographs of a person',
    'identify': 'who is in a photograph?',
    'remove': 'forget a person',
    'list': 'who is in the gallery?',
    'show': 'what is kept of a person?',
    'expire': 'forget the people whose time is over',
    'rekey': 'seal a gallery, or seal it anew by another key',
    'make-key': 'write a new key file',
}


def build_parser(parser: console.Parser) -> None:
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    for action, text in _HELP.items():
        part = actions.add_parser(action, help=text, description=text)
        if action == 'make-key':
            part.add_argument('key_file', type=Path, metavar='FILE', help='must not be there yet')
            continue
        part.add_argument('--gallery', required=True, type=Path, metavar='DIR', help='its folder')
        add_key_options(part)
        if action in ('enrol', 'identify'):
            add_options_or_default(part)
            add_faces_option(part)
        if action in ('enrol', 'remove', 'show'):
            part.add_argument('name', metavar='NAME', help='of the person')
        if action in _OPTIONS:
            _OPTIONS[action](part)


def _enrol_options(part: console.Parser) -> None:
    part.add_argument('--codec', default='', metavar='NAME', help=CODEC_HELP)
    part.add_argument('photographs', nargs='+', metavar='PHOTO', help='of the person')
    part.add_argument(
        '--force',
        action='store_true',
        help='enrol poor pictures, and people who seem to be there under another name',
    )
    part.add_argument('--keep-crops', action='store_true', help='keep the aligned pictures as well')
    part.add_argument(
        '--basis',
        default='',
        metavar='TEXT',
        help='consent, or what else allows it, for the record',
    )
    part.add_argument('--purpose', default='', metavar='TEXT', help='what it is for')
    part.add_argument(
        '--expires',
        default='',
        metavar='DATE',
        help='last day, YYYY-MM-DD, not before today; see the action expire',
    )


def _identify_options(part: console.Parser) -> None:
    part.add_argument('photograph', metavar='PHOTO')
    part.add_argument('--top', type=int, default=5, help='how many people to list')
    part.add_argument(
        '--fpir',
        type=float,
        help='share of people who are not in the gallery that it may name, by default that of the '
        f'export, usually {DEFAULT_FPIR:g}; the threshold follows from it and the number of faces',
    )
    add_threshold_options(part, otherwise='in place of --fpir')


def _show_options(part: console.Parser) -> None:
    part.add_argument(
        '--export',
        type=Path,
        metavar='FILE',
        help='write all that is kept of the person into a new .zip file',
    )


def _rekey_options(part: console.Parser) -> None:
    add_key_options(part, NEW, 'from now on')


_OPTIONS = {
    'enrol': _enrol_options,
    'identify': _identify_options,
    'show': _show_options,
    'rekey': _rekey_options,
}


def _opened(
    args: argparse.Namespace,
    key: Optional[Key],
    embedder: Optional[FaceEmbedder] = None,
    codec: str = '',
) -> contextlib.closing[Gallery]:
    model = (embedder.embedding_size, embedder.fingerprint) if embedder else (None, None)
    return contextlib.closing(Gallery(args.gallery, *model, codec, key))


def _key(args: argparse.Namespace) -> Optional[Key]:
    """The key that was given to open the gallery that is there."""
    check_exists(args.gallery)
    return key_of(args, args.gallery, is_new=False)


def _enrol(args: argparse.Namespace) -> dict:
    name = checked_name(args.name)
    terms = checked_terms(args.basis, args.purpose, args.expires)
    check_not_over(terms, date.today())
    for path in args.photographs:
        input_file(path, 'photograph')
    key, is_new = key_for(args)
    if is_new:
        private_folder(args.gallery)
    embedder = embedder_from(args)
    with contextlib.ExitStack() as stack:
        gallery = None
        if holds_gallery(args.gallery):
            gallery = stack.enter_context(_opened(args, key, embedder, args.codec))
            gallery.check_enrol(name, terms)  # before the costly look at the photographs
        found = [face_of(embedder, path, args.faces) for path in args.photographs]
        faces = [largest.face for largest in found]
        doubts = _doubts(args, embedder, gallery, faces)
        if doubts and not args.force:
            raise InputError(
                f'{"; ".join(doubts)}. Nothing is enrolled; --force does it all the same'
            )
        for doubt in doubts:
            log.warning('%s; enrolled all the same', doubt)
        crops = [encode_jpeg(face.crop) for face in faces]
        if gallery is None:  # made only when there is something to put into it
            gallery = stack.enter_context(_opened(args, key, embedder, args.codec))
        gallery.enrol(
            [name] * len(faces),
            np.stack([face.embedding for face in faces]),
            args.photographs,
            crops if args.keep_crops else None,
            [picture_digest(crop) for crop in crops],
            terms,
        )
        log.info(
            '%s: enrolled as %s: %d; faces in all: %d', args.gallery, name, len(faces), len(gallery)
        )
        return {
            'faces': len(gallery),
            'enrolled': len(faces),
            'doubts': doubts,
            'pictures': [largest.summary() for largest in found],
        }


def _doubts(
    args: argparse.Namespace, embedder: FaceEmbedder, gallery: Optional[Gallery], faces: list[Face]
) -> list[str]:
    """Why these faces should not be enrolled; without a gallery there is nobody they are like."""
    again = repeated(faces)
    doubts = [f'{args.photographs[row]}: the same picture is given twice' for row in again]
    if gallery is None:
        of_face = poor_quality
    else:
        decision = decide_for_gallery(embedder, len(gallery), usual_rates(embedder).fpir)
        threshold, name = decision and decision.threshold, checked_name(args.name)

        def of_face(face: Face) -> list[str]:
            return enrolment_doubts(gallery, name, face, threshold)

    doubts += [
        f'{path}: {doubt}' for path, face in zip(args.photographs, faces) for doubt in of_face(face)
    ]
    return doubts


def _identify(args: argparse.Namespace) -> dict:
    console.check_ranges([('--top', args.top, 1, 1000)])
    check_gallery_options(args)
    input_file(args.photograph, 'photograph')
    key = _key(args)
    embedder = embedder_from(args)
    with _opened(args, key, embedder) as gallery:
        faces = len(gallery)
        _say_expired(gallery)  # before the costly look at the photograph
        decision = choose_for_gallery(args, embedder, faces)
        found = face_of(embedder, args.photograph, args.faces)
        matches = gallery.identify(found.face.embedding, args.top)
        note_identification(gallery, 'gallery identify', decision, matches)
    words = {True: 'match', False: 'no match', None: ''}
    threshold = decision and decision.threshold
    same = [None if threshold is None else match.cosine > threshold for match in matches]
    verdict = _verdict([match.identity for match in matches], same)
    if matches:
        console.table(
            f'{args.photograph}: {verdict}; enrolled faces: {faces}{_said(decision)}',
            ('name', 'cosine', '' if threshold is None else f'above {threshold:.4f}?'),
            [
                (match.identity, f'{match.cosine:.4f}', words[is_same])
                for match, is_same in zip(matches, same)
            ],
        )
    else:
        log.warning('%s: %s; `vargfacenet gallery enrol` adds people', args.gallery, verdict)
    applied = decision.as_dict() if decision else {'threshold': None, 'fpir': None, 'far': None}
    return {
        'faces': faces,
        **applied,
        'gallery_faces': faces,
        'picture': found.summary(),
        'matches': [
            {'name': match.identity, 'cosine': match.cosine, 'same': is_same}
            for match, is_same in zip(matches, same)
        ],
    }


def _verdict(names: list[str], same: list[Optional[bool]]) -> str:
    """Who it is, in words, of the nearest names and whether each is above the threshold."""
    if not names:
        return 'nobody is enrolled'
    if same[0] is None:
        return 'no decision, the model has no thresholds'
    return names[0] if same[0] else 'nobody who is enrolled'


def _said(decision: Optional[GalleryDecision]) -> str:
    if decision is None or decision.fpir is None:
        return ''
    return f'; of strangers {100 * decision.fpir:.2g} % are named'


def _say_expired(gallery: Gallery) -> None:
    over = gallery.expired()
    if over:
        log.warning(
            'the time of %d people is over, and nobody is recognised as one of them; `vargfacenet '
            'gallery expire` forgets them',
            len(over),
        )


def _remove(args: argparse.Namespace) -> dict:
    with _opened(args, _key(args)) as gallery:
        removed = gallery.remove(args.name)
        log.info('%s: faces removed: %d; left: %d', args.gallery, removed, len(gallery))
        return {'faces': len(gallery), 'removed': removed}


def _list(args: argparse.Namespace) -> dict:
    with _opened(args, _key(args)) as gallery:
        known, over = gallery.identities(), gallery.expired()
        _say_expired(gallery)
    console.table(f'{args.gallery}', ('name', 'faces'), known.items())
    return {'faces': sum(known.values()), 'identities': known, 'expired': over}


def _show(args: argparse.Namespace) -> dict:
    if args.export:
        check_export_path(args.export)
    with _opened(args, _key(args)) as gallery:
        about = about_person(gallery, args.name)
        if args.export:
            export_person(gallery, args.name, args.export)
    person, faces = about['person'], about['faces']
    rows = [(key, person[key]) for key in ('basis', 'purpose', 'expires', 'recorded')]
    rows.append(('number in the log', person['number']))
    rows = [(key, text or 'not known') for key, text in rows]
    console.table(person['name'], ('', ''), rows, prose=True)
    console.table(
        f'{len(faces)} faces',
        ('from', 'enrolled', 'picture', 'damaged'),
        [
            (
                face['source'],
                face['enrolled'],
                'kept' if face['crop'] else 'not kept',
                ', '.join(face['damaged']) or 'nothing',
            )
            for face in faces
        ],
    )
    return {**about, 'export': args.export and str(args.export)}


def _expire(args: argparse.Namespace) -> dict:
    with _opened(args, _key(args)) as gallery:
        gone = gallery.expire()
        return {'faces': len(gallery), 'expired': gone}


def _rekey(args: argparse.Namespace) -> dict:
    key = key_of(args, args.gallery, True, NEW)
    if key is None:
        raise InputError(
            'give --new-key-file or --new-passphrase: by what it is sealed from now on'
        )
    with _opened(args, _key(args)) as gallery:
        gallery.rekey(key)
        return {'faces': len(gallery), 'sealed_by': key.derivation}


def _make_key(args: argparse.Namespace) -> dict:
    make_key(args.key_file)
    log.info('keep a copy of %s elsewhere: without it the gallery cannot be read', args.key_file)
    return {'key_file': str(args.key_file)}


_ACTIONS = {
    'enrol': _enrol,
    'identify': _identify,
    'remove': _remove,
    'list': _list,
    'show': _show,
    'expire': _expire,
    'rekey': _rekey,
    'make-key': _make_key,
}


def run(args: argparse.Namespace) -> dict:
    place = {'gallery': str(args.gallery)} if 'gallery' in args else {}
    return {**place, **_ACTIONS[args.action](args)}


main = console.command('gallery', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
