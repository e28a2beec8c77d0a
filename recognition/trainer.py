"""The training loop: one configuration in, one trained checkpoint out."""

import argparse
import contextlib
import logging
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple, Optional

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
from ..common.ranks import Ranks
from ..eval.verification import VerificationResult
from ..symbol import get_symbol
from .augmentations import make_augmentations
from .class_centres import class_centres, labels_of
from .config import TrainConfig
from .data import FaceRecordIter
from .distillation import DISTILLATION_LOSSES
from .graph import embedding_size, keep_states, state_arrays, state_names, training_module
from .heads import make_head
from .hooks import (
    HelpSaveHook,
    History,
    LogHook,
    NoHistory,
    SaveHook,
    StopRequest,
    Stopwatch,
    VerifyHook,
    Weights,
    last_checkpoint,
    load_targets,
    momenta,
    stop_signals,
    target_paths,
)
from .losses import make_loss
from .processes import Processes, connect, join
from .run_state import (
    TrainState,
    checkpoint_numbers,
    learning_rate_of,
    newest_state,
    optimizer_path,
    raw_path,
    remove_checkpoint,
)
from .schedules import LRSequential
from .teacher import EmbeddingSource, StoredTeacher, check_sizes, open_teacher
from .teacher_file import SUFFIX, TeacherFile
from .teacher_lift import lifted
from .teacher_store import TeacherStore
from .updates import GradientSum, RankSum, WeightAverage, clipping_updater
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
    sent_bytes: Mapping[str, int]  # what this rank gave to the others, by name; this part's

    def summary(self) -> dict:
        """As plain values for the command's JSON line."""
        targets = {name: result.summary() for name, result in self.targets.items()}
        return {**vars(self), 'targets': targets, 'sent_bytes': dict(self.sent_bytes)}


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
    labels = labels_of(config.data_dir, teacher.rows, skip=config.skip_corrupt > 0)
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


def _start_optimizer(module, config: TrainConfig, step: int, lr_at, kvstore) -> None:
    module.init_optimizer(
        kvstore=kvstore,
        optimizer='sgd',
        optimizer_params={
            'momentum': config.mom,
            'wd': config.wd,
            'lr_scheduler': lr_at,
            'begin_num_update': step,
            'rescale_grad': 1.0 / config.global_batch_size,
        },
    )
    if config.clip_gradient:
        module._updater = clipping_updater(module._optimizer, config.clip_gradient)


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
    _set_momenta(module, states)


def _set_momenta(module, states: dict) -> None:
    """Give the optimizer its state, by the numbers of parameters."""

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


class Start(NamedTuple):
    """What to do with the checkpoints that are there; False for all: there must be none."""

    resume: bool = False  # go on with the newest one
    overwrite: bool = False  # delete them
    batch_may_change: bool = False  # go on although the images a step are not as many


ANEW = Start()


def start_of(args: argparse.Namespace) -> Start:
    """As a command line says it."""
    return Start(args.resume, args.overwrite, args.batch_may_change)


def check_free(config: TrainConfig, start: Start) -> None:
    """InputError where checkpoints lie in the way and nothing was said of them."""
    numbers = checkpoint_numbers(config.prefix)
    if numbers and not start.resume and not start.overwrite:
        raise InputError(
            f'{config.run_folder} already holds checkpoint {numbers[-1]}; give --resume to go on '
            'with it, --overwrite to start anew, or another --name'
        )


def first_state(
    config: TrainConfig, start: Start, told: logging.Logger = log
) -> tuple[TrainConfig, TrainState]:
    """What to run, and from where; InputError as `check_free`. What a resumed run should know is
    `told`."""
    output_folder(config.run_folder)
    check_free(config, start)
    if start.overwrite:
        return config, TrainState()
    return newest_state(config, start.batch_may_change, told) or (config, TrainState())


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


@dataclass
class _Run:
    """What a run is made of once everything was read and bound."""

    config: TrainConfig
    processes: Processes
    embedding: 'mx.sym.Symbol'
    weights: Weights
    data: FaceRecordIter
    teacher: Optional[EmbeddingSource]
    targets: dict
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


# Learning rate for each person of a step with which class centres of LFW were learned; with four
# times as much they were not (docs/losses.md).
_LR_A_PERSON = 0.0022


def _warn_of_few_people(config: TrainConfig, per_batch: Optional[float]) -> None:
    """Warn where pictures of a person lie beside each other (`per_batch` people, else None), and
    the learning rate is more than twice what class centres were learned with."""
    learns = config.classification and make_loss(config.loss, config.loss_options).centres_per_class
    if config.teacher:
        learns = learns or DISTILLATION_LOSSES.get(config.distill).classifies
    if per_batch is None or not learns:
        return
    people = per_batch * config.num_workers * config.accumulate
    if config.lr > 2 * _LR_A_PERSON * people:
        log.warning(
            '--shuffle people: the %d pictures of a step are of %.0f people, and those of one '
            'person move class centres and network the same way; with --lr %g that may learn '
            'nothing (docs/losses.md). Try --lr %.2g',
            *(config.global_batch_size, people, config.lr, _LR_A_PERSON * people),
        )


def _prepare(
    config: TrainConfig,
    resume: bool,
    state: TrainState,
    processes: Processes,
    teacher: Optional[EmbeddingSource],
) -> _Run:
    """Read and bind everything; what is wrong with the input shows here, before the first step.

    Of several ranks the first one alone reads checkpoints; what it read, `_share` gives the others.
    """
    rank = processes.rank
    follows = processes.ranks.rank > 0
    devices = parse_devices(config.devices)
    embedding = get_symbol(config.network, **config.network_options)
    if not follows:
        target_paths(config)  # of a parameter server, in all: one that fails would leave the others
    targets = load_targets(config) if rank == 0 else {}
    batch_size = config.per_batch_size * len(devices)
    teacher = teacher or _open_source(config, embedding_size(embedding), devices)
    module = training_module(embedding, config, devices, processes.ranks)
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
    left_out.begin()
    if follows:
        _start_weights(module, replace(config, pretrained=''), TrainState(), embedding, {})
    else:
        _warn_of_few_people(config, data.people_per_batch)
        constants = _constants(module, config, teacher)
        _start_weights(module, config, state, embedding, constants)
    lr_at = learning_rate_of(config)
    _start_optimizer(module, config, state.step, lr_at, processes.kvstore)
    if state.number and not follows:
        _load_momenta(module, optimizer_path(config.prefix, state.number))
    head = make_head(module, embedding, config, processes.ranks)
    # the first process alone shows and saves an average
    average = None if follows else _weight_average(module, config, state)
    weights = Weights(module, head, average)
    return _Run(config, processes, embedding, weights, data, teacher, targets, state, lr_at)


def _share(run: _Run) -> None:
    """Give all ranks the weights and momenta of the first one, go to the place in the data, and
    start the head, which may be spread over the ranks."""
    config, module, state, ranks = run.config, run.weights.module, run.state, run.processes.ranks
    if ranks.size > 1:
        parts = [
            ranks.share({name: array.asnumpy() for name, array in part.items()}, 'weights')
            for part in module.get_params()
        ]
        module.set_params(
            *({name: mx.nd.array(array) for name, array in part.items()} for part in parts)
        )
        if state.number:
            _set_momenta(module, ranks.share(momenta(module), 'momenta'))
    run.data.seek(*divmod(state.step * config.accumulate, run.data.batches_per_epoch))
    if state.number:
        run.weights.head.resume(config.prefix, state.number)
    else:
        run.weights.head.begin(config.pretrained, run.data.class_names)


def _weight_average(module, config: TrainConfig, state: TrainState) -> Optional[WeightAverage]:
    """The average of the weights, as the checkpoint left it or from the weights of the start."""
    if not config.ema:
        return None
    path = checkpoint.params_path(config.prefix, state.number)
    return WeightAverage(module, config.ema, checkpoint.load_params(path) if state.number else None)


def _steps(
    run: _Run, watch: Stopwatch, log_hook, other_hooks: list, stop: StopRequest
) -> Iterator[bool]:
    """Updates until `total_steps`; yields after each, when its hooks have run, whether the run, in
    whatever process, was asked to stop."""
    config, module, state = run.config, run.weights.module, run.state
    head, average, passes = run.weights.head, run.weights.average, run.config.accumulate
    gradients = GradientSum(module)
    ranks = RankSum(module, state_arrays(module), run.processes.ranks)
    batches = _batches(run.data, run.teacher if TEACHER in module.data_names else None)
    while state.step < config.total_steps:
        # all at first: a record that cannot be read must not leave half a step behind
        for number, batch in enumerate([next(batches) for _ in range(passes)], 1):
            # Dropout's random numbers become a function of (seed, pass): a resumed run draws the
            # same.
            place = state.step * passes + number - 1
            mx.random.seed(
                config.seed * 1_000_003 + place * config.num_workers + run.processes.rank
            )
            head.forward_backward(batch, run.lr_at(state.step + 1), state.step + 1)
            if number < passes:
                gradients.keep()
                keep_states(module)
                log_hook.see(head.outputs())
        gradients.give_back()
        asked = ranks.gradients(bool(stop))
        module.update()
        keep_states(module)
        ranks.states()
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
        yield asked if run.processes.ranks.size > 1 else bool(stop)


def train(
    config: TrainConfig,
    start: Start = ANEW,
    processes: Optional[Processes] = None,
    teacher: Optional[EmbeddingSource] = None,
) -> TrainResult:
    """Train as `config` says.

    Parameters
    ----------
    config : the resolved configuration
    start : what to do with the checkpoints of `config.run_folder`
    processes : that take part, this one among them; by default as this one was started
    teacher : an open source of the embeddings to distil from; by default opened as `config` says

    Raises
    ------
    InputError before the first step: data, targets, weights or folder are not right.
    RunError when the loss is no longer finite; the last good checkpoint stays.
    KeyboardInterrupt after Ctrl-C, SIGTERM or SIGHUP, once the step is done and saved.
    """
    processes = processes or join(config.kvstore, connect())
    folder = output_folder(config.run_folder)
    with exclusive(folder) if processes.is_first else contextlib.nullcontext():
        return _train(config, start, processes, teacher)


def _first_state_of_all(
    config: TrainConfig, start: Start, ranks: Ranks
) -> tuple[TrainConfig, TrainState]:
    """`first_state` of the first rank, which alone reads checkpoints."""

    def read() -> tuple[dict, dict]:
        found, state = first_state(config, start)
        # the rest may be a rank's own: where it is, how many threads it takes
        steps = {'total_steps': found.total_steps, 'warmup_steps': found.warmup_steps}
        return steps, asdict(state)

    steps, state = ranks.told(read, 'state')
    return replace(config, **steps), TrainState(**state)


def _train(config, start: Start, processes: Processes, teacher) -> TrainResult:
    ranks = processes.ranks
    config, state = _first_state_of_all(config, start, ranks)
    run = ranks.in_turn(lambda: _prepare(config, start.resume, state, processes, teacher), 'start')
    _share(run)
    history, verify_hook, save_hook = _watchers(run, start.overwrite)
    progress = console.progress(
        config.total_steps, f'training {config.name}', 'steps', start=state.step
    )
    try:
        with stop_signals() as stop, progress as bar:
            watch, first_step = Stopwatch(), state.step
            log_hook = LogHook(config, run.lr_at, watch, history, bar, ranks)

            def save() -> str:
                """Which checkpoint holds all that was done."""
                if state.step > first_step:
                    state.seconds += watch.lap()  # of the steps since the last log line
                    save_hook.save(state)
                return last_checkpoint(config, state)

            try:
                for asked in _steps(run, watch, log_hook, [verify_hook, save_hook], stop):
                    if asked and state.step < config.total_steps:
                        log.info('stopped at step %d (%s); go on with --resume', state.step, save())
                        raise console.Interrupted(stop.number or signal.SIGTERM)
            except _BadRecord as error:
                # the others are in the middle of the next step
                alone = ranks.size == 1
                kept = save() if alone else last_checkpoint(config, state)
                again = 'go on with --resume' if state.number else 'begin again'
                raise InputError(
                    f'{error}; stopped at step {state.step} ({kept}). Mend or remove it and {again}'
                ) from None
            if not verify_hook.results:  # resumed after its end
                verify_hook(state)
    finally:
        run.data.close()
        history.close()
    if run.data.left_out:
        log.warning('%d records were left out', len(run.data.left_out))
    history.draw(config.name)
    return _result(config, state, verify_hook.results, ranks.sent)


def _watchers(run: _Run, overwrite: bool) -> tuple[NoHistory, VerifyHook, HelpSaveHook]:
    """History, verification and saving; the first process of a run alone writes and verifies."""
    config = run.config
    embedder = Embedder(
        Network(run.embedding, *run.weights.newest()), parse_devices(config.devices)
    )
    if not run.processes.is_first:
        history = NoHistory()
        verify_hook = VerifyHook(config, run.weights, embedder, {}, history)
        return history, verify_hook, HelpSaveHook(config, run.weights, verify_hook)
    if not config.val_targets:
        found = sorted(path.stem for path in Path(config.data_dir).glob('*.bin'))
        beside = f', though {config.data_dir} holds {", ".join(found)}' if found else ''
        log.info('nothing is verified: no --target was given%s', beside)
    log.info(
        'training %s: %s on %s, step %d to %d of %d images, in %s',
        *(config.name, config.network, config.data_dir, run.state.step, config.total_steps),
        *(config.global_batch_size, config.run_folder),
    )
    _clear(config, overwrite)
    _name_classes(config, run.data.class_names)
    history = History(config.run_folder, run.state)
    verify_hook = VerifyHook(config, run.weights, embedder, run.targets, history)
    save_hook = SaveHook(config, run.weights, run.embedding, verify_hook)
    return history, verify_hook, save_hook


def _result(
    config: TrainConfig,
    state: TrainState,
    targets: dict[str, VerificationResult],
    sent_bytes: Mapping[str, int],
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
        sent_bytes=sent_bytes,
    )
