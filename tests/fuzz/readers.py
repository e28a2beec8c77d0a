"""Every reader of files of the project, with valid files of its kind to start from.

A reader takes a path and does with the file what a command would; how its file is called and what
lies beside it is its own business. Made files are small, so that mutations hit something.

Where far more time goes into what comes behind the reading, as figures that are drawn, the reader
ends there, and `behind` tells what is done with a part of the files that it has taken: the rest of
what a user runs.
"""

import io
import json
import logging
import pickle
import shutil
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

import cv2
import numpy as np

READERS: dict[str, 'Reader'] = {}


@dataclass(frozen=True)
class Reader:
    """`seeds(folder)` makes valid files (bytes); `read(path)` reads one called `name`.

    `behind` are pairs (every, work): work(path) is done with one of so many files that were read.
    """

    read: Callable[[Path], object]
    seeds: Callable[[Path], list]
    name: str = 'case'
    behind: tuple = ()


def reader(name, file='case', behind=()):
    """Register a function `read(path)` whose seeds are set by `seeds_of`."""

    def register(read):
        READERS[name] = Reader(read, lambda folder: _SEEDS[name](folder), file, behind)
        return read

    return register


_SEEDS = {}


def seeds_of(*names):
    def register(function):
        _SEEDS.update(dict.fromkeys(names, function))
        return function

    return register


def _written(folder, suffix, write):
    """Bytes of the file that `write(path)` makes."""
    path = folder / f'seed{suffix}'
    write(path)
    return path.read_bytes()


def _random():
    return np.random.RandomState(7)  # anew: what is made twice is the same


def _picture(size=24):
    return cv2.resize(_random().randint(0, 256, (4, 4, 3)).astype(np.uint8), (size, size))


def _encoded(suffix, size=24):
    return cv2.imencode(suffix, _picture(size))[1].tobytes()


# --- networks


@reader('params', 'model-0001.params')
def _(path):
    from vargfacenet.common.engine.params_file import read_arrays

    read_arrays(path)


@seeds_of('checkpoint_params')
def _(folder):
    from vargfacenet.common.engine.checkpoint import save_params

    ours = _written(folder, '.params', lambda path: save_params(path, *_network()[1:]))
    return [ours, ours[:-12]]  # as MXNet writes it, without a checksum


@seeds_of('params')
def _(folder):
    from vargfacenet.common.engine.params_file import write_arrays

    (ours, _) = READERS['checkpoint_params'].seeds(folder)
    arrays = {'arg:a': np.ones((2, 3), np.float32), 'aux:b': np.zeros(2, np.float16)}
    small = _written(folder, '.params', lambda path: write_arrays(path, arrays))
    return [ours, ours[:-12], small, small[:-12]]


def _network():
    from tiny_network import reference_params, tiny_symbol

    symbol = tiny_symbol(8)
    return symbol, *reference_params(symbol)


def _beside(path, **others):
    """The rest of a checkpoint of the tiny network in the folder of `path`."""
    from vargfacenet.common.engine.checkpoint import save_params, save_symbol

    prefix = path.parent / 'model'
    if not others.get('symbol') and not Path(f'{prefix}-symbol.json').exists():
        save_symbol(prefix, _network()[0])
    if not others.get('params') and not Path(f'{prefix}-0001.params').exists():
        save_params(f'{prefix}-0001.params', *_network()[1:])
    return f'{prefix},1'


def _runs(model):
    from vargfacenet.common.engine.open_model import open_model

    opened = open_model(model, 'mxnet', batch_size=2)
    opened.embed(np.zeros((2, 112, 112, 3), np.uint8))


@reader('checkpoint_params', 'model-0001.params')
def _(path):
    _runs(_beside(path, params=True))


@reader('symbol', 'model-symbol.json')
def _(path):
    from vargfacenet.common.engine.symbol_file import read_symbol

    read_symbol(path)


@reader('symbol_run', 'model-symbol.json')
def _(path):
    _runs(_beside(path, symbol=True))


@seeds_of('symbol', 'symbol_run')
def _(_folder):
    return [_network()[0].tojson().encode()]


@reader('states', 'model-0001.states')
def _(path):
    from vargfacenet.common.engine.optimizer_states import read_states

    read_states(path)


@seeds_of('states')
def _(folder):
    from vargfacenet.common.backend import mx
    from vargfacenet.common.engine.optimizer_states import write_states

    updater = mx.optimizer.get_updater(mx.optimizer.SGD(momentum=0.9))
    for number, shape in enumerate([(4, 4), (3,)]):
        updater(number, mx.nd.ones(shape), mx.nd.ones(shape))
    arrays = {0: np.ones((2, 2), np.float32), 1: (None, np.ones(3, np.float32))}
    return [_written(folder, '.states', lambda p: write_states(p, arrays)), updater.get_states()]


def _onnx(engine):
    def read(path):
        from vargfacenet.common.engine.open_model import open_model

        opened = open_model(str(path), engine, batch_size=2)
        opened.embed(np.zeros((2, 112, 112, 3), np.uint8))

    return read


@reader('yunet', 'model.onnx')
def _(path):
    from vargfacenet.common.data.detect import FaceDetector

    many = bool(zlib.crc32(path.read_bytes()) % 2)  # in OpenCV, or in onnxruntime
    FaceDetector(10, detector=str(path), many=many).detect(_picture(100))


@seeds_of('yunet')
def _(_folder):
    from made_yunet import made_yunet

    return [made_yunet()]


for _engine in ('onnxruntime', 'openvino'):
    reader(f'onnx_{_engine}', 'model.onnx')(_onnx(_engine))


@seeds_of('onnx_onnxruntime', 'onnx_openvino')
def _(_folder):
    from vargfacenet.common.engine.fold import fold_batch_norms
    from vargfacenet.common.engine.network import Network
    from vargfacenet.common.engine.to_onnx import to_onnx

    return [to_onnx(fold_batch_norms(Network(*_network()))).SerializeToString()]


@reader('export_json', 'export.json')
def _(path):
    from vargfacenet.common.engine.export_record import read_record
    from vargfacenet.deploy.decide import default_far
    from vargfacenet.deploy.tail import Tail, gallery_decision

    record = read_record(str(path.parent))
    for row in record.get('verification', ()):
        if row['thresholds']:
            default_far(row['thresholds'])
            gallery_decision(row['thresholds'], Tail.of(row.get('tail')), 1000, 0.01)


@seeds_of('export_json')
def _(_folder):
    record = {
        'files': {'model.onnx': {'sha256': 'a' * 64}, 'model-0000.params': {'sha256': 'b' * 64}},
        'source_sha256': {'model-0001.params': 'c' * 64},
        'verification': [
            {
                **{'file': 'model.onnx', 'engine': 'openvino'},
                'thresholds': {'0.001': 0.3, '0.0001': 0.4},
                'tail': {'start': 0.3, 'share': 0.005, 'shape': -0.1, 'scale': 0.05},
            }
        ],
        'usual_rates': {'far': 0.001},
    }
    return [json.dumps(record, indent=1).encode()]


@reader('torch', 'model.pth')
def _(path):
    from vargfacenet.common.engine.torch_file import read_states

    for state in read_states(path).values():
        for tensor in state.values():
            tensor.array()


@seeds_of('torch')
def _(folder):
    from vargfacenet.common.engine.torch_file import write_state

    arrays = {'a.weight': np.ones((2, 3), np.float32), 'a.count': np.array(5)}
    return [_written(folder, '.pth', lambda path: write_state(path, arrays))]


# --- pictures and records


def _decode(path):
    from vargfacenet.common.data.image import decode_rgb

    decode_rgb(path.read_bytes())


def _pictures(suffix):
    def seeds(_folder):
        return [_encoded(suffix)]

    return seeds


for _kind in ('jpg', 'png', 'webp', 'bmp', 'tiff'):
    reader(f'picture_{_kind}', f'case.{_kind}')(_decode)
    _SEEDS[f'picture_{_kind}'] = _pictures(f'.{_kind}')


@reader('picture_crop', 'case.jpg')
def _(path):
    from vargfacenet.common.data.image import jpeg_crop

    jpeg_crop(path.read_bytes())


_SEEDS['picture_crop'] = lambda folder: [_encoded('.jpg', 112), _encoded('.png', 40)]


@reader('video', 'case.avi')
def _(path):
    """What the decoding process does, here: that a crash of it harms nobody is another test."""
    from vargfacenet.common.data.video import Sampling
    from vargfacenet.common.data.video_decoder import messages

    for _ in messages(str(path), Sampling(2, most=3), lambda seconds: None):
        pass


@seeds_of('video')
def _(folder):
    made = []
    for suffix, kind in (('.mp4', 'mp4v'), ('.avi', 'MJPG'), ('.webm', 'VP80'), ('.mkv', 'FFV1')):
        path = folder / f'video{suffix}'
        writer = cv2.VideoWriter(
            str(path), cv2.CAP_FFMPEG, cv2.VideoWriter_fourcc(*kind), 10, (64, 48)
        )
        for shift in range(6):
            writer.write(np.roll(_picture(64)[:48], shift, 1))
        writer.release()
        made.append(path.read_bytes())
    return made


@reader('bin')
def _(path):
    from vargfacenet.eval.datasets import load_bin

    load_bin(path)


@seeds_of('bin')
def _(_folder):
    images, same = [_encoded('.jpg', 112) for _ in range(4)], [True, False]
    arrays = [np.frombuffer(image, np.uint8) for image in images]
    return [
        pickle.dumps((images, same), 4),
        pickle.dumps((images, same), 2),
        pickle.dumps((arrays, np.array(same)), 4),
        pickle.dumps((arrays, same), 5),
    ]


def _record_set(folder):
    from vargfacenet.common.checksums import CHECKSUMS
    from vargfacenet.common.data.recordio import write_face_records

    faces = [[_encoded('.jpg', 112) for _ in range(2)] for _ in range(2)]
    write_face_records(folder / 'train', faces)
    (folder / CHECKSUMS).unlink()  # with it, no change is looked at any further
    return folder


@reader('centres', 'model-0001.centres')
def _(path):
    from vargfacenet.recognition.partial_fc import centres_file

    centres_file.check_centres(path)
    for padding in (False, True):
        centres_file.shape_of(path, padding)
    for name in (centres_file.CENTRES, centres_file.MOMENTA):
        for _ in centres_file.read_blocks(path, name):
            pass
    centres_file.read_states(path)


@seeds_of('centres')
def _(folder):
    from vargfacenet.recognition.partial_fc.centres_file import CENTRES, MOMENTA, write_centres

    rows = _rows()
    blocks = {CENTRES: [rows[:4], rows[4:]], MOMENTA: [rows]}
    states = {'mean': np.ones(2, np.float32)}

    def write(path):
        write_centres(path, blocks, rows.shape, 'float32', 5, states)

    return [_written(folder, '.centres', write)]


def _records(name):
    def read(path):
        from vargfacenet.common.data.recordio import RecordFile

        if not (path.parent / 'done').exists():
            kept = path.read_bytes()
            _record_set(path.parent)
            (path.parent / 'done').touch()
            path.write_bytes(kept)
        if name == 'scan':
            (path.parent / 'train.idx').unlink(missing_ok=True)
        records = RecordFile(path.parent / 'train.rec')
        for position in range(min(len(records), 50)):
            records.read(position)
        records.close()

    return read


def _part(name):
    def seeds(folder):
        content = (_record_set(folder) / name).read_bytes()
        # as others write them: without the mark a record is not compared with its checksum
        return [content, content.replace(_MARK, bytes(4))] if name == 'train.rec' else [content]

    return seeds


_MARK = (0x56474352).to_bytes(4, 'little')  # of a record's id2


for _name, _file in (
    ('rec', 'train.rec'),
    ('idx', 'train.idx'),
    ('property', 'property'),
    ('scan', 'train.rec'),
):
    reader(_name, _file)(_records(_name))
    _SEEDS[_name] = _part(_file)


@reader('class_names', 'classes.txt')
def _(path):
    from vargfacenet.common.data.recordio import read_class_names

    read_class_names(path, 2)


_SEEDS['class_names'] = lambda folder: [b'ada\nbob\n']


@reader('left_out', 'left-out-0.json')
def _(path):
    from vargfacenet.common.data.left_out import LeftOut

    LeftOut(3, path)


_SEEDS['left_out'] = lambda folder: [b'{"4": "record 5 is cut off", "7": "record 8"}\n']


@reader('people_set', 'people.npz')
def _(path):
    from vargfacenet.eval.all_pairs import load_images

    load_images(path)


@seeds_of('people_set')
def _(folder):
    from vargfacenet.common.data.people_sets import PeopleSet, write_people_set

    pictures = [_encoded('.jpg', 112) for _ in range(4)]
    who = np.array([0, 0, 1, 1])
    for impostors in (None, np.array([[0, 2], [1, 3]])):
        made = PeopleSet(pictures, who, ['ada', 'bob'], impostors)
        write_people_set(folder / f'{impostors is None}.npz', made)
    return [path.read_bytes() for path in sorted(folder.glob('*.npz'))]


# --- arrays


def _embeddings(path):
    from vargfacenet.eval.embeddings import check_embeddings, load_embeddings

    loaded = load_embeddings(path)
    check_embeddings(loaded.rows, 'rows', allow_zero=True)


def _labels(path):
    from vargfacenet.eval.embeddings import read_labels

    read_labels(path)


reader('npz', 'case.npz')(_embeddings)
reader('npy', 'case.npy')(_embeddings)
reader('matrix', 'case.bin')(_embeddings)
reader('labels_npy', 'case.npy')(_labels)
reader('labels_txt', 'case.txt')(_labels)


def _saved(save, *arrays, **named):
    handle = io.BytesIO()
    save(handle, *arrays, **named)
    return handle.getvalue()


def _rows():
    rows = _random().randn(6, 4).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@seeds_of('npz')
def _(_folder):
    arrays = {'embeddings': _rows(), 'labels': np.array(['a', 'a', 'b', 'b', 'c', 'c'])}
    return [_saved(np.savez, **arrays), _saved(np.savez_compressed, **arrays)]


@seeds_of('npy')
def _(_folder):
    return [_saved(np.save, _rows()), _saved(np.save, np.asfortranarray(_rows()))]


@seeds_of('labels_npy')
def _(_folder):
    return [_saved(np.save, np.arange(6)), _saved(np.save, np.array(['a', 'bc']))]


@seeds_of('labels_txt')
def _(_folder):
    return [b'ada\nada\nbob\ncyd\n', 'ä\nö\n'.encode()]


@seeds_of('matrix')
def _(folder):
    from vargfacenet.eval.matrix_file import write_matrix

    return [_written(folder, '.bin', lambda path: write_matrix(path, _rows()))]


def _command(main, words):
    """Run a command, which may end well, or with one line, told as InputError."""
    from vargfacenet.common.errors import InputError

    before = logging.root.manager.disable
    logging.disable()
    try:
        code = main(words)
    finally:
        logging.disable(before)  # tests that come after look at logs
    if code == 2:
        raise InputError('as the command has said')
    assert code == 0


def _sections_of(run):
    from vargfacenet.eval.report.__main__ import build_sections, read_run

    build_sections([read_run(str(run))])


def _page_of(run):
    """With its figures drawn."""
    from vargfacenet.eval.report.__main__ import main

    _command(main, [str(run), '--out', str(Path(run).parent / 'page' / 'report.html')])


def _measured(path):
    """The numbers of a results file, but for those that are drawn a thousand times."""
    from vargfacenet.eval.report import verification
    from vargfacenet.eval.report.__main__ import read_run

    run = read_run(str(path))
    for name, target in run.targets.items():
        verification.measurable(target)
        verification.quantile_table(name, {run.name: target})
        verification.hardest_items(run.name, target, 12)


def _reported(run_of):
    """What is done behind the reader of a part of the run that `run_of(path)` names."""
    return (
        (20, lambda path: _sections_of(run_of(path))),
        (100, lambda path: _page_of(run_of(path))),
    )


reader('results_npz', 'case.npz', _reported(lambda path: path))(_measured)


@seeds_of('results_npz')
def _(folder):
    """What `verify --save` writes, from the command itself."""
    from tiny_network import reference_params, tiny_symbol
    from vargfacenet.common.data.pair_sets import write_pairs
    from vargfacenet.common.engine.checkpoint import save_params, save_symbol
    from vargfacenet.common.synth.face import jpeg_faces
    from vargfacenet.eval import verify

    symbol = tiny_symbol(8)
    save_symbol(folder / 'model', symbol)
    save_params(folder / 'model-0001.params', *reference_params(symbol))
    faces = [jpeg_faces(3, person, [0], 112)[0] for person in range(4)]
    images = [faces[pick] for pair in range(10) for pick in ((0, 0), (1, 2))[pair % 2]]
    write_pairs(folder / 'pairs.bin', images, [pair % 2 == 0 for pair in range(10)])
    model = ['--model', f'{folder}/model,1', '--engine', 'mxnet']
    target = ['--target', str(folder / 'pairs.bin'), '--folds', '5']
    assert verify.main([*model, *target, '--save', str(folder / 'v.npz')]) == 0
    return [(folder / 'v.npz').read_bytes()]


@reader('results_about', 'about.json', _reported(lambda path: path.with_name('v.npz')))
def _(path):
    """What is in the archive beside the arrays, with a checksum that agrees."""
    from vargfacenet.common.arrays import read_npz, write_npz

    arrays = read_npz(path.parent.parent / 'made' / 'v.npz')
    about = np.array(path.read_bytes().decode('utf-8', 'replace').replace('\0', ''))
    write_npz(path.with_name('v.npz'), {**arrays, '__about__': about})
    _measured(path.with_name('v.npz'))


@seeds_of('results_about')
def _(folder):
    from vargfacenet.common.arrays import read_npz

    READERS['results_npz'].seeds(folder)
    return [str(read_npz(folder / 'v.npz')['__about__']).encode()]


@reader('teacher_file', 'teacher.npz')
def _(path):
    from vargfacenet.recognition.teacher_file import TeacherFile

    folder = path.parent / 'crops'
    if not folder.exists():
        folder.mkdir()
        for number in range(3):
            (folder / f'{number}.jpg').write_bytes(_encoded('.jpg', 112))
    TeacherFile(path, folder).read(np.array([0, 2]), np.array([0, 1]))


@seeds_of('teacher_file')
def _(_folder):
    rows = _rows()[:3]
    return [
        _saved(np.savez, embeddings=rows, records=np.arange(3), mirrored=rows[::-1]),
        _saved(np.savez_compressed, embeddings=rows, names=np.array(['0.jpg', '1.jpg', '2.jpg'])),
    ]


@reader('resume_npz', 'case.npz')
def _(path):
    from vargfacenet.eval.search.resume import ResumeFile

    ResumeFile(path, 'key').load()


@seeds_of('resume_npz')
def _(folder):
    from vargfacenet.eval.search.resume import ResumeFile

    saved = {'done': np.int64(3), 'counts': np.arange(20)}
    return [_written(folder, '.npz', lambda path: ResumeFile(path, 'key').save(**saved))]


@reader('store', 'train.teacher-abc.f16')
def _(path):
    from vargfacenet.recognition.teacher_store import TeacherStore, read_header

    header = read_header(path)
    TeacherStore(path, header).read(np.array([0, header.records - 1]), np.array([True, False]))


@seeds_of('store')
def _(folder):
    from vargfacenet.recognition.teacher_store import Header, header_bytes

    made = []
    for views, augmentation in ((0, ''), (3, 'mild {"blur": 0.2}')):
        header = Header('m,1', 'a' * 64, 'train.rec', 'b' * 64, 4, 8, 'mxnet', done=4)
        header = replace(header, views=views, augmentation=augmentation, view_seed=5 * views)
        made.append(header_bytes(header) + np.zeros((4, header.rows, 8), np.float16).tobytes())
    return made


@reader('gallery_db', 'gallery.sqlite')
def _(path):
    from vargfacenet.deploy.gallery import Gallery

    kept = path.with_name('embeddings.kept')
    if not kept.exists():
        content = path.read_bytes()
        _gallery(path.parent / 'made')
        shutil.copy(path.parent / 'made' / 'embeddings.f32', kept)
        path.write_bytes(content)
    for old in path.parent.glob('gallery.sqlite-*'):
        old.unlink()
    shutil.copy(kept, path.with_name('embeddings.f32'))
    gallery = Gallery(path.parent)
    try:
        gallery.identify(_rows()[0], 3)
        gallery.crop('ada')
        for name in gallery.identities():
            gallery.person(name)
            gallery.remove(name)
    finally:
        gallery.close()


def _gallery(folder):
    from vargfacenet.deploy.gallery import Gallery

    gallery = Gallery(folder, 4, 'f' * 64)
    gallery.enrol(['ada', 'ada', 'bob'], _rows()[:3], crops=[b'x' * 50] * 3)
    gallery.close()


@seeds_of('gallery_db')
def _(folder):
    _gallery(folder / 'seed')
    return [(folder / 'seed' / 'gallery.sqlite').read_bytes()]


# --- runs


@reader('run_json', 'model-0001.json')
def _(path):
    from vargfacenet.recognition.run_state import checkpoint_numbers, load_state

    prefix = path.parent / 'model'
    load_state(prefix, checkpoint_numbers(prefix)[-1])


def _training_table(path):
    """What a report says of the run beside a file, but for its curves."""
    from vargfacenet.eval.report.__main__ import read_run
    from vargfacenet.eval.report.training import training_table

    training_table([read_run(str(path.parent))])


_RUN_REPORTED = _reported(lambda path: path.parent)


@reader('report_run', 'model-0001.json', _RUN_REPORTED)
def _(path):
    (path.parent / 'history.jsonl').write_bytes(_history())
    _training_table(path)


@seeds_of('run_json', 'report_run')
def _(_folder):
    return [_RUN.encode()]


_RUN = json.dumps(
    {
        'config': {
            **{'alpha': 7.0, 'augment': 'mirror', 'ckpt': 3, 'classification': True},
            **{'data_dir': 'data', 'devices': 'cpu', 'distill_form': 'l2', 'frequent': 5},
            **{'kvstore': 'local', 'loss': 'margin', 'lr': 0.1, 'lr_factor': 0.1},
            **{'loss_options': {'m1': 1.0, 'm2': 0.5, 'm3': 0.0, 's': 64.0}, 'lr_mode': 'cosine'},
            **{'lr_steps': [], 'models_root': 'runs', 'mom': 0.9, 'name': 'base'},
            **{'network': 'vargfacenet', 'network_options': {'emb_size': 64, 'multiplier': 0.25}},
            **{'num_classes': 12, 'num_devices': 1, 'num_images': 72, 'num_workers': 1},
            **{'per_batch_size': 8, 'pretrained': '', 'seed': 0, 'shuffle': 'full', 'teacher': ''},
            **{'teacher_store': '', 'threads': 0, 'total_steps': 10, 'val_targets': ['synth']},
            **{'verbose': 5, 'warmup_steps': 2, 'wd': 0.0005},
        },
        'state': {'step': 10, 'number': 2, 'best_number': 1, 'best_score': 0.5, 'seconds': 3.5},
    }
)


reader('history', 'history.jsonl', _RUN_REPORTED)(_training_table)


def _plot(path):
    from vargfacenet.recognition.curves import plot_curves

    plot_curves(path.parent, 'run')


@reader('curves', 'history.jsonl', ((50, _plot),))
def _(path):
    from vargfacenet.common.history import read_history
    from vargfacenet.recognition.curves import curves_of

    curves_of(read_history(path.parent))


def _history():
    row = {'loss': 4.0, 'accuracy': 0.1, 'learning_rate': 0.1, 'images_per_second': 50.0}
    rows = [{'step': step, **row, 'synth_accuracy': 0.7, 'synth_val': 0.3} for step in (1, 2, 3)]
    return '\n'.join(map(json.dumps, rows)).encode()


_SEEDS['history'] = _SEEDS['curves'] = lambda folder: [_history()]


# --- lists


def _label_list(path):
    from vargfacenet.common.data.label_lists import read_label_list

    for name in 'ab':
        (path.parent / name).mkdir(exist_ok=True)
        (path.parent / name / '1.jpg').touch()
    read_label_list(path)


def _lists():
    from vargfacenet.common.data.listed import read_list, read_people
    from vargfacenet.common.data.pair_lists import read_pair_list
    from vargfacenet.eval.identify import read_identities
    from vargfacenet.eval.megaface import read_cmc, read_noises

    lfw = b'2 1\nAda\t1\t2\nAda\t1\tBob\t2\nBob 1 2\nCyd 1 Bob 2\n'
    return {
        'imagelist': (lambda path: read_list(path, path.parent), [b'a/1.jpg 0\nb/2.jpg 1\n']),
        'identities': (
            lambda path: read_identities(path, path.parent),
            [b'a/1.jpg ada\nb/2.jpg\n'],
        ),
        'pairlist': (read_pair_list, [lfw, b'a/1.jpg a/2.jpg 1\na/1.jpg b/1.jpg 0\n']),
        'labellist': (_label_list, [b'0\t3.0\ta/1.jpg\n1\t4.0\tb/1.jpg\n', b'a/1.jpg 0\n']),
        'exclude': (
            lambda path: read_people(path, '--exclude', path.parent, True),
            [b'a/1.jpg\nb\n'],
        ),
        'noises': (read_noises, [b'# head\na\tb_1.jpg\nc_2.jpg\n']),
        'cmc': (
            read_cmc,
            [json.dumps({'cmc': [[1, 2], [0.9, 1]], 'roc': [[0, 1], [0, 1]]}).encode()],
        ),
    }


for _name in ('imagelist', 'identities', 'pairlist', 'labellist', 'exclude', 'noises', 'cmc'):
    reader(_name)(lambda path, name=_name: _lists()[name][0](path))
    _SEEDS[_name] = lambda folder, name=_name: _lists()[name][1]


@reader('ijb_tid', 'x_face_tid_mid.txt')
def _(path):
    from vargfacenet.eval.ijb import read_meta

    (path.parent / 'x_name_5pts_score.txt').write_bytes(_POINTS)
    read_meta(path.parent, 'x')


@reader('ijb_pairs', 'x_template_pair_label.txt')
def _(path):
    from vargfacenet.eval.ijb import read_pairs

    read_pairs(path.parent, 'x')


@reader('ijb_subjects', 'case.csv')
def _(path):
    from vargfacenet.eval.ijb import read_subjects

    read_subjects(path)


_TIDS = b'1.jpg 1 10\n2.jpg 2 11\n'
_POINTS = b''.join(b'%d.jpg ' % n + b' '.join([b'30.5'] * 10) + b' 0.9\n' for n in (1, 2))


@reader('ijb_points', 'x_name_5pts_score.txt')
def _(path):
    from vargfacenet.eval.ijb import read_meta

    (path.parent / 'x_face_tid_mid.txt').write_bytes(_TIDS)
    read_meta(path.parent, 'x')


_SEEDS['ijb_tid'] = lambda folder: [_TIDS]
_SEEDS['ijb_points'] = lambda folder: [_POINTS]
_SEEDS['ijb_pairs'] = lambda folder: [b'1 2 1\n1 3 0\n']
_SEEDS['ijb_subjects'] = lambda folder: [b'TEMPLATE_ID,SUBJECT_ID\n1,5\n2,6\n']


@reader('video_list', 'videos.txt')
def _(path):
    from vargfacenet.common.data.video import find_videos

    (path.parent / 'frames').mkdir(exist_ok=True)
    (path.parent / 'frames' / '1.png').touch()
    (path.parent / 'a.mp4').touch()
    find_videos(path)


@reader('failed_pairs', 'case.bin.failed')
def _(path):
    from vargfacenet.common.data.failed_pairs import failed_path, read_failed

    pair_set = path.parent / 'pairs.bin'
    path.replace(failed_path(pair_set))
    read_failed(pair_set)


@reader('report_groups', 'groups.csv')
def _(path):
    from vargfacenet.eval.report.groups import pair_groups, read_labels

    target = {'issame': np.array([True, False]), 'names': np.array(['ada', 'bob', 'cyd'])}
    target |= {'identities': np.array([[0, 0], [1, 2]]), 'identities_named': True}
    pair_groups(read_labels(path), target)


@reader('gallery_groups', 'groups.csv')
def _(path):
    from vargfacenet.deploy.group_rates import read_groups

    read_groups(path, ['ada', 'bob'])


@reader('person_labels', 'identities.txt')
def _(path):
    from vargfacenet.eval.verify import read_identities

    read_identities(path, np.array([True, False]))


_SEEDS['video_list'] = lambda folder: [b'frames\na.mp4\n']
_SEEDS['failed_pairs'] = lambda folder: [b'3\ta/1.jpg\ta/2.jpg\t1\n7\ta/1.jpg\tb/1.jpg\t0\n']
_SEEDS['report_groups'] = lambda folder: [b'identity,sex\nada,f\nbob,m\n', b'sex\nf\nm\n']
_SEEDS['gallery_groups'] = lambda folder: [b'person,group\nada,f\nbob,m\n', b'ada,"f"\n']
_SEEDS['person_labels'] = lambda folder: [b'a/1.jpg a/2.jpg 1\na/1.jpg b/1.jpg 0\n']


# --- studies, logs, heads


@reader('study', 'study.toml')
def _(path):
    from vargfacenet.recognition.study.plan import data_jobs, make_jobs, read_study

    study = read_study(path)
    data_jobs(study)
    make_jobs(study)


_SEEDS['study'] = lambda folder: [_STUDY]
_STUDY = b"""title = 'Two losses'
seeds = [0, 1]
runs = 'runs/two'
measure = 'accuracy'

[options]
data-dir = 'data'
lr = 0.1

[[data]]
makes = 'data/train.rec'
command = ['synth', 'data', '--people', 4]

[arms.arcface]
command = 'train'
loss = 'arcface'
network-option = { multiplier = 0.25 }

[arms.given]
model = 'teacher/model,9'

[arms.student]
command = 'distill'
teacher = 'run:given'
pretrained = 'run:arcface'

[test]
target = ['data/test.bin']

[[test.measure]]
name = 'tpr'
commands = [['identify', '--probes', '{folder}/p.npz']]
value = ['tpr', 0]

[[questions]]
ask = 'Does it help?'
arms = ['student', 'arcface']
"""


@reader('study_record', 'arcface-s0.json')
def _(path):
    from vargfacenet.recognition.study.plan import Job
    from vargfacenet.recognition.study.runner import Records

    records = Records(path.parent)
    first = Job('arcface-s0', 'train', ('train', '--lr', '0.1'))
    then = Job(
        'student-s0', 'distill', ('distill', '--pretrained', '{arcface-s0}'), ('arcface-s0',)
    )
    for job in (first, then):
        records.is_done(job)
        records.check_inputs(job)
    if records.is_done(first):
        records.words(then)
        records.stamps(then)
        records.add(first, first.words, {}, 2.0)


@seeds_of('study_record')
def _(_folder):
    result = {'model': 'runs/two/models/arcface-s0/model,2', 'steps': 10}
    record = {'words': ['train', '--lr', '0.1'], 'after': {}, 'result': result, 'seconds': 3.5}
    return [json.dumps(record).encode()]


def _study_page(path):
    from vargfacenet.recognition.study.__main__ import main

    _command(main, [str(path)])


@reader('study_results', 'results.json', ((1, _study_page),))
def _(path):
    from vargfacenet.recognition.study.result_file import read_results

    read_results(path)


@seeds_of('study_results')
def _(_folder):
    """The result of a study as small as one can be, with every part that the page shows."""
    value = {'value': 0.7, 'low': 0.6, 'high': 0.8, 'seeds': 1, 'of_people': 0.1, 'of_seeds': None}
    arm = {
        **{'network': 'vargfacenet', 'network_options': {}, 'params': 5_000_000, 'flops': 10**9},
        **{'steps': 10, 'images_a_step': 8, 'command': 'train', 'published': {'tpr': 0.71}},
        'runs': {'0': {'seconds': 3.5, 'measures': {'tpr': 0.7}}},
        **{'options': {'lr': 0.1}, 'model': 'runs/two/models/a-s0/model,2'},
        'measures': {'tpr': value},
    }
    compared = {
        **{'arm': 'a', 'against': 'b', 'measure': 'tpr', 'difference': value, 'told': True},
        'people': 40,
        'by_seed': {'0': 0.1},
        'mcnemar': {'only_arm': 3, 'only_against': 2, 'p_values': [0.5]},
        'sentence': 'a is as good as b',
    }
    result = {
        **{'title': 'Two', 'note': '', 'measure': 'tpr', 'study': {'seeds': [0]}},
        **{'machine': 'A', 'version': '1', 'arms': {'a': arm, 'b': arm}, 'missing': ['b-s1']},
        'questions': [
            {'ask': 'Is it?', 'note': 'So.', 'arms': ['a', 'b'], 'comparisons': [compared]}
        ],
    }
    return [json.dumps(result).encode()]


@reader('decision_log', 'decisions.jsonl')
def _(path):
    from vargfacenet.deploy.decision_log import append, check_log, entries

    check_log(path)
    list(entries(path, 'ada'))
    append(path, 'removed', people=['ada'])


@reader('decision_head', 'decisions.jsonl.head')
def _(path):
    from vargfacenet.deploy.decision_log import LOG, append, check_log

    shutil.copy(path.parent.parent / 'made' / LOG, path.parent / LOG)
    check_log(path.parent / LOG)
    append(path.parent / LOG, 'removed', people=['ada'])


def _log_file(name):
    def seeds(folder):
        from vargfacenet.deploy.decision_log import LOG, append

        for number in range(3):
            append(folder / LOG, 'enrolled', people=['ada'], faces=number)
        return [(folder / name).read_bytes()]

    return seeds


_SEEDS['decision_log'] = _log_file('decisions.jsonl')
_SEEDS['decision_head'] = _log_file('decisions.jsonl.head')


@reader('quality_head', 'head.npz')
def _(path):
    from vargfacenet.eval.quality_head import load_head

    load_head(path, _Embedder())


class _Embedder:
    """What a head is asked for of the model that it belongs to."""

    name, fingerprint, embedding_size = 'm', 'f' * 64, 4


@seeds_of('quality_head')
def _(folder):
    from vargfacenet.eval.quality_head import QualityHead

    head = QualityHead(np.arange(5) / 5, 'f' * 64, ('ada', 'bob'))
    return [_written(folder, '.npz', head.save)]


@reader('bench_results', 'networks.json')
def _(path):
    from vargfacenet.symbol.network_table import read_speeds

    read_speeds(path)


@seeds_of('bench_results')
def _(_folder):
    row = {'engine': 'openvino', 'ms': 1.5, 'images_per_second': 700.0}
    return [json.dumps({'cpu': 'A', 'batch_size': 32, 'networks': {'y1': [row]}}).encode()]


@reader('checksums', 'checksums.json')
def _(path):
    from vargfacenet.common.checksums import check

    (path.parent / 'a').write_bytes(b'one')
    check(path.parent / 'a')


_SEEDS['checksums'] = lambda folder: [b'{\n "a": 2053932785,\n "b": 5\n}\n']
