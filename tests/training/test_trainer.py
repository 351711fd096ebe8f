"""qvtune's trainer beside transformers' own."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from datasets import Dataset
from models import fitting
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import qvtune
from qvtune.errors import ConfigError, RunError
from qvtune.methods.adalora import kept_ranks, orthogonality


def make_model(seed: int = 0, dropout: float = 0.1) -> BertForSequenceClassification:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return BertForSequenceClassification(config)


def make_data(count: int = 48) -> Dataset:
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(5, 50, (count, 12), generator=generator)
    return Dataset.from_dict({"input_ids": ids.tolist(), "labels": (ids[:, 0] % 2).tolist()})


def arguments(folder: Path, cls: type = qvtune.TrainingArguments, **changes: object) -> transformers.TrainingArguments:
    settings = {
        "output_dir": str(folder),
        "learning_rate": 1e-3,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "weight_decay": 0.1,
        "warmup_steps": 0.2,
        "seed": 3,
        "dataloader_pin_memory": False,
    }
    return cls(**(settings | changes))


def logged(trainer: transformers.Trainer, key: str) -> list[float]:
    return [record[key] for record in trainer.state.log_history if key in record]


def adapted(method: str = "lora") -> nn.Module:
    torch.manual_seed(11)
    return qvtune.adapt(make_model(), roles="qv", method=method, **fitting(method, rank=4))


@pytest.mark.parametrize("method", ["lora", "full"])
def test_ratio_one_is_one_adamw_group_bit_for_bit(method: str, tmp_path: Path) -> None:
    plain_model, model = adapted(method), adapted(method)
    trainable = [p for p in plain_model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=1e-3, weight_decay=0.0, fused=False)
    plain = transformers.Trainer(
        plain_model,
        arguments(tmp_path, transformers.TrainingArguments, weight_decay=0.0),
        train_dataset=make_data(),
        optimizers=(optimizer, None),
    )
    plain.train()  # before the next trainer is made, which seeds anew
    ours = qvtune.Trainer(
        model,
        arguments(tmp_path, lr_ratio=1.0, weight_decay=0.0, optim="adamw_torch", fast=False),
        train_dataset=make_data(),
    )
    ours.train()
    assert len(ours.optimizer.param_groups) > 1
    assert logged(ours, "loss") == logged(plain, "loss")
    assert logged(ours, "grad_norm") == logged(plain, "grad_norm")
    for (name, a), (_, b) in zip(model.named_parameters(), plain_model.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_ratio_one_keeps_weight_decay_as_transformers_has_it(tmp_path: Path) -> None:
    plain_model, model = adapted("full"), adapted("full")
    plain = transformers.Trainer(
        plain_model, arguments(tmp_path, transformers.TrainingArguments), train_dataset=make_data()
    )
    plain.train()
    ours = qvtune.Trainer(model, arguments(tmp_path, lr_ratio=1.0, fast=False), train_dataset=make_data())
    ours.train()
    for (name, a), (_, b) in zip(model.named_parameters(), plain_model.named_parameters(), strict=True):
        assert torch.equal(a, b), name


def test_another_ratio_trains_otherwise(tmp_path: Path) -> None:
    models = [adapted(), adapted()]
    for model, ratio in zip(models, (1.0, 8.0), strict=True):
        qvtune.Trainer(model, arguments(tmp_path, lr_ratio=ratio), train_dataset=make_data()).train()
    first, second = (dict(model.named_parameters()) for model in models)
    name = next(n for n in first if "value.lora_B" in n)
    assert not torch.equal(first[name], second[name])


def test_every_rate_is_logged_as_the_schedule_has_it(tmp_path: Path) -> None:
    args = arguments(tmp_path, roles="qkv", lr_ratio=4.0, head_lr=5e-4, key_lr=2e-4, lr_scheduler_type="linear")
    trainer = qvtune.Trainer(make_model(), args, train_dataset=make_data())
    trainer.train()
    # 12 steps, warmup over ceil(0.2 * 12) = 3: the factor of step i, counted from 0, by the definition.
    factors = [i / 3 if i < 3 else (12 - i) / 9 for i in range(12)]
    peaks = {"query": 1e-3, "key": 2e-4, "value": 4e-3, "head": 5e-4}
    for role, peak in peaks.items():
        assert logged(trainer, f"lr/{role}") == pytest.approx([peak * factor for factor in factors], rel=1e-12)


def test_accumulated_batches_give_the_gradient_of_the_whole(tmp_path: Path) -> None:
    norms, losses = [], []
    for size, accumulation in ((8, 1), (4, 2), (2, 4)):
        torch.manual_seed(11)
        model = qvtune.adapt(make_model(dropout=0.0), rank=4, dropout=0.0)
        args = arguments(
            tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=accumulation, max_grad_norm=0.01
        )
        trainer = qvtune.Trainer(model, args, train_dataset=make_data())
        trainer.train()
        norms.append(logged(trainer, "grad_norm"))
        losses.append(logged(trainer, "loss"))
    for norm, loss in zip(norms[1:], losses[1:], strict=True):
        assert norm == pytest.approx(norms[0], rel=1e-4)
        assert loss == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("problem", ["single_label_classification", "regression", "multi_label_classification"])
def test_uneven_micro_batches_give_the_gradient_of_the_whole(problem: str, tmp_path: Path) -> None:
    """Of 22 examples, the last step of an epoch has passes of 4 and 2 after one of 16."""
    data = make_data(22)
    if problem != "single_label_classification":
        data = data.map(lambda row: {"labels": [float(row["labels"]), float(row["input_ids"][1] % 2)]})
    found = []
    for size, accumulation in ((16, 1), (4, 4)):
        torch.manual_seed(11)
        model = make_model(dropout=0.0)
        model.config.problem_type = problem
        model = qvtune.adapt(model, rank=4, dropout=0.0)
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation, "fast": False}
        args = arguments(tmp_path, **options, optim="sgd", max_grad_norm=0.0, weight_decay=0.0)
        trainer = qvtune.Trainer(model, args, train_dataset=data)
        trainer.train()
        change = torch.cat([(p - before[n]).double().flatten() for n, p in model.named_parameters() if p.requires_grad])
        found.append((logged(trainer, "loss"), change))
    (losses, whole), (other_losses, accumulated) = found
    assert len(losses) == 4  # two steps an epoch
    assert other_losses == pytest.approx(losses, rel=1e-5)
    assert (accumulated - whole).norm() < 1e-4 * whole.norm()


@pytest.mark.parametrize("name", ["FSDP", "DeepSpeed"])
def test_sharding_that_would_not_happen_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    args = arguments(tmp_path)
    monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")
    model = make_model()
    with pytest.raises(ConfigError, match=f"{name} is asked for, and on CPUs Accelerate would train plainly"):
        qvtune.Trainer(model, args, train_dataset=make_data())
    assert qvtune.adaptation_of(model) is None


def test_gradient_checkpointing_gives_the_same_losses(tmp_path: Path) -> None:
    losses = []
    for checkpointing in (False, True):
        # transformers 5.21 renamed the option.
        name = next(
            n for n in ("activation_checkpointing", "gradient_checkpointing") if hasattr(qvtune.TrainingArguments, n)
        )
        given = {name: True, f"{name}_kwargs": {"use_reentrant": False}} if checkpointing else {}
        args = arguments(tmp_path, **given)
        trainer = qvtune.Trainer(adapted(), args, train_dataset=make_data())
        trainer.train()
        losses.append(logged(trainer, "loss"))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_plain_model_is_adapted_as_the_arguments_say(tmp_path: Path) -> None:
    trainer = qvtune.Trainer(make_model(), arguments(tmp_path, roles="v", rank=2), train_dataset=make_data())
    adaptation = qvtune.adaptation_of(trainer.model)
    assert (adaptation.roles, adaptation.rank) == ("v", 2)
    by_init = qvtune.Trainer(
        args=arguments(tmp_path, roles="v", rank=2), model_init=lambda: make_model(), train_dataset=make_data()
    )
    by_init.train()
    assert qvtune.adaptation_of(by_init.model).roles == "v"


def test_transformers_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Make qvtune\.TrainingArguments of them"):
        qvtune.Trainer(make_model(), arguments(tmp_path, transformers.TrainingArguments))


def test_torch_compile_and_the_fast_path_are_not_combined_on_a_cpu(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Give fast=False for it, or leave torch_compile out"):
        qvtune.Trainer(make_model(), arguments(tmp_path, torch_compile=True))
    qvtune.Trainer(make_model(), arguments(tmp_path, torch_compile=True, fast=False))


def test_optimizer_with_groups_of_its_own_is_refused(tmp_path: Path) -> None:
    trainer = qvtune.Trainer(make_model(), arguments(tmp_path), train_dataset=make_data())
    trainer.optimizer_cls_and_kwargs = (torch.optim.AdamW, {"params": [], "lr": 1e-3})
    with pytest.raises(ConfigError, match="makes its own parameter groups"):
        trainer.create_optimizer()


def test_checkpoint_is_whole_without_pickled_arguments_and_resumes(tmp_path: Path) -> None:
    args = arguments(tmp_path / "a", save_strategy="steps", save_steps=5)
    straight = qvtune.Trainer(adapted(), args, train_dataset=make_data())
    straight.train()
    checkpoint = tmp_path / "a" / "checkpoint-5"
    assert (checkpoint / "trainer_state.json").exists()
    assert not list((tmp_path / "a").rglob("training_args.bin"))
    assert not list((tmp_path / "a").glob(".writing-*"))
    resumed = qvtune.Trainer(adapted(), args, train_dataset=make_data())
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert logged(resumed, "loss") == logged(straight, "loss")
    pairs = zip(resumed.model.parameters(), straight.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("change", [{"lr_ratio": 2.0}, {"roles": "v"}, {"head_lr": 1.0}], ids=str)
def test_checkpoint_of_other_groups_is_refused(change: dict, tmp_path: Path) -> None:
    args = arguments(tmp_path, save_strategy="steps", save_steps=6)
    qvtune.Trainer(make_model(), args, train_dataset=make_data()).train()
    other = arguments(tmp_path, **change)
    with pytest.raises((RunError, ValueError), match="parameter group"):
        qvtune.Trainer(make_model(), other, train_dataset=make_data()).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-6")
        )


def test_rotation_keeps_the_best_and_the_last(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    args = arguments(
        tmp_path,
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=2,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,
    )
    trainer = qvtune.Trainer(adapted(), args, train_dataset=make_data(), eval_dataset=make_data(16))
    seen: list[set[str]] = []

    class Watch(transformers.TrainerCallback):
        def on_save(self, args: object, state: transformers.TrainerState, control: object, **kwargs: object) -> None:
            kept = {path.name for path in tmp_path.glob("checkpoint-*")}
            assert kept == {f"checkpoint-{state.global_step}", f"checkpoint-{state.best_global_step}"}
            seen.append(kept)

    trainer.add_callback(Watch())
    trainer.train()
    assert len(seen) == 6
    assert (tmp_path / "notes.txt").read_text() == "mine"
    state = json.loads((tmp_path / f"checkpoint-{trainer.state.best_global_step}" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / f"checkpoint-{trainer.state.best_global_step}")


def test_a_model_trained_in_bf16_is_saved_in_float32(tmp_path: Path) -> None:
    model = adapted("full")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trainer = qvtune.Trainer(model, arguments(tmp_path, bf16=True), train_dataset=make_data())
    trainer.train()
    assert next(model.parameters()).dtype == torch.bfloat16
    trainer.save_model(str(tmp_path / "final"))
    assert next(model.parameters()).dtype == torch.bfloat16
    saved = BertForSequenceClassification.from_pretrained(tmp_path / "final")
    assert saved.dtype == torch.float32
    moved = [name for name, value in saved.state_dict().items() if not torch.equal(value, before[name])]
    assert moved
    assert all(".query." in name or ".value." in name or name.startswith("classifier.") for name in moved)


@pytest.mark.parametrize("own_loss", [False, True])
def test_adalora_is_shared_out_by_the_trainer_and_regularised_once(own_loss: bool, tmp_path: Path) -> None:
    def loss(outputs: dict, labels: torch.Tensor, num_items_in_batch: int | None = None) -> torch.Tensor:
        return nn.functional.cross_entropy(outputs["logits"], labels, reduction="sum") / num_items_in_batch

    args = arguments(
        tmp_path, method="adalora", rank=2, dropout=0.0, gradient_accumulation_steps=2, max_steps=10, fast=False
    )
    given = {"compute_loss_func": loss} if own_loss else {}
    trainer = qvtune.Trainer(make_model(dropout=0.0), args, train_dataset=make_data(), **given)
    penalty = orthogonality(trainer.model).item()
    trainer.train()
    assert sum(map(sum, kept_ranks(trainer.model).values())) == 8
    assert qvtune.count_parameters(trainer.model).adapter == 8 * (32 + 32 + 1)
    assert penalty > 0.5
    assert penalty < logged(trainer, "loss")[0] < penalty + 0.9  # and cross entropy of two classes


def test_galore_by_the_trainer_projects_and_resumes(tmp_path: Path) -> None:
    args = arguments(tmp_path, method="galore", rank=2, save_strategy="steps", save_steps=4, max_steps=8)
    straight = qvtune.Trainer(make_model(), args, train_dataset=make_data())
    straight.train()
    again = qvtune.Trainer(make_model(), args, train_dataset=make_data())
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    state = again.optimizer.optimizer.state
    moments = {name: state[p]["exp_avg"].shape for name, p in again.model.named_parameters() if p.requires_grad}
    assert {shape for name, shape in moments.items() if name.endswith(("query.weight", "value.weight"))} == {(32, 2)}
    for (name, one), (_, other) in zip(straight.model.named_parameters(), again.model.named_parameters(), strict=True):
        assert torch.equal(one, other), name
    other = qvtune.Trainer(make_model(), arguments(tmp_path, method="galore", optim="sgd"), train_dataset=make_data())
    with pytest.raises(ConfigError, match="GaLore is AdamW's here, and optim is 'sgd'"):
        other.train()


@pytest.mark.parametrize("whose", ["another model", "before it was adapted"])
def test_an_optimizer_that_trains_nothing_here_is_refused(whose: str, tmp_path: Path) -> None:
    model = make_model()
    optimizer = torch.optim.AdamW((make_model(1) if whose == "another model" else model).parameters())
    with pytest.raises(ConfigError, match="41 of the optimizer's parameters do not train in this model"):
        qvtune.Trainer(model, arguments(tmp_path), train_dataset=make_data(), optimizers=(optimizer, None))


def test_an_optimizer_without_names_trains_and_goes_on(tmp_path: Path) -> None:
    def trainer(steps: int) -> qvtune.Trainer:
        torch.manual_seed(0)
        model = qvtune.adapt(make_model(), dropout=0.0)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        changes = {"max_steps": steps, "save_strategy": "steps", "save_steps": 2}
        data = make_data()
        return qvtune.Trainer(model, arguments(tmp_path, **changes), train_dataset=data, optimizers=(optimizer, None))

    first = trainer(4)
    before = {name: p.detach().clone() for name, p in first.model.named_parameters() if p.requires_grad}
    first.train()
    assert all(not p.equal(before[name]) for name, p in first.model.named_parameters() if name in before)
    assert logged(first, "lr/group0") == logged(first, "learning_rate")
    again = trainer(4)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert again.state.global_step == 4
