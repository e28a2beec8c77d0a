"""A study's results.json and report.html: they grow with its runs, and are whole at any moment."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ... import __version__
from ...common.checked_json import write_checked
from ...common.errors import InputError
from ...common.files import atomic_write
from ...eval.report.page import Section, page
from . import results
from .measured import MeasuredRuns
from .page import all_claims, lead, sections
from .plan import Study
from .runner import Runner

log = logging.getLogger(__name__)

RESULTS, PAGE = 'results.json', 'report.html'


def draw(result: dict[str, Any]) -> tuple[list[Section], str]:
    """The sections and the page of a result."""
    found = sections(result)
    subtitle = f'{len(result["arms"])} arms · {result["machine"]} · vargfacenet {result["version"]}'
    return found, page(result['title'], subtitle, found, lead(all_claims(result)), 'study')


class Report:
    """Writes both files, of the runs that have been tested.

    Parameters
    ----------
    runner : which runs the jobs of the study
    about : arm -> what the table says of it
    known : runs from elsewhere
    out : folder of the two files
    """

    def __init__(
        self,
        study: Study,
        runner: Runner,
        about: Mapping[str, Mapping],
        known: Mapping[str, results.Run],
        out: Path,
    ):
        self._study, self._runner = study, runner
        self._about, self._known = about, known
        self._runs = MeasuredRuns(study, runner.records)
        self._tests = 0  # that had ended here when the files were written last
        self.results, self.page = out / RESULTS, out / PAGE

    def write(self) -> tuple[dict[str, Any], list[Section]]:
        """Write both; returns the result and the sections of its page."""
        self._tests = self._runner.tests
        result = results.gather(
            self._study, self._runner.records, self._runs, self._about, self._known
        )
        result['version'] = __version__
        found, html = draw(result)
        write_checked(self.results, result, allow_nan=False)
        atomic_write(self.page, html)
        return result, found

    def grow(self) -> None:
        """Write both where a test has ended since. What is in the way of that is told, and no
        reason to stop the runs; the end of the study meets it again."""
        if self._tests < self._runner.tests:
            try:
                self.write()
            except (InputError, OSError) as error:
                log.warning('%s is not written yet: %s', self.results, error)

    def write_what_is_there(self) -> None:
        """Write both for a study that ends before its time, and say so in a line."""
        try:
            result, _ = self.write()
        except (InputError, OSError) as error:
            log.warning('%s is not written: %s', self.results, error)
            return
        tested = sum(len(arm['runs']) for arm in result['arms'].values())
        log.info(
            '%s and %s hold the %d of %d runs that are there; the same command goes on',
            *(self.results, self.page, tested, tested + len(result['missing'])),
        )
