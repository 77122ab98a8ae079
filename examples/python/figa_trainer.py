"""The same with the trainers of `transformers` and TRL.

    pip install figa-loss torch datasets transformers accelerate trl
    python3 examples/python/figa_trainer.py MODEL pairs.jsonl OUT
    python3 examples/python/figa_trainer.py MODEL pairs.jsonl OUT --trl
"""

import sys

import datasets
import transformers

from figa_loss import PairEncoder
from figa_loss.trainer import PairCollator, compute_loss

ARGUMENTS = {
    "per_device_train_batch_size": 2,  # pairs
    "gradient_accumulation_steps": 2,
    "num_train_epochs": 1,
    "learning_rate": 3e-5,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    # The collator reads columns that the model does not know.
    "remove_unused_columns": False,
}


def with_transformers(model, rows, collator, out):
    arguments = transformers.TrainingArguments(out, **ARGUMENTS)
    return transformers.Trainer(
        model, arguments, train_dataset=rows, data_collator=collator, compute_loss_func=compute_loss()
    )


def with_trl(model, rows, collator, out, tokenizer):
    import trl

    class PairTrainer(trl.SFTTrainer):
        """TRL's own loss and metrics take labels without weights."""

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            loss = compute_loss()(outputs, labels, num_items_in_batch) * self.accelerator.num_processes
            return (loss, outputs) if return_outputs else loss

    arguments = trl.SFTConfig(out, **ARGUMENTS, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None)
    return PairTrainer(model, arguments, train_dataset=rows, data_collator=collator, processing_class=tokenizer)


def main(folder, pairs, out, *options):
    encoder = PairEncoder(folder, max_length=1024)
    records = datasets.load_dataset("json", data_files=pairs, split="train")
    rows = records.map(encoder.encode_batch, batched=True, remove_columns=records.column_names)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    collator = PairCollator(encoder.eos_id)
    if "--trl" in options:
        trainer = with_trl(model, rows, collator, out, transformers.AutoTokenizer.from_pretrained(folder))
    else:
        trainer = with_transformers(model, rows, collator, out)
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main(*sys.argv[1:])
