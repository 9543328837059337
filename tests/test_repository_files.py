"""The files that services read from the repository: citation, issue forms, pre-commit."""

import tomllib
from typing import Any

import jsonschema
import pytest
import yaml
from check_jsonschema.builtin_schemas import get_builtin_schema

from locus.version import __version__
from tests.documents import ROOT


def loaded(path: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        ("CITATION.cff", "citation-file-format"),
        (".github/ISSUE_TEMPLATE/bug.yml", "github-issue-forms"),
        (".github/ISSUE_TEMPLATE/feature.yml", "github-issue-forms"),
        (".github/ISSUE_TEMPLATE/config.yml", "github-issue-config"),
    ],
)
def test_files_are_of_their_published_form(path: str, schema: str):
    jsonschema.validate(loaded(path), get_builtin_schema(f"vendor.{schema}"))


def test_what_is_cited_is_this_version_under_this_licence():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    cited = loaded("CITATION.cff")
    assert (cited["version"], cited["license"]) == (__version__, project["license"])


def hooks() -> list[list[str]]:
    """The words of each pre-commit hook's command."""
    return [hook["entry"].split() for repo in loaded(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]


def test_pre_commit_fetches_nothing():
    assert {repo["repo"] for repo in loaded(".pre-commit-config.yaml")["repos"]} == {"local"}
    assert all(words[:2] == [".venv/bin/python", "-m"] for words in hooks())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = {line.partition(">=")[0] for line in project["optional-dependencies"]["dev"]}
    needed = {words[2].partition(".")[0].replace("_", "-") for words in hooks()}
    assert {"pre-commit", *needed} <= listed


def test_pre_commit_runs_what_make_lint_runs():
    entries = [words[2:4] for words in hooks() if words[2] in ("ruff", "mypy")]
    lint = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint: install\n")[2].partition("\n\n")[0]
    typed = [line.split()[2:] for line in lint.splitlines()]
    assert [words[0] for words in entries] == [words[0] for words in typed] == ["ruff", "ruff", "mypy"]
    assert [words[1] for words in entries[:2]] == [words[1] for words in typed[:2]] == ["check", "format"]
