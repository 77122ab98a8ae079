"""The examples of the documentation."""

import doctest
import importlib
import importlib.metadata
import pkgutil

import pytest

import figa_loss

FLAGS = doctest.NORMALIZE_WHITESPACE


def test_the_page_runs(model_folder):
    from conftest import ROOT

    page = str(ROOT / "python" / "README.md")
    results = doctest.testfile(page, module_relative=False, globs={"MODEL": model_folder}, optionflags=FLAGS)
    assert results.attempted >= 6 and results.failed == 0


def test_the_docstrings_run():
    pytest.importorskip("torch")
    pytest.importorskip("pyarrow")
    modules = [info.name for info in pkgutil.walk_packages(figa_loss.__path__, "figa_loss.")]
    attempted = 0
    for name in modules:
        if name not in ("figa_loss._core", "figa_loss.__main__"):
            results = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
            assert results.failed == 0, name
            attempted += results.attempted
    assert attempted > 10


def test_every_public_name_is_documented():
    torch = pytest.importorskip("figa_loss.torch")
    for module in (figa_loss, torch):
        assert sorted(module.__all__) == sorted(set(module.__all__))
        for name in module.__all__:
            if name[0].isalpha() and callable(value := getattr(module, name)):
                assert value.__doc__, name


def test_the_licences_are_installed():
    from conftest import ROOT

    installed = {file.name: file for file in importlib.metadata.files("figa-loss")}
    for name in ("LICENSE-APACHE", "LICENSE-MIT"):
        assert installed[name].read_text() == (ROOT / name).read_text()
