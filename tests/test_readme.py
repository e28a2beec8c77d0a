"""The commands, options and Python of the README and of docs/ are those of the code."""

import argparse
import importlib
import re
import shlex

import pytest
from conftest import ROOT
from vargfacenet.__main__ import COMMANDS
from vargfacenet.common.launch.__main__ import build_parser as launcher_parser

PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
README = '\n'.join(path.read_text() for path in PAGES)


def shown_commands():
    """Every `vargfacenet COMMAND ...` in a code block or a table, as words."""
    blocks = re.findall(r'```bash\n(.*?)```', README, re.S)
    lines = '\n'.join(blocks).replace('\\\n', ' ').splitlines()
    lines += re.findall(r'`([^`\n]+)`', re.sub(r'```.*?```', '', README, flags=re.S))
    for line in lines:
        words = shlex.split(line, comments=True)
        if words[:1] == ['vargfacenet'] and len(words) > 1:
            yield words[1:]


def parser_of(words):
    """(parser, words for it) of a command; bench hands over to one of its own commands."""
    module = importlib.import_module(f'vargfacenet.{COMMANDS[words[0]][0]}')
    if words[0] != 'bench':
        return module.main.parser(), words[1:]
    name, _ = module.BENCHMARKS[words[1]]
    return importlib.import_module(f'vargfacenet.deploy.bench.{name}').main.parser(), words[2:]


@pytest.mark.parametrize('words', list(shown_commands()), ids=' '.join)
def test_a_shown_command_parses(words):
    parser, rest = parser_of(words)
    parser.parse_args(rest)


def test_every_command_is_shown():
    assert {words[0] for words in shown_commands()} >= set(COMMANDS)


def options(parser):
    """Every option of a parser and of its subcommands."""
    yield from parser._option_string_actions
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from options(subparser)


def test_shown_options_exist():
    """Options named in the text belong to some command or script."""
    known = {
        '--all',
        '--logdir',
        '--help',
        '--no-build-isolation',
        '--require-hashes',
        '--no-deps',
        '--only-binary',
        '--get',
        '--data-urlencode',
    }
    known.update(options(launcher_parser()))
    for words in [[name] for name in COMMANDS if name != 'bench'] + list(shown_commands()):
        known.update(options(parser_of(words)[0]))
    assert set(re.findall(r'(?<![\w-])--[a-z][\w-]*', README)) <= known


def test_shown_python_imports():
    for block in re.findall(r'```python\n(.*?)```', README, re.S):
        for line in re.findall(r'^from .*$', block, re.M):
            exec(line, {})


def test_shown_files_exist():
    folders = '|'.join(('symbol', 'recognition', 'common', 'tests', 'eval', 'deploy', 'docs'))
    names = re.findall(rf'(?<![\w/])(?:{folders})(?:/\w+)+\.(?:sh|py|md)', README)
    assert len(names) > 5
    for name in names:
        assert (ROOT / name).exists(), name


def heading_anchors(path):
    """The anchors that a page's headings have on GitHub."""
    text = re.sub(r'```.*?```', '', path.read_text(), flags=re.S)
    return {
        re.sub(r'[^\w\- ]', '', heading.strip().lower()).replace(' ', '-')
        for heading in re.findall(r'^#+ (.*)$', text, re.M)
    }


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Pages, headings and pictures that the text links to are there."""
    for link in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
        if link.startswith('http'):
            continue
        name, _, anchor = link.partition('#')
        target = page.parent / name if name else page
        assert target.is_file(), link
        assert not anchor or anchor in heading_anchors(target), link


def test_every_page_is_found_from_the_readme():
    linked = set(re.findall(r'\]\(docs/(\w+\.md)', PAGES[0].read_text()))
    of_pages = {
        link for page in PAGES[1:] for link in re.findall(r'\]\((\w+\.md)', page.read_text())
    }
    assert {page.name for page in PAGES[1:]} <= linked | of_pages
