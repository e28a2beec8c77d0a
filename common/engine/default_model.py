"""The model that comes with the project, for who has none: `--model default`, or none at all.

It lies in `default/`: a slim checkpoint whose numbers are stored in float16, so that every engine
runs it, MXNet alone included; export.json with what was measured; MODEL_CARD.md. It has learned
from drawn faces alone (docs/results.md tells how), so that anybody may use it and pass it on.
"""

from .export_record import read_record
from .model_name import DEFAULT, resolve


def is_default(model: str) -> bool:
    """Whether the text of a `--model` option names this model."""
    return resolve(model) == resolve(DEFAULT)


def introduction() -> str:
    """One line: what it is, how often it is right, what it is for."""
    accuracy = read_record(resolve(DEFAULT))['verification'][0]['accuracy']
    return (
        f'the default model is for trying out: it has seen drawn faces alone and decides '
        f'{100 * accuracy:.1f} % of the LFW DevTest pairs rightly (MobileFaceNet y1, which has '
        f'seen photographs: 98.9 %); --model names another'
    )
