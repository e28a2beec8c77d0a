"""What the web service does, without HTTP: compare, enrol, identify, embed, remove and undo."""

import asyncio
import base64
import functools
import secrets
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Callable, NamedTuple, Optional, TypeVar

import numpy as np

from ..common.data.image import encode_jpeg
from ..common.engine.model_name import shown_name
from .decide import (
    Decision,
    check_fpir,
    decide_for_gallery,
    default_far,
    stored_thresholds,
    usual_rates,
)
from .decision_notes import note_comparison, note_identification
from .embedder import FaceEmbedder
from .enrolment import enrolment_doubts
from .faces import Face, cosine_of
from .fair_queue import Client
from .gallery import Gallery, KeptFace
from .gallery_records import Person, checked_name, picture_digest
from .picture_pool import BadPicture, PicturePool, Seen
from .picture_worker import NO_PICTURE
from .tail import GalleryDecision, fpir_of

Result = TypeVar('Result')

TOP = 5
FPIRS = (0.1, 0.01, 0.001)  # that the page offers
MAX_FACES = 16  # of a picture that are embedded in one request
MAX_REQUEST = 40 << 20  # bytes: two photographs
UNDO_SECONDS = 30
MATCH, NOBODY, NO_DECISION = 'match', 'nobody', 'no decision'
ALL = 'all'
_DIGITS = 9  # of the number of a face
NOBODY_ELSE = Client()


class RequestError(Exception):
    """What a request gets in place of an answer: a message and an HTTP status."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


class DoubtfulEnrolment(RequestError):
    """A face that is enrolled only if the request insists."""

    def __init__(self, doubts: Sequence[str]):
        super().__init__(f'not enrolled: {"; ".join(doubts)}', 409)


class Answer(NamedTuple):
    """A cosine and what follows from it; `same` is None without a threshold."""

    cosine: float
    same: Optional[bool]


class _Removed(NamedTuple):
    """Somebody who can still be brought back."""

    person: Person
    faces: list[KeptFace]  # those whose embedding is whole; none where it is not known whose


class Service:
    """What the API does. For one event loop; the gallery has a thread of its own.

    Parameters
    ----------
    embedder : its export's thresholds decide; pictures are embedded by `pool`
    gallery : of the same model
    pool : finds the faces of pictures
    candidates : people of a gallery to name below the threshold, or where there is none; names of
        people whom the photograph does not show
    keep_crops : keep the aligned crop of who is enrolled, to show it

    Methods take encoded pictures, `client`, whose requests have their turn with those of others,
    and as `far` one of `thresholds`, or '' for that of `info`. They raise RequestError, and what
    Gallery and PicturePool raise.
    """

    def __init__(
        self,
        embedder: FaceEmbedder,
        gallery: Gallery,
        pool: PicturePool,
        candidates: int = 0,
        keep_crops: bool = False,
    ):
        self._embedder = embedder
        self._gallery = gallery
        self._pool = pool
        self._candidates = candidates
        self._keep_crops = keep_crops
        self._thread = ThreadPoolExecutor(1)
        self._removed: dict[str, _Removed] = {}  # by what undoes it
        # it warns where the thresholds do not reach: once is enough
        self._decide = functools.lru_cache(64)(functools.partial(decide_for_gallery, embedder))
        self.thresholds = stored_thresholds(embedder)
        usual = usual_rates(embedder)
        self.far = default_far(self.thresholds, usual.far)
        self.fpir = usual.fpir

    def health(self) -> dict:
        """Whether pictures are looked at, and how many requests wait for it."""
        return {'workers': len(self._pool.pids), 'waiting': self._pool.waiting}

    async def info(self) -> dict:
        """What the page shows before anything is asked."""
        return {
            'model': shown_name(self._embedder.model),
            'backend': self._embedder.backend,
            'embedding_size': self._embedder.embedding_size,
            'thresholds': self.thresholds,
            'far': self.far,
            'fpirs': list(FPIRS) if self.thresholds else [],
            'fpir': self.fpir,
            'max_bytes': MAX_REQUEST,
            'candidates': self._candidates,
            'crops_kept': self._keep_crops,
            'identities': await self._in_thread(self._gallery.identities),
        }

    async def compare(
        self,
        first: bytes,
        second: bytes,
        far: str,
        which: tuple[str, str] = ('', ''),
        client: Client = NOBODY_ELSE,
    ) -> dict:
        """Cosine and decision for two photographs, with the crops that were compared.

        `which` is the number of a face of each, '' for the largest.
        """
        threshold = self._threshold(far)
        if ALL in which:
            raise RequestError(f'face {ALL}: expected the number of a face of each photograph')
        pictures = {'first photograph': first, 'second photograph': second}
        seen = await self._look(pictures, client, list(map(_wanted, which)))
        faces = [_chosen(*each)[0] for each in zip(seen, which, pictures)]
        cosine = cosine_of(*faces)
        answer = self._answer(cosine, threshold)
        decision = Decision(threshold, float(far or self.far) if self.thresholds else None)
        note = (self._gallery.log_path, 'serve compare', self._embedder.model)
        await self._in_thread(lambda: note_comparison(*note, decision, answer.same))
        return {
            'pictures': list(map(_picture, seen)),
            'faces': list(map(_shown, seen, faces)),
            'threshold': threshold,
            **answer._asdict(),
        }

    async def embed(self, photograph: bytes, which: str = '', client: Client = NOBODY_ELSE) -> dict:
        """Embeddings of the faces of a photograph."""
        (seen,) = await self._look({'photograph': photograph}, client, [_wanted(which)])
        return {
            **_picture(seen),
            'faces': [
                {**_shown(seen, face), 'embedding': face.embedding.astype(float).tolist()}
                for face in _chosen(seen, which)
            ],
        }

    async def enrol(
        self, name: str, photograph: bytes, force: bool = False, client: Client = NOBODY_ELSE
    ) -> dict:
        """Add the one face of a photograph to the gallery.

        A poor picture, and one of somebody who seems to be there under another name, is a
        DoubtfulEnrolment unless `force` is true.
        """
        name = checked_name(name)
        await self._in_thread(lambda: self._gallery.check_enrol(name))  # before the costly look
        (seen,) = await self._look({'photograph': photograph}, client)
        face = seen.faces[0]
        if len(seen.boxes) > 1:  # however small: nobody looks at them
            raise RequestError(
                f'the photograph shows {len(seen.boxes)} faces; enrol from one of a single person',
                422,
            )
        doubts, identities = await self._in_thread(lambda: self._add(name, face, force))
        return {
            'name': name,
            'face': _shown(seen, face),
            'doubts': doubts,
            'identities': identities,
        }

    async def identify(
        self,
        photograph: bytes,
        far: str = '',
        fpir: str = '',
        which: str = '',
        client: Client = NOBODY_ELSE,
    ) -> dict:
        """Who of the gallery is on a photograph.

        `fpir` is the share of strangers who may be named, by default that of `info`; `far`, in its
        place, the rate of one comparison. `which` is '' for the largest face, the number of another
        one, or 'all'.
        """
        decision = await self._in_thread(lambda: self._gallery_decision(far, fpir))
        (seen,) = await self._look({'photograph': photograph}, client, [_wanted(which)])
        faces = _chosen(seen, which)
        matches = await self._in_thread(
            lambda: [self._matches(face.embedding, decision) for face in faces]
        )
        people = [
            {**_shown(seen, face), 'verdict': _verdict(found, decision), 'matches': found}
            for face, found in zip(faces, matches)
        ]
        return {**_picture(seen), **decision.as_dict(), 'faces': people}

    async def remove(self, name: str) -> dict:
        """Forget a person; `undo` brings it back for a while."""

        def forget() -> tuple[_Removed, dict[str, int]]:
            number, person, faces = self._gallery.person(name)
            self._gallery.remove(name)
            is_known = person.name != number  # else the record that had the name is damaged
            whole = [face for face in faces if is_known and face.embedding is not None]
            return _Removed(person, whole), self._gallery.identities()

        removed, identities = await self._in_thread(forget)
        ticket = secrets.token_urlsafe(16)
        self._removed[ticket] = removed
        asyncio.get_running_loop().call_later(UNDO_SECONDS, self._removed.pop, ticket, None)
        return {'identities': identities, 'undo': ticket, 'undo_seconds': UNDO_SECONDS}

    async def undo(self, ticket: str) -> dict:
        """Enrol anew who was removed, with the words of `remove`; the gallery has forgotten, and
        until then this process alone knows. Damaged embeddings do not come back.
        """

        def enrol() -> tuple[str, dict[str, int]]:
            # here, where one comes after the other: of two requests one brings somebody back
            if ticket not in self._removed:
                raise RequestError('what is to be undone is not known, or no longer', 404)
            person, faces = self._removed[ticket]
            if not faces:
                raise RequestError(f'{person.name!r} was damaged; enrol this person anew', 404)
            self._gallery.enrol(
                [person.name] * len(faces),
                np.stack([face.embedding for face in faces]),
                [face.record.source for face in faces],
                [face.crop for face in faces],
                [face.record.picture for face in faces],
                person.terms,
                today=date.min,  # also who is to be recognised no longer comes back as they were
            )
            self._removed.pop(ticket, None)
            return person.name, self._gallery.identities()

        name, identities = await self._in_thread(enrol)
        return {'name': name, 'identities': identities}

    async def thumbnail(self, name: str) -> bytes:
        """The crop of a person as JPEG."""
        crop = await self._in_thread(lambda: self._gallery.crop(checked_name(name)))
        if crop is None:
            raise RequestError(f'no picture of {name!r} is kept', 404)
        return crop

    def close(self) -> None:
        self._thread.shutdown()

    async def _in_thread(self, function: Callable[[], Result]) -> Result:
        """SQLite and large galleries must not stop the other requests."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def _look(
        self, pictures: dict[str, bytes], client: Client, which: Sequence[slice] = ()
    ) -> list[Seen]:
        for what, content in pictures.items():
            if not content:
                raise RequestError(f'the {what} is missing; choose a picture file')
        try:
            return await self._pool.look(list(pictures.values()), client, which)
        except BadPicture as error:
            what = list(pictures)[error.index]
            status = 400 if error.kind == NO_PICTURE else 422
            raise RequestError(f'{what}: {error}', status) from None

    def _add(self, name: str, face: Face, force: bool) -> tuple[list[str], dict[str, int]]:
        """Enrol a face; (doubts, identities afterwards)."""
        decision = self._decide(len(self._gallery), self.fpir)
        doubts = enrolment_doubts(self._gallery, name, face, decision and decision.threshold)
        if doubts and not force:
            raise DoubtfulEnrolment(doubts)
        crop = encode_jpeg(face.crop)
        self._gallery.enrol(
            [name],
            face.embedding[None],
            ['web page'],
            [crop] if self._keep_crops else None,
            [picture_digest(crop)],
        )
        return doubts, self._gallery.identities()

    def _matches(self, embedding: np.ndarray, decision: GalleryDecision) -> list[dict]:
        """People who are above the threshold, and as many others as the operator wants."""
        matches = self._gallery.identify(embedding, max(TOP, self._candidates))
        note_identification(self._gallery, 'serve identify', decision, matches)
        found, others = [], 0
        for match in matches:
            answer = self._answer(match.cosine, decision.threshold)
            others += not answer.same
            if answer.same or others <= self._candidates:
                crop = self._gallery.crop(match.identity)
                shown = crop and _encoded_url(crop)
                found.append({'name': match.identity, 'crop': shown, **answer._asdict()})
        return found

    def _threshold(self, far: str) -> Optional[float]:
        if not self.thresholds:
            return None
        far = far or self.far
        if far not in self.thresholds:
            raise RequestError(f'far {far!r}: choose one of {", ".join(self.thresholds)}')
        return self.thresholds[far]

    def _gallery_decision(self, far: str, fpir: str) -> GalleryDecision:
        """The threshold of an identification, and the rates that belong to it."""
        faces = len(self._gallery)
        if far:
            threshold = self._threshold(far)
            known = threshold is not None
            share = fpir_of(float(far), max(faces, 1)) if known else None
            return GalleryDecision(threshold, share, faces, float(far) if known else None)
        try:
            wanted = check_fpir(float(fpir) if fpir else None, self.fpir)
        except ValueError:
            raise RequestError(f'fpir {fpir!r}: expected a number between 0 and 1') from None
        decision = self._decide(faces, wanted) or GalleryDecision(None, None, faces, None)
        return decision._replace(faces=faces)  # an empty one is decided for as if it had one face

    def _answer(self, cosine: float, threshold: Optional[float]) -> Answer:
        return Answer(cosine, None if threshold is None else cosine > threshold)


def _verdict(matches: list[dict], decision: GalleryDecision) -> dict:
    """What is to be said first: `decision`, and the name of the best match."""
    if decision.threshold is None:
        return {'decision': NO_DECISION, 'name': None}
    best = matches[0] if matches and matches[0]['same'] else None
    return {'decision': MATCH if best else NOBODY, 'name': best and best['name']}


def _wanted(which: str) -> slice:
    """The faces that `which` means; see `Service.identify`."""
    if which == ALL:
        return slice(0, MAX_FACES)
    if (which and not which.isdecimal()) or len(which) > _DIGITS:
        raise RequestError(f'face {which!r}: expected the number of a face from 0 on, or {ALL}')
    return slice(int(which or 0), int(which or 0) + 1)


def _chosen(seen: Seen, which: str, what: str = 'photograph') -> list[Face]:
    if not seen.faces:
        raise RequestError(f'face {which}: the {what} has {len(seen.boxes)}, from 0 on')
    return seen.faces


def _picture(seen: Seen) -> dict:
    """Where all faces are, in pixels of the picture as browsers show it."""
    return {
        'width': seen.width,
        'height': seen.height,
        'found': [
            {'box': box, 'score': score, 'index': index}
            for index, (box, score) in enumerate(zip(seen.boxes, seen.scores))
        ],
    }


def _shown(seen: Seen, face: Face) -> dict:
    return {
        'index': face.index,
        'box': seen.boxes[face.index],
        'crop': _encoded_url(encode_jpeg(face.crop)),
        **face.summary(),
        'count': len(seen.boxes),
    }


def _encoded_url(jpeg: bytes) -> str:
    return f'data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}'
