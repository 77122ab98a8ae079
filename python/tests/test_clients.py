"""What trains and labels with the package: Trainer, TRL, torchrun, datasets, Ray Data, Spark. Their results are those of one plain
process."""

import json
import math
import os
import pickle
import subprocess
import sys

import pytest

from conftest import FIXTURES, ROOT

from figa_loss import PairEncoder, collate

EXAMPLES = ROOT / "examples" / "python"
PAIRS = 8


@pytest.fixture(scope="module")
def folder(model_folder):
    """The folder of a model, with pairs.jsonl in it."""
    lines = (ROOT / "examples/data/spa_tiny.jsonl").read_text(encoding="utf-8").splitlines()[:PAIRS]
    (model_folder / "pairs.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return model_folder


def load(folder):
    import torch
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def assert_equal_weights(folder, expected, tolerance=1e-5):
    weights = load(folder).state_dict()
    initial = load(expected["folder"]).state_dict()
    for name, weight in expected["weights"].items():
        assert (weight - initial[name]).abs().max() > 1e-5, f"{name} is not trained"
        assert (weights[name] - weight).abs().max() <= tolerance, name


@pytest.fixture(scope="module")
def plain_loop(folder):
    """The weights and losses of two steps of four pairs, by the plain expression of the loss over all logits."""
    import torch

    encoder = PairEncoder(folder)
    records = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    model = load(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-5)
    losses = []
    for start in range(0, PAIRS, 4):
        batch = collate([encoder.encode(record) for record in records[start : start + 4]])
        batch = {name: torch.from_numpy(values) for name, values in batch.items()}
        labels, weights = batch.pop("labels")[:, 1:], batch.pop("weights")[:, 1:]
        logp = model(**batch).logits[:, :-1].log_softmax(-1)
        nll = -logp.gather(-1, labels.clamp_min(0).unsqueeze(-1)).squeeze(-1)
        active = (labels != -100) & (weights != 0)
        counted = active & ((weights > 0) | (nll <= 0.6))
        loss = (torch.where(counted, weights * nll, 0.0)).sum() / active.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return {"folder": folder, "weights": model.state_dict(), "losses": losses}


def run(*command, **variables):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **variables}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_the_example_trains_as_the_plain_loop_does(folder, plain_loop, tmp_path):
    pytest.importorskip("datasets")
    output = run(sys.executable, EXAMPLES / "figa.py", folder, folder / "pairs.jsonl", tmp_path)
    losses = [float(line.split()[-1]) for line in output.splitlines() if line.startswith("step")]
    assert losses == pytest.approx(plain_loop["losses"], abs=1e-4)
    assert_equal_weights(tmp_path, plain_loop)


def test_two_sharded_processes_train_as_one_does(folder, plain_loop, tmp_path):
    pytest.importorskip("datasets")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run(*torchrun, EXAMPLES / "figa.py", folder, folder / "pairs.jsonl", tmp_path)
    assert_equal_weights(tmp_path, plain_loop)


def sequential(trainer):
    """The order of the plain loop."""
    import torch

    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(trainer.train_dataset)
    return trainer


@pytest.mark.parametrize("library", ["transformers", "trl"])
def test_trainers_train_as_the_plain_loop_does(folder, plain_loop, tmp_path, library):
    pytest.importorskip("accelerate")
    datasets, _ = pytest.importorskip("datasets"), pytest.importorskip(library)
    import transformers

    sys.path.insert(0, str(EXAMPLES))
    import figa_trainer

    encoder = PairEncoder(folder)
    records = datasets.load_dataset("json", data_files=str(folder / "pairs.jsonl"), split="train")
    rows = records.map(encoder.encode_batch, batched=True, remove_columns=records.column_names)
    collator = figa_trainer.PairCollator(encoder.eos_id)
    # TRL's default is bf16.
    figa_trainer.ARGUMENTS |= {"use_cpu": True, "bf16": False, "lr_scheduler_type": "constant", "weight_decay": 0.01}
    if library == "trl":
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        trainer = figa_trainer.with_trl(load(folder), rows, collator, str(tmp_path), tokenizer)
    else:
        trainer = figa_trainer.with_transformers(load(folder), rows, collator, str(tmp_path))
    sequential(trainer).train()
    # The mean of the two steps, and a little less.
    assert trainer.evaluate(rows)["eval_loss"] < sum(plain_loop["losses"]) / 2
    trainer.save_model()
    # Two micro-batches a step: the logged loss is their sum.
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses == pytest.approx(plain_loop["losses"], abs=1e-4)
    assert_equal_weights(tmp_path, plain_loop)


# The paper's gate, which skips all removed tokens of a model that knows nothing, and one that skips more or fewer of them.
@pytest.mark.parametrize("gate", [0.6, 5.4])
def test_trainer_trains_as_finetune_does(folder, finetune, tmp_path, gate):
    pytest.importorskip("accelerate")
    import torch
    import transformers

    from figa_loss.trainer import PairCollator, compute_loss

    rate, steps, warm_up = 1e-3, 20, 2
    options = f"--method figa+gate={gate} --batch {PAIRS} --steps {steps} --lr {rate} --max-length 64 --prompt plain --cpu"
    run(finetune, "--model", folder, "--data", folder / "pairs.jsonl", "--out", tmp_path / "run", *options.split())
    expected = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert (len({line["gated"] for line in expected}) > 1) == (gate > 1)

    def factor(step):
        progress = (step - warm_up) / (steps - warm_up)
        return (step + 1) / warm_up if step < warm_up else (1 + math.cos(math.pi * progress)) / 2

    encoder = PairEncoder(folder, max_length=64, prompt="plain")
    model = load(folder)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.0)
    # A step is the whole file, whose order does not matter.
    arguments = transformers.TrainingArguments(
        tmp_path, per_device_train_batch_size=PAIRS, max_steps=steps, logging_steps=1, save_strategy="no",
        report_to="none", remove_unused_columns=False, use_cpu=True,
    )
    trainer = transformers.Trainer(
        model, arguments,
        train_dataset=[encoder.encode(json.loads(line)) for line in (folder / "pairs.jsonl").read_text().splitlines()],
        data_collator=PairCollator(encoder.eos_id),
        compute_loss_func=compute_loss(gate=gate, reduction="active_tokens"),
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)),
    )
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in entries] == pytest.approx([line["loss"] for line in expected], abs=1e-4)
    norms = [line["grad_norm"] for line in expected]
    assert [entry["grad_norm"] for entry in entries] == pytest.approx(norms, rel=1e-3)
    trained = {"folder": folder, "weights": load(tmp_path / "run/model").state_dict()}
    model.save_pretrained(tmp_path)
    assert_equal_weights(tmp_path, trained, 1e-4)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """20,000 records, an encoder, and the rows of one process."""
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    lines = (ROOT / "examples/data/spa_tiny.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(lines[at % len(lines)]) for at in range(20_000)]
    for at, record in enumerate(records):
        record["revised_output"] += f" The{' is' * (at // len(lines))}"
    path = tmp_path_factory.mktemp("many") / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist(records), path)
    encoder = PairEncoder(FIXTURES / "labels-tokenizer.json", eos_token="</s>", prompt="plain")
    return path, encoder, encoder.encode_batch(pq.read_table(path))


def test_datasets_with_two_workers(many, tmp_path):
    datasets = pytest.importorskip("datasets")
    path, encoder, expected = many
    records = datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path))
    options = {"batched": True, "num_proc": 2, "remove_columns": records.column_names, "load_from_cache_file": False}
    for given in (records, records.with_format("arrow")):
        rows = given.map(encoder.encode_batch, **options)
        assert rows.with_format("arrow")[:].cast(expected.schema).combine_chunks().equals(expected.combine_chunks())


def test_workers_of_multiprocessing_do_not_wait_for_the_threads_of_their_parent(many):
    import multiprocessing

    if "fork" not in multiprocessing.get_all_start_methods():
        pytest.skip("there is no fork")
    _, encoder, expected = many
    with multiprocessing.get_context("fork").Pool(1) as pool:
        table = expected.schema.empty_table()
        records = [{"instruction": "The", "original_output": "It is", "revised_output": "It is a"}]
        import pyarrow

        job = pool.apply_async(encoder.encode_batch, [pyarrow.Table.from_pylist(records)])
        rows = job.get(timeout=60)
    assert len(rows) == 1 and rows.schema == table.schema


def test_ray_data(many, tmp_path):
    ray = pytest.importorskip("ray", reason="Ray is not installed")
    path, encoder, expected = many
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        options = {"batch_format": "pyarrow", "batch_size": 1000, "concurrency": 2}
        rows = ray.data.read_parquet(str(path)).map_batches(encoder.encode_batch, **options)
        assert sorted(map(pickle.dumps, as_rows(rows.to_pandas()))) == sorted(map(pickle.dumps, as_rows(expected.to_pandas())))
    finally:
        ray.shutdown()


def test_spark(many, monkeypatch):
    pyspark = pytest.importorskip("pyspark.sql", reason="Spark is not installed")
    from pyspark.sql.pandas.types import from_arrow_schema

    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    path, encoder, expected = many
    session = pyspark.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        rows = session.read.parquet(str(path)).mapInArrow(encoder.encode_batch, from_arrow_schema(encoder.schema))
        assert sorted(map(pickle.dumps, as_rows(rows.toPandas()))) == sorted(map(pickle.dumps, as_rows(expected.to_pandas())))
    finally:
        session.stop()


def as_rows(table):
    return [[list(map(float, values)) for values in row] for row in table.itertuples(index=False)]
