"""One default: the crate, the wheel, the command, finetune, the README and the examples weigh tokens alike."""

import ast
import json
import re
import subprocess
import sys

import pytest

from conftest import ROOT

from figa_loss import PairEncoder, label

# alpha, beta, gamma and the weight of EOS.
DEFAULT = [1.0, 0.5, 0.3, 0.3]
PAPER = [1.0, 0.5, 0.0, 1.0]
NAMES = ("alpha", "beta", "gamma", "eos")


def of_rows(rows):
    """The four numbers, read off the weights of a pair."""
    original, revised = (rows[f"{side}_weights"] for side in ("original", "revised"))
    kept = sorted(set(revised[:-1]) - {max(revised)})
    return [round(float(weight), 6) for weight in (max(revised[:-1]), -min(original), kept[-1], revised[-1])]


def of_text(text):
    """The four numbers in a text such as `alpha 1, beta 0.5, gamma 0.3, eos 0.3`."""
    return [float(number) for number in re.search(", ".join(rf"{name} ([\d.]+)" for name in NAMES), text).groups()]


def test_the_crate():
    source = (ROOT / "src/weights.rs").read_text(encoding="utf-8")
    for name, expected in (("new", DEFAULT), ("paper", PAPER)):
        body = re.search(rf"pub const fn {name}\(\) -> Self {{\s*Self {{(.*?)}}", source, re.DOTALL)[1]
        assert [float(re.search(rf"{key}: ([\d.]+)", body)[1]) for key in NAMES] == expected


def test_the_wheel():
    for options, expected in (({}, DEFAULT), ({"weights": "default"}, DEFAULT), ({"weights": "paper"}, PAPER)):
        labels = label([5, 6, 7, 0], [5, 8, 7, 0], 0, **options)
        rows = {"original_weights": labels.original_weights, "revised_weights": labels.revised_weights}
        assert of_rows(rows) == expected


def test_the_command(tmp_path, tokenizer_json, records):
    program = [sys.executable, "-m", "figa_loss"]
    help_text = subprocess.run([*program, "label", "--help"], capture_output=True, text=True, check=True).stdout
    assert of_text(re.search(r"- default:(.*)", help_text)[1]) == DEFAULT
    assert of_text(re.search(r"- paper:(.*)", help_text)[1]) == PAPER
    (tmp_path / "pairs.jsonl").write_text(json.dumps(records[0]) + "\n", encoding="utf-8")
    for options, expected in (([], DEFAULT), (["--weights", "paper"], PAPER)):
        out = tmp_path / f"labels{len(options)}.jsonl"
        command = [*program, "label", tmp_path / "pairs.jsonl", "--tokenizer", tokenizer_json, "--eos", "</s>", "--out", out]
        subprocess.run([*command, *options], capture_output=True, check=True)
        rows = json.loads(out.read_text(encoding="utf-8"))
        assert of_rows(rows) == expected


def test_finetune(model_folder, finetune, tmp_path, records):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records[:4]), encoding="utf-8")
    for method, expected in ((None, DEFAULT), ("figa+paper", PAPER)):
        out = tmp_path / str(method)
        command = [finetune, "--model", model_folder, "--data", tmp_path / "pairs.jsonl", "--out", out, "--steps", "1", "--cpu"]
        subprocess.run([*command, *(["--method", method] if method else [])], capture_output=True, check=True)
        (saved,) = json.loads((out / "run.json").read_text(encoding="utf-8"))["method"]
        assert [saved["weights"][name] for name in NAMES] == expected


@pytest.mark.parametrize("page", ["README.md", "python/README.md", "cli/README.md"])
def test_the_code_of_the_pages(page):
    blocks = re.findall(r"```[a-z]*\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    code = "\n".join(block for block in blocks if not block.startswith("usage"))
    # The paper's weights may be named; numbers may not be given.
    names = r"FigaWeights \{|weights=\"(?!paper\")|--weights (?!paper)"
    given = re.findall(rf"{names}|\b(?:alpha|beta|gamma|eos_weight)=|--(?:alpha|beta|gamma|eos-weight)", code)
    assert not given, f"{page} changes the default weights"
    assert "0.3" in code, f"{page} shows no default weight"


@pytest.mark.parametrize("script", ["figa.py", "figa_trainer.py"])
def test_the_example_scripts(script, tokenizer_json, records):
    tree = ast.parse((ROOT / "examples/python" / script).read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "PairEncoder"]
    (call,) = calls
    options = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
    rows = PairEncoder(tokenizer_json, eos_token="</s>", **options).encode(records[0])
    assert of_rows(rows) == DEFAULT
