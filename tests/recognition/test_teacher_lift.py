"""A teacher of fewer values than the student: the map keeps what distillation looks at."""

from types import SimpleNamespace

import numpy as np
import pytest
from vargfacenet.common.engine import checkpoint
from vargfacenet.common.history import read_history
from vargfacenet.recognition.class_centres import class_centres
from vargfacenet.recognition.teacher import StoredTeacher
from vargfacenet.recognition.teacher_lift import lift_matrix, lifted


class Rows:
    """Random embeddings of 20 pictures and their mirror images."""

    def __init__(self, size):
        self.values = np.random.RandomState(1).randn(2, 20, size).astype('f')

    def read(self, positions, rows):
        return self.values[np.asarray(rows, int), positions]


@pytest.mark.parametrize(('size', 'wanted'), [(128, 512), (32, 48), (7, 8), (1, 3)])
def test_inner_products_are_kept_to_rounding(size, wanted, rng):
    matrix = lift_matrix(size, wanted)
    assert matrix.shape == (size, wanted) and matrix.dtype == np.float32
    exact = matrix.astype(np.float64)
    np.testing.assert_allclose(exact @ exact.T, np.eye(size), atol=1e-6)
    rows = rng.randn(50, size)
    products = rows @ rows.T
    after = (rows @ exact) @ (rows @ exact).T
    np.testing.assert_allclose(after, products, atol=2e-7 * size * np.abs(products).max())
    np.testing.assert_array_equal(lift_matrix(size, wanted), matrix)


def test_the_map_prefers_no_dimension():
    """Of the rows of a random rotation every entry has the mean square 1 / D'."""
    squares = lift_matrix(128, 512).astype(np.float64) ** 2
    assert squares.sum(axis=0).mean() == pytest.approx(128 / 512)
    # 512 sums of 128 such squares: a chi-square over its freedom, 8 deviations
    assert np.abs(squares.sum(axis=0) / 0.25 - 1).max() < 8 * np.sqrt(2 / 128)


def test_embeddings_and_class_centres_are_the_teachers(rng):
    rows, matrix = Rows(6), lift_matrix(6, 10).astype(np.float64)
    source = lifted(StoredTeacher(rows), 6, 10)
    positions, mirrored = rng.randint(0, 20, 8), rng.rand(8) < 0.5
    batch = SimpleNamespace(index=positions, rows=mirrored)
    expected = rows.read(positions, mirrored) @ matrix
    np.testing.assert_allclose(source.of_batch(batch).asnumpy(), expected, atol=1e-5)
    labels = np.arange(20) % 4
    centres = class_centres(rows, labels, 4) @ matrix
    np.testing.assert_allclose(class_centres(source.rows, labels, 4), centres, atol=1e-6)
    assert lifted(source, 10, 10) is source


def test_a_student_learns_from_a_smaller_teacher(small_options, run_command, tmp_path):
    """Of 32 values from one of 24, by L_s alone; the student ends in the space of the map."""
    random = np.random.RandomState(0)
    directions = np.repeat(random.randn(6, 24), 8, axis=0) + 0.1 * random.randn(48, 24)
    np.savez(tmp_path / 'teacher.npz', embeddings=directions, records=np.arange(48))
    words = ['--teacher', tmp_path / 'teacher.npz', '--generations', 1, '--steps', 30]
    words += ['--lr', 0.1, '--no-classification']
    code, _, errors = run_command('distill', *small_options, *words)
    assert code == 2 and 'emb_size=24, or --teacher-lift' in errors
    code, result, errors = run_command('distill', *small_options, *words, '--teacher-lift')
    assert code == 0, errors
    distances = [row['distill_loss'] for row in read_history(tmp_path / 'run-gen1')]
    assert distances[-1] < 0.6 * distances[0]
    assert checkpoint.load_embedding(result['model']).embedding_size == 32
    assert run_command('info', result['model'])[1]['training']['distill'] == 'angular'
    code, _, errors = run_command('distill', *small_options, *words, '--resume')
    assert code == 2 and 'another configuration: teacher_lift' in errors
    words += ['--teacher-lift', '--network-option', 'emb_size=24', '--name', 'other']
    code, _, errors = run_command('distill', *small_options, *words)
    assert code == 2 and 'nothing to lift' in errors
