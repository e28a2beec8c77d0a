"""Files of strangers: every reader gives a result or one clear line, whatever is in the file.

In child processes, since a crash of native code or a flood of memory is what is looked for.
`tests/fuzz.sh` does the same with 20,000 cases a reader.
"""

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from vargfacenet.common.errors import InputError
from vargfacenet.common.unpickle import unpickle

from fuzz.mutate import mutated
from fuzz.readers import READERS

COUNT = int(os.environ.get('FUZZ_COUNT', 300))
SEED = int(os.environ.get('FUZZ_SEED', 1))
# what one case costs, in those of the others: a network is bound, a figure drawn
COST = {
    'checkpoint_params': 10,
    'symbol_run': 10,
    'video': 5,
    'onnx_openvino': 10,
    'results_npz': 5,
    'results_about': 5,
    'people_set': 2,
    'bin': 2,
}
MEMORY = '/dev/shm'
# at the same time; most readers need the same libraries, which take four seconds of a CPU
PROCESSES = 1 if COUNT <= 300 else 2
TAKEN = 1 / 60  # of changed files that a reader takes at least for what is behind it; now 4 to 80 %


def run_child(orders):
    child = ROOT / 'tests' / 'fuzz' / 'child.py'
    return subprocess.run(
        [sys.executable, str(child), json.dumps(orders)], capture_output=True, text=True
    )


def orders_of(names, folder):
    return [
        {
            'reader': name,
            'folder': str(folder / name),
            'seed': SEED,
            'count': max(COUNT // COST.get(name, 1), 10),
        }
        for name in names
    ]


@pytest.fixture
def folder(tmp_path):
    """In memory, where that is to be had: ext4 writes out every file that takes another's place,
    which takes ten times as long as to read it. Cases that are found are kept in `tmp_path`."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as place:
        yield Path(place)
        for case in Path(place).glob('*/case-*'):
            shutil.copy(case, tmp_path / f'{case.parent.name}-{case.name}')


def test_every_reader_reads_or_refuses(folder):
    names = sorted(READERS, key=lambda name: (COST.get(name, 1) > 2, name))
    assert len(names) >= 40
    groups = [names[start::PROCESSES] for start in range(PROCESSES)]  # each with costly ones
    with ThreadPoolExecutor(PROCESSES) as pool:
        done = list(pool.map(lambda group: run_child(orders_of(group, folder)), groups))
    wrong = {}
    for group, process in zip(groups, done):
        lines = [json.loads(line) for line in process.stdout.splitlines() if line[:1] == '{']
        for line in lines:
            if line['found']:
                wrong[line['reader']] = line['found']
            elif READERS[line['reader']].behind and line['changed'] < int(TAKEN * line['cases']):
                wrong[line['reader']] = f'took {line["changed"]} of {line["cases"]} changed files'
        missing = [name for name in group if name not in {line['reader'] for line in lines}]
        if process.returncode or missing:
            at = folder / missing[0] / 'at' if missing else None
            where = at.read_text() if at and at.exists() else 'a seed'
            wrong[missing[0] if missing else group[-1]] = (
                f'ended by {process.returncode} at case {where}: {process.stderr[-2000:]}'
            )
    assert wrong == {}


def test_the_child_sees_what_it_should(tmp_path):
    """A reader that fails in each of the ways; without this the test above may see nothing."""
    order = {'reader': 'noises', 'folder': str(tmp_path), 'seed': 1, 'count': 5}
    for code, found in (
        ('raise KeyError("x")', 'traceback'),
        ('b = bytes(8 << 30)', 'memory'),
        ('import time; time.sleep(9)', 'slow'),
        ('while True: pass', 'slow'),
        ('import ctypes; ctypes.string_at(0)', None),
        ('pass', ''),
    ):
        program = (
            f'import sys; sys.path.insert(0, {str(ROOT / "tests")!r})\n'
            f'from fuzz import child, readers\n'
            f'calls = []\n'
            f'def read(path):\n'
            f'    calls.append(path)\n'
            f'    if len(calls) == 3:\n'
            f'        {code}\n'
            f'readers.READERS["noises"] = readers.Reader(read, lambda folder: [b"a b"])\n'
            f'child.SECONDS = child.PATIENCE = 1.0\n'
            f'child.main([{order!r}])\n'
        )
        done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
        if found is None:
            assert done.returncode < 0
            continue
        (result,) = [json.loads(line) for line in done.stdout.splitlines()]
        assert result['cases'] == 5
        kinds = [what.split(':')[0] for what in result['found'].values()]
        assert kinds == ([found] if found else [])


def test_mutations_change_most_and_are_the_same_again():
    seeds = [b'one valid file', bytes(range(100))]
    first, again = list(mutated(seeds, 3, 200)), list(mutated(seeds, 3, 200))
    assert first == again != list(mutated(seeds, 4, 200))
    assert sum(content in seeds for _, content in first) < 20


# --- structures rather than bytes

TEXT = st.text(max_size=5)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
JSON_READERS = (
    *('symbol', 'export_json', 'run_json', 'report_run', 'cmc', 'history'),
    *('study_record', 'bench_results', 'study_results', 'left_out', 'checksums'),
)


def put(value, path, inner):
    """A copy of a JSON value with `inner` at the place that `path` (numbers) leads to."""
    if not path or not isinstance(value, (dict, list)) or not value:
        return inner
    key = list(value)[path[0] % len(value)] if isinstance(value, dict) else path[0] % len(value)
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[key] = put(value[key], path[1:], inner)
    return copy


@pytest.mark.parametrize('name', JSON_READERS)
def test_json_with_any_value_in_any_place(name, tmp_path):
    reader = READERS[name]
    work, made = tmp_path / 'work', tmp_path / 'made'
    work.mkdir()
    made.mkdir()
    seeds = reader.seeds(made)
    seeds = [json.loads(seed.splitlines()[0] if name == 'history' else seed) for seed in seeds]
    taken = {behind: itertools.count() for _, behind in reader.behind}

    @settings(max_examples=max(COUNT // 3, 10), deadline=None, database=None, derandomize=True)
    @given(st.sampled_from(seeds), st.lists(st.integers(0, 30), max_size=6), PLAIN)
    def check(seed, path, inner):
        file = work / reader.name
        file.write_text(json.dumps(put(seed, path, inner)))
        try:
            reader.read(file)
            for every, behind in reader.behind:
                if next(taken[behind]) % every == 0:
                    behind(file)
        except InputError as error:
            assert str(error)

    check()


@settings(max_examples=COUNT, deadline=None, database=None, derandomize=True)
@given(content=st.binary(max_size=60))
def test_any_bytes_are_a_pickle_or_one_line(tmp_path_factory, content):
    path = Path(tmp_path_factory.getbasetemp()) / 'any.pickle'
    path.write_bytes(content)
    try:
        unpickle(path, lambda budget: {}, 'which nothing needs')
    except InputError as error:
        assert str(path) in str(error)
