"""What is kept of a run's test makes the same comparisons as the test itself."""

import base64
import json

import numpy as np
import pytest
from vargfacenet.common.errors import InputError
from vargfacenet.common.typed import from_values
from vargfacenet.eval.report.statistics import REPLICATES
from vargfacenet.recognition.study.compare import Values, estimate, paired
from vargfacenet.recognition.study.measured import KeptTest, Measured, keep, restore


def made(rng, value):
    """A run with a measure that people make uncertain, one that is a constant, and one with NaN."""
    replicates = np.clip(value + 0.02 * rng.randn(REPLICATES), 0, 1)
    rare = replicates.copy()
    rare[::7] = np.nan
    return Measured(
        {
            'set TAR@0.001': Values(value, replicates),
            'light': Values(0.25, np.full(REPLICATES, 0.25)),
            'set TAR@0.0001': Values(value, rare),
        },
        {'set TAR@0.001': 963, 'light': 0, 'set TAR@0.0001': 963},
        {'pairs': rng.rand(1001) < value},
        {'set': 'a' * 64, 'pairs': 'b' * 64},
    )


def kept(run):
    """(figures, what results.json holds of a run), through the text of a file."""
    content = json.loads(json.dumps(keep(run, {'a-s0': ('train', '--lr', '1')}, {}, 'a CPU')))
    measures = {name: values.value for name, values in run.values.items()}
    return measures, from_values(KeptTest, content, 'x')


def test_intervals_and_decisions_are_the_same(rng):
    first, second = made(rng, 0.5), made(rng, 0.53)
    again = [restore(*kept(run), 'x') for run in (first, second)]
    for name in first.values:
        whole, back = (
            estimate([paired({0: a.values[name]}, {0: b.values[name]})[0]])
            for a, b in ((first, second), again)
        )
        np.testing.assert_allclose(back[:5], whole[:5], atol=2e-5)
    for run, same in zip((first, second), again):
        np.testing.assert_array_equal(run.correct['pairs'], same.correct['pairs'])
        assert (run.people, run.digests) == (same.people, same.digests)
        for name, (value, replicates) in run.values.items():
            assert same.values[name].value == value
            np.testing.assert_allclose(same.values[name].replicates, replicates, atol=1e-5)


def test_it_is_small(rng):
    content = kept(made(rng, 0.5))[1]
    assert content.kept['light'].replicates == ''
    assert content.machine == 'a CPU' and content.made_by == {'a-s0': ('train', '--lr', '1')}
    assert len(base64.b64decode(content.kept['set TAR@0.001'].replicates)) == 2 * REPLICATES
    assert len(json.dumps(keep(made(rng, 0.5), {}, {}, ''))) < 9000


def test_what_was_cut_is_told(rng):
    measures, content = kept(made(rng, 0.5))
    with pytest.raises(InputError, match=r"x: the test that was kept is damaged \('light'\)"):
        restore({name: 1.0 for name in measures if name != 'light'}, content, 'x')
