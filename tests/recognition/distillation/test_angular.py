"""Angular distillation against float64 loops, forward and gradient."""

import numpy as np
import pytest
import reference
from gradients import evaluate, relative_error
from vargfacenet.common.backend import mx
from vargfacenet.common.errors import InputError
from vargfacenet.recognition.distillation.angular import angular_distance, angular_distillation

# a loss must not depend on who adds which rows
pytestmark = pytest.mark.usefixtures('two_engine_threads')


@pytest.mark.parametrize('form', ['l2', 'cosine'])
def test_equals_the_loop(form, rng):
    student, teacher = 5 * rng.randn(6, 9), rng.randn(6, 9)
    symbol = angular_distance(mx.sym.Variable('s'), mx.sym.Variable('t'), form)
    ours, gradients = evaluate(symbol, s=student, t=teacher)
    assert relative_error(ours, reference.angular_distance(student, teacher, form)) < 1e-5
    expected = reference.gradient(
        lambda values: sum(reference.angular_distance(values, teacher, form)), student
    )
    assert relative_error(gradients['s'], expected) < 1e-4
    assert not gradients['t'].any()  # the teacher gets no gradient
    mean, _ = evaluate(
        angular_distillation(mx.sym.Variable('s'), mx.sym.Variable('t'), form),
        s=student,
        t=teacher,
    )
    assert mean.item() == pytest.approx(ours.mean(), rel=1e-6)


def test_the_two_forms_agree(rng):
    """||a - b||^2 = 2 (1 - cos) for unit vectors, so Eq. 4 is (Eq. 5 / 2)^2 row by row."""
    student, teacher = rng.randn(6, 9), rng.randn(6, 9)
    l2, cosine = (
        evaluate(
            angular_distance(mx.sym.Variable('s'), mx.sym.Variable('t'), form),
            s=student,
            t=teacher,
        )[0]
        for form in ('l2', 'cosine')
    )
    np.testing.assert_allclose(cosine, (l2 / 2) ** 2, rtol=1e-5)


def test_another_form_is_refused():
    with pytest.raises(InputError, match=r'Eq\. 4'):
        angular_distance(mx.sym.Variable('s'), mx.sym.Variable('t'), 'l1')
