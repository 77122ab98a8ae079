"""Compares the rows of `figa label` with what transformers renders, for chat templates and models that you have.

    cargo build --release -p figa-cli
    pip install transformers==5.24.0 jinja2==3.1.6
    python3 cli/tests/chat_templates.py PATH...

A PATH is a file NAME.jinja, the folder of a model (with tokenizer.json), or a folder that holds such files and folders.
A template alone gets the byte-level tokenizer of the tests, with the special tokens that its text mentions.

For each of them it prints how many rows are the template's, how many records were refused, and the first difference.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

import tokenizers
import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FIGA = ROOT / "target/release/figa"
BYTE_LEVEL = ROOT / "tests/fixtures/tokenizers/byte_level.json"
SPECIAL = re.compile(
    r"<[|｜][^<>\s]{1,40}[|｜]>|</?s>|<(?:bos|eos|start_of_turn|end_of_turn|sop|eop)>|\[/?[A-Z_]{3,20}\]"
)
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Weather.", "parameters": PARAMETERS}}]
CALL = {"type": "function", "id": "call00001", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}

# Each: the messages in front of the answers, the two answers, and the tools.
CONVERSATIONS = {
    "single": ([{"role": "user", "content": "Colour?"}], " Green.\n", "It is <blue> & \"deep\".", None),
    "system": ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Say yes"}], "no", "yes", None),
    "turns": (
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Hello"},
            {"role": "user", "content": "2+2?"},
        ],
        "5",
        "4",
        None,
    ),
    "tools": (
        [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "name": "weather", "tool_call_id": "call00001", "content": "4 C"},
        ],
        "It is hot.",
        "It is 4 C.",
        TOOLS,
    ),
    "reasoning": (
        [{"role": "user", "content": "7 prime?"}],
        "<think>\nNo.\n</think>\n\nNo.",
        "<think>\nYes.\n</think>\n\nYes.",
        None,
    ),
}


def folders(path, scratch):
    """The name and the folder of each model under a path."""
    if path.suffix == ".jinja":
        yield path.stem, model_of(path, scratch)
    elif (path / "tokenizer.json").exists():
        yield path.name, path
    else:
        for entry in sorted(path.iterdir()):
            if entry.is_dir() or entry.suffix == ".jinja":
                yield from folders(entry, scratch)


def model_of(template, scratch):
    folder = pathlib.Path(scratch, template.stem)
    folder.mkdir()
    text = template.read_text("utf-8")
    (folder / "chat_template.jinja").write_text(text, "utf-8")
    tokenizer = tokenizers.Tokenizer.from_file(str(BYTE_LEVEL))
    tokenizer.add_special_tokens(sorted(set(SPECIAL.findall(text))))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def check(folder, scratch):
    """Counts of equal and of all rows, of refused records, and the first difference."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    equal, total, refused, first = 0, 0, 0, ""
    for name, (messages, original, revised, tools) in CONVERSATIONS.items():
        out = tempfile.mkdtemp(dir=scratch)
        pairs, labels = pathlib.Path(out, "pairs.jsonl"), pathlib.Path(out, "labels.jsonl")
        record = {"prompt": messages, "rejected": original, "chosen": revised, "tools": tools}
        pairs.write_text(json.dumps(record), "utf-8")
        options = ["--instruction", "prompt", "--original", "rejected", "--revised", "chosen", "--tools", "tools"]
        command = [FIGA, "label", pairs, *options, "--tokenizer", folder, "--eos", tokenizer.eos_token, "--out", labels]
        run = subprocess.run([str(part) for part in command], capture_output=True, text=True)
        if run.returncode:
            refused += 1
            first = first or f"{name}: {run.stderr.strip()[:150]}"
            continue
        row = json.loads(labels.read_text("utf-8"))
        for side, answer in [("original", original), ("revised", revised)]:
            conversation = [*messages, {"role": "assistant", "content": answer}]
            expected = tokenizer.apply_chat_template(conversation, tools=tools, tokenize=False)
            actual = tokenizer.decode(row[f"{side}_input_ids"], skip_special_tokens=False)
            total += 1
            # Behind the end of the turn, the row is cut; where the template has none, EOS is added.
            if expected.startswith(actual) or actual == expected + tokenizer.eos_token:
                equal += 1
            else:
                first = first or f"{name}: expected {expected[-90:]!r}, got {actual[-90:]!r}"
    return equal, total, refused, first


def main():
    equal, total, refused = 0, 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        for path in sys.argv[1:]:
            for name, folder in folders(pathlib.Path(path), scratch):
                counts = check(folder, scratch)
                equal, total, refused = equal + counts[0], total + counts[1], refused + counts[2]
                print(f"{name:<24} {counts[0]:>3} of {counts[1]:>3} rows, {counts[2]} records refused  {counts[3]}")
    print(f"{equal} of {total} rows are the template's; {refused} records refused")


if __name__ == "__main__":
    main()
