"""What a first run is measured against, part two: SetFit, and transformers' Trainer with PEFT.

SetFit runs with its defaults: contrastive pairs of all training texts once, then logistic regression; where that are
more than `SETFIT_STEPS` steps it stops there. Two texts are joined by the tokenizer's separator.

Trainer with PEFT follows PEFT's own example of LoRA for sequence classification
(examples/sequence_classification/LoRA.ipynb in its repository): rank 8, alpha 16, dropout 0.1, a rate of 3e-4 for all
that trains, batches of 32, 6 % of the steps to warm up, a linear decay; 20 epochs there, and 3 as Trainer has it when
nobody says a number. Batches are grouped by length, in the precision that is fastest on the device that torch finds.
"""

import tempfile
from typing import Any

import numpy as np
from first_run_rivals import MAX_LENGTH, Answer, Problem

SETFIT_STEPS = 40
PEFT_RANK, PEFT_ALPHA, PEFT_DROPOUT, PEFT_RATE, PEFT_BATCH, PEFT_WARMUP = 8, 16, 0.1, 3e-4, 32, 0.06


def setfit(problem: Problem) -> Answer:
    """Train with SetFit's defaults, and predict."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    from qvtune.training.model import find_model

    quiet()
    model = SetFitModel.from_pretrained(find_model(problem.model).location, device="cpu")
    separator = f" {model.model_body.tokenizer.sep_token} "
    names = sorted(set(problem.labels.tolist()))
    texts = [separator.join(e.texts) for e in problem.train]
    train = Dataset.from_dict({"text": texts, "label": [names.index(label) for label in problem.labels.tolist()]})
    with tempfile.TemporaryDirectory() as folder:
        steps = default_steps(problem.labels.tolist(), TrainingArguments(output_dir=folder))
        arguments = TrainingArguments(
            output_dir=folder,
            seed=problem.seed,
            save_strategy="no",
            report_to="none",
            show_progress_bar=False,
            max_steps=SETFIT_STEPS if steps > SETFIT_STEPS else -1,
        )
        Trainer(model=model, args=arguments, train_dataset=train).train()
    found = np.asarray(model.predict([separator.join(e.texts) for e in problem.test], show_progress_bar=False))
    return Answer(np.array(names)[found.astype(int)], {"steps": min(steps, SETFIT_STEPS), "default_steps": steps})


def default_steps(labels: list[str], arguments: Any) -> int:
    """Return the steps that SetFit takes by default: unlike pairs and as many alike, or the other way about."""
    pairs = len(labels) * (len(labels) + 1) // 2  # a text and itself make a pair too
    counts = [labels.count(name) for name in set(labels)]
    alike = sum(count * (count + 1) // 2 for count in counts)
    return -(-2 * max(alike, pairs - alike) // arguments.embedding_batch_size) * arguments.embedding_num_epochs


def peft(problem: Problem, epochs: int) -> Answer:
    """Train LoRA with transformers' Trainer and PEFT at the rates of PEFT's example, and predict."""
    from datasets import Dataset
    from flags import trainer_flags
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import DataCollatorWithPadding, Trainer, TrainingArguments, set_seed

    from qvtune.tasks.classification import Classification
    from qvtune.tasks.regression import Regression
    from qvtune.training.model import find_model, load_config, load_model, load_tokenizer

    quiet()
    names = () if problem.is_regression else tuple(sorted(set(problem.labels.tolist())))
    kind = Regression if problem.is_regression else Classification
    task = kind("first run", names, "numbers", "pearson", ("text",), "label")
    source = find_model(problem.model)
    config = load_config(source)
    tokenizer = load_tokenizer(source, config)
    set_seed(problem.seed)
    lora = LoraConfig(task_type=TaskType.SEQ_CLS, r=PEFT_RANK, lora_alpha=PEFT_ALPHA, lora_dropout=PEFT_DROPOUT)
    model = get_peft_model(load_model(source, config, task, tokenizer), lora)
    labels = problem.labels.tolist()
    targets = labels if problem.is_regression else [names.index(label) for label in labels]

    def tokens(examples: Any) -> dict[str, Any]:
        columns = map(list, zip(*(e.texts for e in examples), strict=True))
        return dict(tokenizer(*columns, truncation=True, max_length=MAX_LENGTH))

    flags = trainer_flags()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder, per_device_train_batch_size=PEFT_BATCH, per_device_eval_batch_size=64,
            num_train_epochs=epochs, learning_rate=PEFT_RATE, warmup_steps=PEFT_WARMUP, seed=problem.seed,
            save_strategy="no", eval_strategy="no", report_to="none", disable_tqdm=True, logging_strategy="no",
            dataloader_pin_memory=False, **flags,
        )  # fmt: skip
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_dict({**tokens(problem.train), "labels": targets}),
            processing_class=tokenizer,
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        steps = trainer.train().global_step
        scores = np.asarray(trainer.predict(Dataset.from_dict(tokens(problem.test))).predictions)
    notes = {"steps": steps, "precision": "bf16" if flags["bf16"] else "fp32"}
    return Answer(scores.reshape(-1) if problem.is_regression else np.array(names)[scores.argmax(-1)], notes)


def quiet() -> None:
    """Keep the libraries from filling the screen."""
    from qvtune.training.quiet import quiet_libraries

    quiet_libraries()
