"""The pages hold what they say: their commands are commands, their Python runs, the page of commands is current."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from cli_reference import reference

from ebmcli.cli._app import COMMANDS, load

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = ROOT / "docs" / "cli.md"


def text(page: Path = README) -> str:
    """A page."""
    assert page.is_file(), f"{page.name} is missing"
    return page.read_text(encoding="utf-8")


def fences(page: Path = README) -> list[tuple[str, str]]:
    """Language and content of every fenced block, in order."""
    found: list[tuple[str, str]] = []
    language: str | None = None
    for line in text(page).splitlines():
        if line.startswith("```"):
            if language is None:
                language = line.removeprefix("```").strip()
                found.append((language, ""))
            else:
                language = None
        elif language is not None:
            found[-1] = (language, f"{found[-1][1]}{line}\n")
    return found


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in order."""
    return [content for name, content in fences() if name == language]


def command_lines(page: Path) -> list[str]:
    """Every `ebm …` in blocks of commands and in code within sentences, without comments and prompts."""
    lines = []
    prose = re.sub(r"^```.*?^```", "", text(page), flags=re.MULTILINE | re.DOTALL)
    spans = [" ".join(span.split()) for span in re.findall(r"`(ebm [^`]+)`", prose)]
    shells = [content for name, content in fences(page) if name in ("", "bash", "console", "sh")]
    for block in [*shells, *spans]:
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"&&|\|\||[;|]", line.removeprefix("$ ")):
                if not re.search(r"\bebm\b", part):
                    continue
                words = shlex.split(part, comments=True)
                while words and re.fullmatch(r"\w+=.*", words[0]):
                    words = words[1:]
                if words and words[0] == "ebm":
                    lines.append(shlex.join(words))
    return lines


def test_the_first_two_commands_are_one_line_each() -> None:
    """One installs and does the main job, one installs what the tests need and runs them."""
    first, second = (block.strip() for block in blocks("bash")[:2])
    assert "\n" not in first + second
    assert "pip install" in first
    assert "ebm sample" in first
    assert "pip install" in second
    assert "pytest" in second


def test_the_python_block_runs(python, tmp_path: Path) -> None:
    """The quick start works as it stands, in an empty folder."""
    first = blocks("python")[0]
    python("-c", first, check=0, cwd=tmp_path)


def test_commands_and_options_exist() -> None:
    """Every command line names a command of ours and options that it has."""
    lines = [line for page in PAGES if page != GENERATED for line in command_lines(page)]
    assert lines
    for line in lines:
        words = shlex.split(line)[1:]
        if not words or words[0].startswith("-"):
            continue
        assert words[0] in COMMANDS, line
        command, rest = load(words[0]), words[1:]
        while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, line
            command, rest = command.commands[rest[0]], rest[1:]
        known = {"--help", "-h"}.union(*(param.opts + param.secondary_opts for param in command.params))
        for word in rest:
            if re.match(r"--?[A-Za-z]", word):
                assert word.partition("=")[0] in known, f"{line}: {word}"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name: str, run_cli) -> None:
    """`--help` of every command answers."""
    assert run_cli(name, "--help", check=0).stdout.startswith(f"Usage: ebm {name}")


def test_the_page_of_commands_is_current() -> None:
    """`make docs` would write what is there."""
    assert text(GENERATED) == reference()


def test_the_page_of_commands_says_what_help_says(run_cli) -> None:
    """Every word of `ebm COMMAND --help`, options and their texts, stands on the page, brackets and all."""
    page = " ".join(text(GENERATED).split())
    for name in ("train", "compare", "runs", "push", "pull"):
        shown = run_cli(name, "--help", check=0, env={"COLUMNS": "1000"}).stdout
        for line in shown.partition("Options:")[2].splitlines():
            words = re.split(r"\s{2,}", line.strip(), maxsplit=1)
            if len(words) == 2 and not line.strip().startswith("-h"):
                sentence = " ".join(words[1].partition("[default")[0].split())
                assert sentence in page, f"{name}: {sentence}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pictures_and_files_it_links_to_are_there(page: Path) -> None:
    """No link to a file of the repository is dead."""
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)|src=\"([^\"]+)\"", text(page))
    local = [link for pair in links for link in pair if link and "://" not in link and not link.startswith("mailto:")]
    missing = [link for link in local if not (page.parent / link).exists()]
    assert not missing


def test_the_readme_is_short() -> None:
    """It is read in one go: the rest has pages of its own."""
    assert len(text().splitlines()) < 200
