"""Enrol faces in a gallery on disk, identify photographs with it, remove people from it.

The largest face of a photograph counts; a picture of 112x112 is taken as it is, for an aligned
crop. A gallery belongs to the model it was made with.
"""

import argparse
import functools
from pathlib import Path

import numpy as np

from ..common import console
from ..common.errors import InputError
from ..common.image import encode_jpeg
from . import embedder as embedders
from .compare import DEFAULT_FAR, choose_threshold, face_of
from .embedder import FaceEmbedder
from .gallery import Gallery, check_exists


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
        if action in _EMBEDS:
            embedders.add_options(part)
        if action in ('enrol', 'remove'):
            part.add_argument('name', metavar='NAME', help='of the person')
        if action == 'enrol':
            part.add_argument('photographs', nargs='+', metavar='PHOTO', help='of the person')
        if action == 'identify':
            part.add_argument('photograph', metavar='PHOTO')
            part.add_argument('--top', type=int, default=5, help='how many people to list')
            part.add_argument('--far', type=float, default=DEFAULT_FAR, help='false-accept rate')
            part.add_argument('--pairs', metavar='BIN', help='verification .bin to measure it on')
            part.add_argument('--threshold', type=float, help='cosine above which it is a match')


def _enrol(args: argparse.Namespace, gallery: Gallery, embedder: FaceEmbedder) -> dict:
    faces = [face_of(embedder, path) for path in args.photographs]
    gallery.enrol(
        [args.name] * len(faces),
        np.stack([face.embedding for face in faces]),
        args.photographs,
        [encode_jpeg(face.crop) for face in faces],
    )
    return {'enrolled': len(faces)}


def _identify(args: argparse.Namespace, gallery: Gallery, embedder: FaceEmbedder) -> dict:
    if not 1 <= args.top <= 1000:
        raise InputError(f'--top {args.top}: must be 1..1000')
    threshold = choose_threshold(args, embedder)
    matches = gallery.identify(face_of(embedder, args.photograph).embedding, args.top)
    words = {True: 'match', False: 'no match', None: ''}
    same = [None if threshold is None else match.cosine > threshold for match in matches]
    console.table(
        f'{args.photograph} among {len(gallery)} faces',
        ('name', 'cosine', '' if threshold is None else f'above {threshold:.4f}?'),
        [(match.identity, f'{match.cosine:.4f}', words[is_same])
         for match, is_same in zip(matches, same)],
    )  # fmt: skip
    return {
        'threshold': threshold,
        'matches': [
            {'name': match.identity, 'cosine': match.cosine, 'same': is_same}
            for match, is_same in zip(matches, same)
        ],
    }


def _remove(args: argparse.Namespace, gallery: Gallery) -> dict:
    return {'removed': gallery.remove(args.name)}


def _list(args: argparse.Namespace, gallery: Gallery) -> dict:
    known = gallery.identities()
    console.table(f'{args.gallery}', ('name', 'faces'), known.items())
    return {'identities': known}


_EMBEDS = {'enrol': _enrol, 'identify': _identify}
_OTHERS = {'remove': _remove, 'list': _list}


def run(args: argparse.Namespace) -> dict:
    if args.action != 'enrol':
        check_exists(args.gallery)
    if args.action in _EMBEDS:
        embedder = embedders.from_options(args)
        gallery = Gallery(args.gallery, embedder.embedding_size, embedder.fingerprint)
        do = functools.partial(_EMBEDS[args.action], embedder=embedder)
    else:
        gallery = Gallery(args.gallery)
        do = _OTHERS[args.action]
    try:
        result = do(args, gallery)
        return {'gallery': str(args.gallery), 'faces': len(gallery), **result}
    finally:
        gallery.close()


main = console.command('gallery', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
