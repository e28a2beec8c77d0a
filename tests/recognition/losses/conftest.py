"""Losses by name, on stock operators and compiled."""

import pytest
from loss_heads import build_terms, needs_compiler


@pytest.fixture(params=['stock', pytest.param('compiled', marks=needs_compiler)])
def class_loss(request):
    """(name, num_classes, size, options, ...) -> loss of embedding, fc7_weight and label."""

    def build(*words, **more):
        return build_terms(*words, compiled=request.param == 'compiled', **more).loss

    return build
