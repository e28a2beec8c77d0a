"""Centres as threads share them."""

import pytest
from vargfacenet.recognition.partial_fc import products


@pytest.fixture(scope='module', autouse=True)
def shared(two_threads):
    """All tests here: a result must not depend on who has which rows."""


@pytest.fixture(params=['compiled', 'NumPy'])
def way(request, monkeypatch):
    """Both ways of going over the centres."""
    if request.param == 'NumPy':
        monkeypatch.setattr(products, 'native_kernels', lambda: None)
        monkeypatch.setattr(products, 'BLOCK', 5)  # several blocks, the last one smaller
    elif products.native_kernels() is None:
        pytest.skip('no C++ compiler')
    return request.param
