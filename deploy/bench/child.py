"""Measurements in processes of their own: memory, environment and libraries loaded are theirs.

`run` calls a function once; a `Worker` keeps what it makes and calls it again and again. The
functions are those of modules that the new process imports, and their arguments travel as JSON.
"""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from typing import Any, Optional

from ...common.child import module_words
from ...common.console import imported
from ...common.errors import InputError, RunError
from ...common.plugins import load_plugins
from .measure import repeated

Environment = Optional[dict[str, str]]

_ONCE, _AGAIN = 'once', 'again'
_WRONG_INPUT = 2
_SHOWN = 60  # characters of an answer


def command(*words: str, environment: Environment = None) -> dict:
    """Run `python -m WORDS` to its end; the JSON object of its last line.

    Raises
    ------
    RunError if it fails or answers no JSON, InputError if it exits with 2; with its last line.
    """
    return program(*module_words(*words), name=words[0], environment=environment)


def program(*words: str, name: str, environment: Environment = None) -> dict:
    """Run a program to its end; what it returns and raises is as of `command`."""
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        raise _failure(name, done.returncode, done.stderr)
    return _read(name, (done.stdout.strip().splitlines() or [''])[-1])


def _read(name: str, line: str) -> Any:
    """What a program has answered; RunError for what is no JSON."""
    try:
        return json.loads(line)
    except ValueError:
        raise RunError(f'{name}: its answer is no JSON: {line.strip()[:_SHOWN]!r}') from None


def _failure(what: str, code: int, errors: str) -> Exception:
    reason = (errors.strip().splitlines() or [f'exit code {code}'])[-1]
    return InputError(reason) if code == _WRONG_INPUT else RunError(f'{what}: {reason}')


def _words(how: str, function: Callable, options: dict) -> list[str]:
    return [__name__, how, function.__module__, function.__name__, json.dumps(options)]


def run(function: Callable, environment: Environment = None, **options) -> dict:
    """Result of function(**options) in a new process; errors as of `command`."""
    return command(*_words(_ONCE, function, options), environment=environment)


class Program:
    """A process that has made something to call, and calls it whenever it is told to.

    It writes a line of JSON when it is ready, what there is to tell of what it made, and then, for
    every line with a number of seconds that it reads, the seconds of each call as a JSON list.

    Parameters
    ----------
    words : what to run
    name : of what it makes, for messages
    environment : of the process, beside what is there; an empty text is like a variable not set

    Attributes
    ----------
    about : what it has told; `[]` is nothing

    Raises
    ------
    RunError where it ends before it is ready, InputError where it ends with exit code 2.
    """

    def __init__(self, words: list[str], name: str, environment: Environment = None):
        self._name = name
        self._errors = tempfile.TemporaryFile('w+')  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        try:
            self.about = self._answer()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> 'Program':
        return self

    def __exit__(self, *_) -> None:
        self.close()

    @property
    def has_ended(self) -> bool:
        """Whether it can no longer be called."""
        return self._process.poll() is not None

    def __call__(self, seconds: float) -> list[float]:
        """Call for some seconds, at least once: the seconds of each call."""
        with contextlib.suppress(BrokenPipeError):  # it is dead, and the answer says why
            self._process.stdin.write(f'{seconds}\n')
            self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._errors.seek(0)
            raise _failure(self._name, code, self._errors.read())
        return _read(self._name, line)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()
        self._errors.close()


class Worker(Program):
    """A process that makes something here, and calls it whenever it is told to.

    Parameters
    ----------
    make : its make(**options) returns a function without arguments, perhaps with an attribute
        `about` as that of `Program`; it is called once at first, which does not count
    environment : as of `Program`

    Raises
    ------
    RunError where making or the first call fails, InputError where one is raised.
    """

    def __init__(self, make: Callable, environment: Environment = None, **options):
        words = module_words(*_words(_AGAIN, make, options))
        super().__init__(words, f'{make.__name__} {options}', environment)


def _main(how: str, module: str, name: str, options: str) -> None:
    # whatever libraries print must not get between the answers
    answers = os.fdopen(os.dup(1), 'w')
    os.dup2(2, 1)
    try:
        load_plugins()
        result = getattr(imported(module), name)(**json.loads(options))
        if how == _ONCE:
            answers.write(json.dumps(result) + '\n')
            answers.close()
            return
        result()
    except InputError as error:
        sys.stderr.write(f'{error}\n')
        raise SystemExit(_WRONG_INPUT) from None
    call = repeated(result)
    answers.write(json.dumps(getattr(result, 'about', [])) + '\n')
    answers.flush()
    for line in sys.stdin:
        answers.write(json.dumps(call(float(line))) + '\n')
        answers.flush()


if __name__ == '__main__':
    _main(*sys.argv[1:])
