"""Enrol faces in a gallery on disk, identify photographs with it, remove people from it.

The largest face of a photograph counts; a picture of 112x112 is taken as it is, for an aligned
crop. A gallery belongs to the model it was made with.
"""

import argparse
import contextlib
from pathlib import Path
from typing import Optional

import numpy as np

from ..common import console
from ..common.data.image import encode_jpeg
from ..common.engine.options import add_options
from ..common.errors import InputError
from .decide import add_threshold_options, choose_threshold, embedder_from, face_of
from .embedder import FaceEmbedder
from .gallery import CODEC_HELP, Gallery, check_exists, checked_name


def build_parser(parser: console.Parser) -> None:
    actions = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    for action, text in (
        ('enrol', 'add the faces of photographs of a person'),
        ('identify', 'who is in a photograph?'),
        ('remove', 'forget a person'),
        ('list', 'who is in the gallery?'),
    ):
        part = actions.add_parser(action, help=text)
        part.add_argument('--gallery', required=True, type=Path, metavar='DIR', help='its folder')
        if action in ('enrol', 'identify'):
            add_options(part)
        if action in ('enrol', 'remove'):
            part.add_argument('name', metavar='NAME', help='of the person')
        if action == 'enrol':
            part.add_argument('--codec', default='', metavar='NAME', help=CODEC_HELP)
            part.add_argument('photographs', nargs='+', metavar='PHOTO', help='of the person')
        if action == 'identify':
            part.add_argument('photograph', metavar='PHOTO')
            part.add_argument('--top', type=int, default=5, help='how many people to list')
            add_threshold_options(
                part,
                of_what=' of one comparison (among N people about N times as likely)',
            )


def _opened(
    args: argparse.Namespace, embedder: Optional[FaceEmbedder] = None, codec: str = ''
) -> contextlib.closing[Gallery]:
    model = (embedder.embedding_size, embedder.fingerprint) if embedder else (None, None)
    return contextlib.closing(Gallery(args.gallery, *model, codec))


def _enrol(args: argparse.Namespace) -> dict:
    checked_name(args.name)
    embedder = embedder_from(args)
    faces = [face_of(embedder, path) for path in args.photographs]
    # opened last: a new gallery is made only when there is something to put into it
    with _opened(args, embedder, args.codec) as gallery:
        gallery.enrol(
            [args.name] * len(faces),
            np.stack([face.embedding for face in faces]),
            args.photographs,
            [encode_jpeg(face.crop) for face in faces],
        )
        return {'faces': len(gallery), 'enrolled': len(faces)}


def _identify(args: argparse.Namespace) -> dict:
    check_exists(args.gallery)
    if not 1 <= args.top <= 1000:
        raise InputError(f'--top {args.top}: must be 1..1000')
    embedder = embedder_from(args)
    threshold = choose_threshold(args, embedder).threshold
    with _opened(args, embedder) as gallery:
        face = face_of(embedder, args.photograph)
        matches = gallery.identify(face.embedding, args.top)
        faces = len(gallery)
    words = {True: 'match', False: 'no match', None: ''}
    same = [None if threshold is None else match.cosine > threshold for match in matches]
    console.table(
        f'{args.photograph} among {faces} faces',
        ('name', 'cosine', '' if threshold is None else f'above {threshold:.4f}?'),
        [
            (match.identity, f'{match.cosine:.4f}', words[is_same])
            for match, is_same in zip(matches, same)
        ],
    )
    return {
        'faces': faces,
        'threshold': threshold,
        'matches': [
            {'name': match.identity, 'cosine': match.cosine, 'same': is_same}
            for match, is_same in zip(matches, same)
        ],
    }


def _remove(args: argparse.Namespace) -> dict:
    with _opened(args) as gallery:
        removed = gallery.remove(args.name)
        return {'faces': len(gallery), 'removed': removed}


def _list(args: argparse.Namespace) -> dict:
    with _opened(args) as gallery:
        known = gallery.identities()
    console.table(f'{args.gallery}', ('name', 'faces'), known.items())
    return {'faces': sum(known.values()), 'identities': known}


_ACTIONS = {'enrol': _enrol, 'identify': _identify, 'remove': _remove, 'list': _list}


def run(args: argparse.Namespace) -> dict:
    return {'gallery': str(args.gallery), **_ACTIONS[args.action](args)}


main = console.command('gallery', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
