"""The training loop: one configuration in, one trained checkpoint out."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from gluoncv.utils.lr_scheduler import LRSequential

from ..common import console
from ..common.backend import mx, parse_devices
from ..common.data.left_out import LeftOut
from ..common.data.recordio import CLASSES
from ..common.engine import checkpoint
from ..common.engine.mxnet import Embedder
from ..common.engine.network import Network
from ..common.engine.optimizer_states import read_states
from ..common.errors import InputError
from ..common.files import atomic_write, exclusive, output_folder
from ..common.names import CLASSIFIER_PREFIX, TEACHER, TEACHER_CENTRES
from ..eval.verification import VerificationResult
from ..symbol import get_symbol
from .augmentations import make_augmentations
from .class_centres import class_centres, labels_of
from .config import TrainConfig
from .data import FaceRecordIter
from .graph import embedding_size, keep_states, state_names, training_module
from .heads import GraphHead, make_head
from .hooks import (
    History,
    LogHook,
    NoHistory,
    NoSaveHook,
    SaveHook,
    Stopwatch,
    VerifyHook,
    Weights,
    last_checkpoint,
    load_targets,
    stop_signals,
    target_paths,
)
from .run_state import (
    TrainState,
    checkpoint_numbers,
    learning_rate_of,
    newest_state,
    optimizer_path,
    raw_path,
    remove_checkpoint,
)
from .teacher import EmbeddingSource, StoredTeacher, check_sizes, open_teacher
from .teacher_file import SUFFIX, TeacherFile
from .teacher_lift import lifted
from .teacher_store import TeacherStore
from .updates import GradientSum, WeightAverage, clipping_updater
from .views import Views

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves."""

    model: Optional[str]  # 'PREFIX,EPOCH' of the last checkpoint; None where none was to be kept
    best_model: Optional[str]  # of the best verification among those kept
    steps: int
    seconds: float  # training only, over all resumed parts
    images_per_second: float
    targets: dict[str, VerificationResult]  # of the last weights

    def summary(self) -> dict:
        """As plain values for the command's JSON line."""
        targets = {name: result.summary() for name, result in self.targets.items()}
        return {**vars(self), 'targets': targets}


def initializer() -> 'mx.initializer.Initializer':
    """Xavier gaussian, fan-out, magnitude 2: the authors' advice against NaN from scratch."""
    return mx.initializer.Xavier(rnd_type='gaussian', factor_type='out', magnitude=2)


def _constants(module, config: TrainConfig, teacher: Optional[EmbeddingSource]) -> dict:
    """Arrays of the training graph that are no parameters: the teacher's class centres."""
    if TEACHER_CENTRES not in module.symbol.list_arguments():
        return {}
    if teacher.rows is None:
        raise InputError(
            f"{config.distill} needs the teacher's class centres, which come from a store of its "
            'embeddings; make one with `vargfacenet teach` and name it as --teacher-store'
        )
    labels = labels_of(config.data_dir)
    return {TEACHER_CENTRES: mx.nd.array(class_centres(teacher.rows, labels, config.num_classes))}


def _start_weights(
    module, config: TrainConfig, state: TrainState, embedding, constants: dict
) -> None:
    """Parameters from the resumed checkpoint, the pretrained model or the initializer."""
    model = f'{config.prefix},{state.number}' if state.number else config.pretrained
    arg_params, aux_params = {}, {}
    if model:
        loaded = checkpoint.load_embedding(model, embedding)
        if state.number and config.ema:
            raw = checkpoint.load_params(raw_path(config.prefix, state.number))
            loaded = Network(loaded.symbol, *raw)
        _, arg_params, aux_params = loaded.in_mxnet()
        arg_params = _matching_classifier(module, {**arg_params, **constants}, model)
        if config.freeze == 'centres':
            _check_centres(module, arg_params, model)
    mx.random.seed(config.seed)
    arg_params = {**arg_params, **constants}
    module.init_params(initializer(), arg_params, aux_params, allow_missing=True, allow_extra=True)


def _check_centres(module, arg_params: dict, model: str) -> None:
    """InputError where centres that are to be kept would start from random values. What a loss
    carries from step to step may start anew."""
    kept = {*module._exec_group.param_names} - {*state_names(module.symbol)}
    missing = sorted(
        name for name in kept if name.startswith(CLASSIFIER_PREFIX) and name not in arg_params
    )
    if missing:
        raise InputError(
            f'--freeze centres: {model} has no {missing[0]} for the classes of this data set; '
            'learn them first, with --freeze backbone'
        )


def _matching_classifier(module, arg_params: dict, model: str) -> dict:
    """Drop a classifier of other classes: it starts anew, as when fine-tuning on new data."""
    shapes = {name: value.shape for name, value in arg_params.items()}
    arrays = zip(module._exec_group.param_names, module._exec_group.param_arrays)
    for name, (array, *_) in arrays:
        if name not in shapes:
            log.info('%s has no %s: it starts from random values', model, name)
        elif shapes[name] != array.shape:
            shape = f'shape {shapes[name]}, here it is {array.shape}'
            log.info('%s of %s has %s: it starts from random values', name, model, shape)
            arg_params = {key: value for key, value in arg_params.items() if key != name}
    return arg_params


def _start_optimizer(module, config: TrainConfig, state: TrainState, lr_at, kvstore) -> None:
    module.init_optimizer(
        kvstore=kvstore,
        optimizer='sgd',
        optimizer_params={
            'momentum': config.mom,
            'wd': config.wd,
            'lr_scheduler': lr_at,
            'begin_num_update': state.step,
            'rescale_grad': 1.0 / config.global_batch_size,
        },
    )
    if config.clip_gradient:
        module._updater = clipping_updater(module._optimizer, config.clip_gradient)
    if state.number:
        _load_momenta(module, optimizer_path(config.prefix, state.number))


def _load_momenta(module, path: Path) -> None:
    """Give the optimizer the state that a checkpoint holds; InputError where it is another's."""
    states = read_states(path)
    names, weights = module._optimizer.idx2name, module.get_params()[0]
    for number, state in states.items():
        for part in state if isinstance(state, tuple) else (state,):
            wanted = weights[names[number]].shape if number in names else 'no such parameter'
            if part is not None and part.shape != wanted:
                raise InputError(
                    f'{path}: the momentum of parameter {number} has the shape {part.shape}, in '
                    f'this network {wanted}; it is of another run'
                )

    def on_device(state):
        if isinstance(state, tuple):
            return tuple(on_device(part) for part in state)
        return None if state is None else mx.nd.array(state, dtype=state.dtype)

    updater = module._updater
    updater.states = {number: on_device(state) for number, state in states.items()}
    updater.states_synced = dict.fromkeys(states, False)  # moved to the parameter's device


class _BadRecord(InputError):
    """A record that cannot be read, and may not be left out."""


def _batches(data: FaceRecordIter, teacher: Optional[EmbeddingSource]) -> Iterator:
    """Batches without end, with the teacher's embeddings as a second input."""
    while True:
        try:
            batch = data.next()
        except StopIteration:
            data.reset()
            continue
        except InputError as error:
            raise _BadRecord(str(error)) from None
        if teacher:
            batch.data.append(teacher.of_batch(batch))
        yield batch


def first_state(config: TrainConfig, resume: bool, overwrite: bool) -> TrainState:
    """Where to start; InputError where checkpoints lie in the way and nothing was said of them."""
    output_folder(config.run_folder)
    numbers = checkpoint_numbers(config.prefix)
    if overwrite:
        return TrainState()
    if numbers and not resume:
        raise InputError(
            f'{config.run_folder} already holds checkpoint {numbers[-1]}; give --resume to go on '
            'with it, --overwrite to start anew, or another --name'
        )
    return newest_state(config) or TrainState()


def _clear(config: TrainConfig, overwrite: bool) -> None:
    """Remove what a killed run left half-written and, to overwrite, the run's checkpoints."""
    for path in config.run_folder.glob(f'.{config.prefix.name}-*'):
        path.unlink(missing_ok=True)
    for number in checkpoint_numbers(config.prefix) if overwrite else ():
        remove_checkpoint(config.prefix, number)


def _name_classes(config: TrainConfig, names: Sequence[str]) -> None:
    """Write who the class numbers of the run are, where the data tell."""
    path = config.run_folder / CLASSES
    path.unlink(missing_ok=True)
    if names:
        atomic_write(path, ''.join(f'{name}\n' for name in names))


def create_kvstore(name: str):
    """The Module's kvstore: a name, or the connected store of a dist_sync process.

    Updates are always made by the workers, never by the servers: every worker then holds the whole
    optimizer state, and one checkpoint format serves one process and many.
    """
    if name.startswith('dist') and 'DMLC_ROLE' not in os.environ:
        raise InputError(
            f'--kvstore {name}: this process is no part of a parameter server (DMLC_ROLE is not '
            'set); start all of them with recognition/dist_train.sh'
        )
    os.environ['MXNET_UPDATE_ON_KVSTORE'] = '0'
    return mx.kv.create(name) if name.startswith('dist') else name


@dataclass
class _Run:
    """What a run is made of once everything was read and bound."""

    config: TrainConfig
    rank: int
    embedding: 'mx.sym.Symbol'
    weights: Weights
    data: FaceRecordIter
    teacher: Optional[EmbeddingSource]
    targets: dict
    embedder: Embedder
    state: TrainState
    lr_at: LRSequential


def views_of(config: TrainConfig) -> Optional[Views]:
    """The views that a run draws its pictures from, if it does."""
    if not config.views:
        return None
    augmentations = make_augmentations(config.augment, config.augment_options)
    return Views(augmentations, config.views, config.view_seed)


def _open_source(config: TrainConfig, size: int, devices: list) -> Optional[EmbeddingSource]:
    """What gives the embeddings to distil from; None without a teacher."""
    if not config.teacher:
        return None
    if config.teacher.endswith(SUFFIX):
        rows = TeacherFile(config.teacher, config.data_dir)
        check_sizes(config.teacher, rows.embedding_size, size, config.teacher_lift)
        return lifted(StoredTeacher(rows), rows.embedding_size, size)
    teacher = open_teacher(config.teacher, config.teacher_input)
    teacher.check_student(size, config.teacher_lift)
    if config.teacher_store:
        header = teacher.header(config.data_dir, views_of(config))
        source = StoredTeacher(TeacherStore(config.teacher_store, header))
    else:
        source = teacher.live(devices, config.per_batch_size * len(devices))
    return lifted(source, teacher.embedding_size, size)


def _prepare(
    config: TrainConfig, resume: bool, overwrite: bool, kvstore, teacher: Optional[EmbeddingSource]
) -> _Run:
    """Read and bind everything; what is wrong with the input shows here, before the first step."""
    rank = getattr(kvstore, 'rank', 0)
    devices = parse_devices(config.devices)
    embedding = get_symbol(config.network, **config.network_options)
    target_paths(config)  # in every process: one that fails alone would leave the others waiting
    targets = load_targets(config) if rank == 0 else {}
    batch_size = config.per_batch_size * len(devices)
    teacher = teacher or _open_source(config, embedding_size(embedding), devices)
    module = training_module(embedding, config, devices)
    # a process counts what it reads itself, and a resumed one goes on counting
    path = config.run_folder / f'left-out-{rank}.json'
    left_out = LeftOut(config.skip_corrupt, path, anew=not resume)
    data = FaceRecordIter(
        config.data_dir,
        batch_size,
        shuffle=config.shuffle,
        seed=config.seed,
        num_parts=config.num_workers,
        part_index=rank,
        threads=config.threads or None,
        augment=config.augment,
        augment_options=config.augment_options,
        views=config.views,
        view_seed=config.view_seed,
        accumulate=config.accumulate,
        left_out=left_out,
    )
    state = first_state(config, resume, overwrite)
    left_out.begin()
    _start_weights(module, config, state, embedding, _constants(module, config, teacher))
    lr_at = learning_rate_of(config)
    _start_optimizer(module, config, state, lr_at, kvstore)
    data.seek(*divmod(state.step * config.accumulate, data.batches_per_epoch))
    head = _start_head(module, config, state, embedding, data.class_names)
    weights = Weights(module, head, _weight_average(module, config, state))
    embedder = Embedder(Network(embedding, *module.get_params()), devices)
    return _Run(config, rank, embedding, weights, data, teacher, targets, embedder, state, lr_at)


def _start_head(module, config: TrainConfig, state: TrainState, embedding, names) -> GraphHead:
    """The head of the run, as the checkpoint left it or from the start."""
    head = make_head(module, embedding, config)
    if state.number:
        head.resume(config.prefix, state.number)
    else:
        head.begin(config.pretrained, names)
    return head


def _weight_average(module, config: TrainConfig, state: TrainState) -> Optional[WeightAverage]:
    """The average of the weights, as the checkpoint left it or from the weights of the start."""
    if not config.ema:
        return None
    path = checkpoint.params_path(config.prefix, state.number)
    return WeightAverage(module, config.ema, checkpoint.load_params(path) if state.number else None)


def _steps(run: _Run, watch: Stopwatch, log_hook, other_hooks: list) -> Iterator[None]:
    """Updates until `total_steps`; yields after each, when its hooks have run."""
    config, module, state = run.config, run.weights.module, run.state
    head, average, passes = run.weights.head, run.weights.average, run.config.accumulate
    gradients = GradientSum(module)
    batches = _batches(run.data, run.teacher if TEACHER in module.data_names else None)
    while state.step < config.total_steps:
        # all at first: a record that cannot be read must not leave half a step behind
        for number, batch in enumerate([next(batches) for _ in range(passes)], 1):
            # Dropout's random numbers become a function of (seed, pass): a resumed run draws the
            # same.
            place = state.step * passes + number - 1
            mx.random.seed(config.seed * 1_000_003 + place * config.num_workers + run.rank)
            head.forward_backward(batch, run.lr_at(state.step + 1), state.step + 1)
            if number < passes:
                gradients.keep()
                keep_states(module)
                log_hook.see(head.outputs())
        gradients.give_back()
        module.update()
        keep_states(module)
        # At most one step ahead of the device: a stop takes effect soon, the bar tells the truth.
        module.get_outputs()[0].wait_to_read()
        state.step += 1
        log_hook.see(head.outputs())
        log_hook(state)
        if average:
            average.update(state.step)
        with watch.paused():
            for hook in other_hooks:
                hook(state)
        yield


def train(
    config: TrainConfig,
    resume: bool = False,
    overwrite: bool = False,
    kvstore=None,
    teacher: Optional[EmbeddingSource] = None,
) -> TrainResult:
    """Train as `config` says.

    Parameters
    ----------
    config : the resolved configuration
    resume : go on with the newest checkpoint of `config.run_folder`, if there is one
    overwrite : delete the checkpoints that lie there
    kvstore : of `create_kvstore`; by default made from `config.kvstore`
    teacher : an open source of the embeddings to distil from; by default opened as `config` says

    Raises
    ------
    InputError before the first step: data, targets, weights or folder are not right.
    RunError when the loss is no longer finite; the last good checkpoint stays.
    KeyboardInterrupt after Ctrl-C, SIGTERM or SIGHUP, once the step is done and saved.
    """
    kvstore = kvstore or create_kvstore(config.kvstore)
    first = isinstance(kvstore, str) or kvstore.rank == 0  # the one that writes
    with exclusive(output_folder(config.run_folder)) if first else contextlib.nullcontext():
        return _train(config, resume, overwrite, kvstore, teacher)


def _train(config, resume: bool, overwrite: bool, kvstore, teacher) -> TrainResult:
    run = _prepare(config, resume, overwrite, kvstore, teacher)
    state = run.state
    history, verify_hook, save_hook = _watchers(run, overwrite)
    progress = console.progress(
        config.total_steps, f'training {config.name}', 'steps', start=state.step
    )
    try:
        with stop_signals() as stop, progress as bar:
            watch, start = Stopwatch(), state.step
            log_hook = LogHook(config, run.lr_at, watch, history, bar)

            def save() -> str:
                """Which checkpoint holds all that was done."""
                if state.step > start:
                    state.seconds += watch.lap()  # of the steps since the last log line
                    save_hook.save(state)
                return last_checkpoint(config, state)

            try:
                for _ in _steps(run, watch, log_hook, [verify_hook, save_hook]):
                    if stop and state.step < config.total_steps:
                        log.info('stopped at step %d (%s); go on with --resume', state.step, save())
                        raise console.Interrupted(stop.number)
            except _BadRecord as error:
                raise InputError(
                    f'{error}; stopped at step {state.step} ({save()}). --resume goes on, with '
                    f'--skip-corrupt N without up to N such records'
                ) from None
            if not verify_hook.results:  # resumed after its end
                verify_hook(state)
    finally:
        run.data.close()
        history.close()
    if run.data.left_out:
        log.warning('%d records were left out', len(run.data.left_out))
    history.draw(config.name)
    return _result(config, state, verify_hook.results)


def _watchers(run: _Run, overwrite: bool) -> tuple[NoHistory, VerifyHook, NoSaveHook]:
    """History, verification and saving; the first process of a run alone writes and verifies."""
    config = run.config
    if run.rank:
        history = NoHistory()
        return history, VerifyHook(config, run.weights, run.embedder, {}, history), NoSaveHook()
    if not config.val_targets:
        found = sorted(path.stem for path in Path(config.data_dir).glob('*.bin'))
        beside = f', though {config.data_dir} holds {", ".join(found)}' if found else ''
        log.info('nothing is verified: no --target was given%s', beside)
    _clear(config, overwrite)
    _name_classes(config, run.data.class_names)
    history = History(config.run_folder, run.state)
    verify_hook = VerifyHook(config, run.weights, run.embedder, run.targets, history)
    save_hook = SaveHook(config, run.weights, run.embedding, verify_hook)
    return history, verify_hook, save_hook


def _result(
    config: TrainConfig, state: TrainState, targets: dict[str, VerificationResult]
) -> TrainResult:
    kept = checkpoint_numbers(config.prefix)
    best = state.best_number if state.best_number in kept else state.number
    return TrainResult(
        model=f'{config.prefix},{state.number}' if kept else None,
        best_model=f'{config.prefix},{best}' if kept else None,
        steps=state.step,
        seconds=state.seconds,
        images_per_second=state.step * config.global_batch_size / max(state.seconds, 1e-9),
        targets=targets,
    )
