"""The OpenAPI document of the web service: what its requests take and its answers hold."""

from .service import ALL, MATCH, MAX_FACES, MAX_REQUEST, NO_DECISION, NOBODY

VERSION = '1.0.0'

_TEXT = {'type': 'string'}
_NUMBER = {'type': 'number'}
_COUNT = {'type': 'integer', 'minimum': 0}
_SHARE = {'type': 'number', 'minimum': 0, 'maximum': 1}
_COSINE = {'type': 'number', 'minimum': -1.00001, 'maximum': 1.00001}
_YES_OR_NO = {'type': 'boolean'}
_PICTURE = {'type': 'string', 'format': 'binary', 'description': 'a picture file'}
_CROP = {'type': 'string', 'pattern': '^data:image/jpeg;base64,', 'description': '112x112'}
_BOX = {
    'type': 'array',
    'items': _NUMBER,
    'minItems': 4,
    'maxItems': 4,
    'description': 'x, y, width, height in pixels of the picture, as browsers show it',
}
_FAR = {'type': 'string', 'description': "one of info's `thresholds`; by default info's `far`"}
_FPIR = {
    'type': 'string',
    'description': "share of strangers who may be named, by default info's `fpir`",
}
_WHICH = {
    'type': 'string',
    'pattern': f'^([0-9]*|{ALL})$',
    'description': f'number of a face, 0 for the largest, or {ALL} ({MAX_FACES} at most); by '
    f'default the largest',
}


_ONE = {
    'type': 'string',
    'pattern': '^[0-9]*$',
    'description': 'number of a face, 0 for the largest, which is the default',
}


def _or_null(schema: dict) -> dict:
    return {'anyOf': [schema, {'type': 'null'}]}


def _list(schema: dict) -> dict:
    return {'type': 'array', 'items': schema}


def _object(**properties: dict) -> dict:
    """A schema whose properties are all there, and no others."""
    return {
        'type': 'object',
        'properties': properties,
        'required': list(properties),
        'additionalProperties': False,
    }


def _ref(name: str) -> dict:
    return {'$ref': f'#/components/schemas/{name}'}


def _with(name: str, **properties: dict) -> dict:
    """The schema of that name with more properties."""
    return _object(**{**_SCHEMAS[name]['properties'], **properties})


_SCHEMAS = {
    'Error': {
        'type': 'object',
        'properties': {
            'error': {'type': 'string', 'description': 'what is wrong, and what to do'},
            'doubtful': {'const': True, 'description': 'the same with `force` is done'},
        },
        'required': ['error'],
        'additionalProperties': False,
    },
    'Identities': {
        'type': 'object',
        'additionalProperties': {'type': 'integer', 'minimum': 1},
        'description': 'name: number of faces, in the order of names',
    },
    'Face': _object(
        index={**_COUNT, 'description': 'among the faces of the picture, 0 for the largest'},
        box=_BOX,
        crop=_CROP,
        count={**_COUNT, 'description': 'faces in the picture'},
        detected={**_YES_OR_NO, 'description': 'false for an aligned crop, taken as it is'},
        turned={'enum': [0, 90, 180, 270], 'description': 'degrees, to find it'},
        quality=_SHARE,
        reasons={**_list(_TEXT), 'description': 'what lowers the quality, the worst first'},
    ),
    'Found': _object(index=_COUNT, box=_BOX, score=_SHARE),
    'Match': _object(
        name=_TEXT,
        crop={**_or_null(_CROP), 'description': 'null where none is kept'},
        cosine=_COSINE,
        same={**_or_null(_YES_OR_NO), 'description': 'above the threshold'},
    ),
    'Verdict': _object(
        decision={
            'enum': [MATCH, NOBODY, NO_DECISION],
            'description': f'{NOBODY}: nobody of the gallery; {NO_DECISION}: the model has no '
            f'thresholds',
        },
        name={**_or_null(_TEXT), 'description': 'whom it shows, if that is decided'},
    ),
    'Health': _object(status=_TEXT, workers=_COUNT, waiting=_COUNT),
}
_SCHEMAS['EmbeddedFace'] = _with(
    'Face', embedding={**_list(_NUMBER), 'description': 'of unit length'}
)
_SCHEMAS['IdentifiedFace'] = _with(
    'Face',
    verdict=_ref('Verdict'),
    matches={
        **_list(_ref('Match')),
        'description': 'people above the threshold, best first, and as many others as the operator '
        'wants to be shown (`candidates` of info)',
    },
)
_PLACES = {'width': _COUNT, 'height': _COUNT, 'found': _list(_ref('Found'))}
_APPLIED = {
    'threshold': {**_or_null(_COSINE), 'description': 'null for a model without thresholds'},
    'fpir': {**_or_null(_SHARE), 'description': 'share of strangers named at this threshold'},
    'gallery_faces': _COUNT,
    'far': {**_or_null(_SHARE), 'description': 'of one comparison'},
}

_ERRORS = {
    '400': 'no picture, or a field that is missing or wrong',
    '401': 'the token is missing or wrong',
    '403': 'from a page of another site, or to a name that the server does not have',
    '404': 'no such person, picture or address',
    '405': 'not with this method',
    '409': 'not enrolled without `force`; `doubtful` is true',
    '413': f'more than {MAX_REQUEST >> 20} MB',
    '422': 'no face, several where one is to be enrolled, or a picture that takes too much memory',
    '500': 'a fault of the server or its disk, which its log tells',
    '503': 'too many requests, or another process writes to the gallery; Retry-After says when',
}
_ALWAYS = ('401', '403', '405', '500', '503')


def _json(schema: dict) -> dict:
    return {'application/json': {'schema': schema}}


def _operation(
    name: str, summary: str, answer: dict, errors: tuple[str, ...] = (), **more: dict
) -> dict:
    responses = {'200': {'description': summary, 'content': answer}}
    for status in sorted({*errors, *_ALWAYS}):
        responses[status] = {'$ref': f'#/components/responses/{status}'}
    return {'operationId': name, 'summary': summary, 'responses': responses, **more}


def _form(required: tuple[str, ...], **fields: dict) -> dict:
    schema = {'type': 'object', 'properties': fields, 'required': list(required)}
    return {'required': True, 'content': {'multipart/form-data': {'schema': schema}}}


def _name_in_query() -> list[dict]:
    return [{'name': 'name', 'in': 'query', 'required': True, 'schema': _TEXT}]


_OF_PICTURES = ('400', '413', '422')  # how a request with pictures can fail


def _paths_of_the_server() -> dict:
    info = _object(
        model=_TEXT,
        backend=_TEXT,
        embedding_size=_COUNT,
        thresholds={'type': 'object', 'additionalProperties': _COSINE},
        far=_or_null(_TEXT),
        fpirs=_list(_SHARE),
        fpir=_SHARE,
        max_bytes=_COUNT,
        candidates=_COUNT,
        crops_kept=_YES_OR_NO,
        identities=_ref('Identities'),
    )
    return {
        '/healthz': {
            'get': {
                'operationId': 'health',
                'summary': 'Whether pictures are looked at; needs no token',
                'security': [{}],
                'responses': {
                    '200': {'description': 'yes', 'content': _json(_ref('Health'))},
                    '503': {'description': 'no', 'content': _json(_ref('Health'))},
                },
            }
        },
        '/api/info': {
            'get': _operation('info', 'Model, thresholds, limits and who is enrolled', _json(info))
        },
    }


def _paths_of_photographs() -> dict:
    compared = _object(
        pictures={**_list(_object(**_PLACES)), 'minItems': 2, 'maxItems': 2},
        faces={**_list(_ref('Face')), 'minItems': 2, 'maxItems': 2},
        threshold=_or_null(_COSINE),
        cosine=_COSINE,
        same=_or_null(_YES_OR_NO),
    )
    identified = _object(**_PLACES, **_APPLIED, faces=_list(_ref('IdentifiedFace')))
    embedded = _object(**_PLACES, faces=_list(_ref('EmbeddedFace')))
    return {
        '/api/compare': {
            'post': _operation(
                'compare',
                'Cosine of two faces of two photographs, and whether it is one person',
                _json(compared),
                _OF_PICTURES,
                requestBody=_form(
                    ('first', 'second'),
                    first=_PICTURE,
                    second=_PICTURE,
                    first_face=_ONE,
                    second_face=_ONE,
                    far=_FAR,
                ),
            )
        },
        '/api/identify': {
            'post': _operation(
                'identify',
                'Who of the gallery is on a photograph',
                _json(identified),
                _OF_PICTURES,
                requestBody=_form(
                    ('photograph',), photograph=_PICTURE, far=_FAR, fpir=_FPIR, face=_WHICH
                ),
            )
        },
        '/api/embed': {
            'post': _operation(
                'embed',
                'Embeddings of the faces of a photograph',
                _json(embedded),
                _OF_PICTURES,
                requestBody=_form(('photograph',), photograph=_PICTURE, face=_WHICH),
            )
        },
    }


def _paths_of_people() -> dict:
    enrolled = _object(
        name=_TEXT, face=_ref('Face'), doubts=_list(_TEXT), identities=_ref('Identities')
    )
    removed = _object(
        identities=_ref('Identities'),
        undo={**_TEXT, 'description': 'takes it back for `undo_seconds`'},
        undo_seconds=_COUNT,
    )
    undone = _object(name=_TEXT, identities=_ref('Identities'))
    return {
        '/api/enrol': {
            'post': _operation(
                'enrol',
                'Add the one face of a photograph to the gallery',
                _json(enrolled),
                (*_OF_PICTURES, '409'),
                requestBody=_form(
                    ('name', 'photograph'),
                    name=_TEXT,
                    photograph=_PICTURE,
                    force={'enum': ['', '0', '1'], 'description': '1: in spite of doubts'},
                ),
            )
        },
        '/api/identities': {
            'delete': _operation(
                'remove',
                'Forget a person',
                _json(removed),
                ('400', '404'),
                parameters=_name_in_query(),
            )
        },
        '/api/undo': {
            'post': _operation(
                'undo',
                'Enrol anew who has just been removed',
                _json(undone),
                ('400', '404', '413'),
                requestBody=_form(('undo',), undo=_TEXT),
            )
        },
        '/api/thumbnail': {
            'get': _operation(
                'thumbnail',
                'The crop of a person, where crops are kept',
                {'image/jpeg': {'schema': {'type': 'string', 'format': 'binary'}}},
                ('400', '404'),
                parameters=_name_in_query(),
            )
        },
    }


def document() -> dict:
    """The OpenAPI 3.1 document."""
    error = _json(_ref('Error'))
    retry = {'Retry-After': {'schema': _COUNT, 'description': 'seconds'}}
    return {
        'openapi': '3.1.0',
        'info': {
            'title': 'VarGFaceNet',
            'version': VERSION,
            'description': 'Compare, identify and embed faces. Every error of the API is a JSON '
            'object with `error`; what is no HTTP gets status 400 without a body.',
        },
        'security': [{}, {'bearer': []}, {'basic': []}],
        'paths': {**_paths_of_the_server(), **_paths_of_photographs(), **_paths_of_people()},
        'components': {
            'schemas': _SCHEMAS,
            'responses': {
                status: {
                    'description': text,
                    'content': error,
                    **({'headers': retry} if status == '503' else {}),
                }
                for status, text in _ERRORS.items()
            },
            'securitySchemes': {
                'bearer': {'type': 'http', 'scheme': 'bearer', 'description': 'the token'},
                'basic': {
                    'type': 'http',
                    'scheme': 'basic',
                    'description': 'the token as the password of whatever user, for browsers',
                },
            },
        },
    }
