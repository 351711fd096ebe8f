"""What a first run is measured against, part one: the majority, linear models on frozen features and on TF-IDF.

A rival is a function of a `Problem` that returns predictions for the test texts: class names, or numbers.
"""

import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from first_run_sets import Example
from numpy.typing import NDArray

# Tokens per text that the rivals read: what the model's own sentence-transformers configuration says.
MAX_LENGTH = 256
FOLDS = 5
# Of the penalty, for features whose squares have mean 1: a decade apart, as scikit-learn has them.
STRENGTHS = tuple(float(c) for c in np.logspace(-4, 1, 6))


@dataclass(frozen=True)
class Problem:
    """A set as a rival meets it; labels are class names, or numbers for a regression."""

    train: Sequence[Example]
    test: Sequence[Example]
    is_regression: bool
    seed: int
    model: str
    cache: Path

    @property
    def labels(self) -> NDArray:
        """The labels of the training examples."""
        return labels_of(self.train, self.is_regression)


@dataclass(frozen=True)
class Answer:
    """A rival's predictions for the test texts, and what it says of itself.

    `earlier` are the seconds of the processor for what it took from the cache.
    """

    predictions: NDArray
    notes: dict[str, Any]
    earlier: float = 0.0


def labels_of(examples: Sequence[Example], is_regression: bool) -> NDArray:
    """Return labels as class names or numbers."""
    return np.array([float(e.label) if is_regression else str(e.label) for e in examples])


def measure(labels: NDArray, predictions: NDArray, is_regression: bool) -> dict[str, float]:
    """Return the metrics of predictions; `largest` is the share of those that are of one class."""
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    if is_regression:
        if np.ptp(predictions) == 0:  # a constant has no correlation
            return {"pearson": 0.0, "spearman": 0.0}
        found = {"pearson": pearsonr(labels, predictions), "spearman": spearmanr(labels, predictions)}
        return {name: float(value.statistic) for name, value in found.items()}
    return {
        "accuracy": float(accuracy_score(labels, predictions)),
        "macro_f1": float(f1_score(labels, predictions, average="macro", zero_division=0.0)),
        "matthews": float(matthews_corrcoef(labels, predictions)),
        "largest": max(Counter(predictions.tolist()).values()) / len(predictions),
    }


def majority(problem: Problem) -> Answer:
    """Predict the most frequent class, or the mean."""
    labels = problem.labels
    guess = labels.mean() if problem.is_regression else Counter(labels.tolist()).most_common(1)[0][0]
    return Answer(np.full(len(problem.test), guess), {})


def tfidf(problem: Problem) -> Answer:
    """Predict by a linear model on weighted counts of words and pairs of words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    train = vectorizer.fit_transform([" ".join(e.texts) for e in problem.train])
    test = vectorizer.transform([" ".join(e.texts) for e in problem.test])
    # Rows of TF-IDF have length 1, those of features length sqrt(width): the same strengths then mean the same.
    scale = np.sqrt(384)
    return fit_linear(problem, train * scale, test * scale)


def probe(problem: Problem, pooling: str) -> Answer:
    """Predict by a linear model on one pooling of the frozen model's last states."""
    (train, before), (test, before_test) = (features(problem, part) for part in (problem.train, problem.test))
    train, test = train[pooling], test[pooling]
    center = train.mean(axis=0)
    scale = np.sqrt(np.square(train - center).mean())  # one number: the features keep their proportions
    answer = fit_linear(problem, (train - center) / scale, (test - center) / scale)
    return replace(answer, earlier=before + before_test)


def fit_linear(problem: Problem, train: Any, test: Any) -> Answer:
    """Fit logistic or ridge regression, with the strength of the penalty chosen by cross-validation on `train`."""
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold

    labels = problem.labels
    if problem.is_regression:
        folds: Any = KFold(FOLDS, shuffle=True, random_state=problem.seed)
        penalties = {"alpha": [1 / c for c in STRENGTHS] + [1e5, 1e6]}
        search = GridSearchCV(Ridge(), penalties, cv=folds, scoring="neg_mean_squared_error")
    else:
        smallest = min(Counter(labels.tolist()).values())
        folds = StratifiedKFold(max(2, min(FOLDS, smallest)), shuffle=True, random_state=problem.seed)
        # Accuracy first; where two strengths tie, as they often do on few labels, the likelier one.
        scoring = {"accuracy": "accuracy", "likelihood": "neg_log_loss"}
        model = LogisticRegression(max_iter=1_000, tol=1e-3)
        search = GridSearchCV(model, {"C": STRENGTHS}, cv=folds, scoring=scoring, refit=best_of)
    search.fit(train, labels)
    score = search.cv_results_["mean_test_score" if problem.is_regression else "mean_test_accuracy"]
    notes = {"cross_validated": float(score[search.best_index_]), **search.best_params_}
    return Answer(search.predict(test), notes)


def best_of(results: dict[str, NDArray]) -> int:
    """Return the number of the best strength: by accuracy, then likelihood."""
    accuracy, likelihood = results["mean_test_accuracy"], results["mean_test_likelihood"]
    return int(max(range(len(accuracy)), key=lambda i: (round(float(accuracy[i]), 6), likelihood[i])))


def features(problem: Problem, examples: Sequence[Example]) -> tuple[dict[str, NDArray], float]:
    """Return the frozen model's features of texts by pooling, and the seconds that those in the cache took.

    The cache is a folder of files with the features of some texts each, and grows by those that are new.
    """
    import torch

    keys = [text_key(problem.model, example) for example in examples]
    known = read_features(problem.cache)
    earlier = sum(float(known[key]["seconds"]) for key in keys if key in known)
    new = [example for key, example in zip(keys, examples, strict=True) if key not in known]
    if new:
        start = time.process_time()
        with torch.inference_mode():
            found = compute_features(problem.model, new)
        found["seconds"] = np.full(len(new), (time.process_time() - start) / len(new))
        found["key"] = np.array([text_key(problem.model, example) for example in new])
        problem.cache.mkdir(parents=True, exist_ok=True)
        name = sha256("".join(found["key"]).encode()).hexdigest()[:16]
        beside = problem.cache / f"{name}-{os.getpid()}.part.npz"
        np.savez(beside, **found)
        beside.replace(problem.cache / f"{name}.npz")
        known = read_features(problem.cache)
    names = [name for name in known[keys[0]] if name not in ("seconds", "key")]
    return {name: np.stack([known[key][name] for key in keys]) for name in names}, earlier


def text_key(model: str, example: Example) -> str:
    """Return what a text's features are known by."""
    return sha256(json.dumps([model, MAX_LENGTH, list(example.texts)]).encode()).hexdigest()[:24]


def read_features(folder: Path) -> dict[str, dict[str, Any]]:
    """Return all features in a folder by the keys of their texts."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*.npz")):
        if ".part" not in path.name:
            with np.load(path) as file:
                columns = dict(file)
            for row, key in enumerate(columns["key"].tolist()):
                found[key] = {name: column[row] for name, column in columns.items()}
    return found


def load_base(model_name: str) -> tuple[Any, Any]:
    """Return the tokenizer and the model without its head, in evaluation mode."""
    from qvtune.tasks.regression import Regression
    from qvtune.training.model import find_model, load_config, load_model, load_tokenizer

    source = find_model(model_name)
    config = load_config(source)
    tokenizer = load_tokenizer(source, config)
    task = Regression("features", (), "numbers", "pearson", ("text",), "label")
    return tokenizer, load_model(source, config, task, tokenizer).base_model.eval()


def compute_features(model_name: str, examples: Sequence[Example]) -> dict[str, NDArray]:
    """Return the first and last token's last state, the mean, and the pooler's output where there is one."""
    import torch

    from qvtune.device import choose_device, place

    device = choose_device()
    tokenizer, model = load_base(model_name)
    place(model, device)
    found: dict[str, list[torch.Tensor]] = {}
    order = sorted(range(len(examples)), key=lambda i: sum(map(len, examples[i].texts)))
    for start in range(0, len(order), 64):
        columns = zip(*(examples[i].texts for i in order[start : start + 64]), strict=True)
        tokens = tokenizer(
            *map(list, columns), truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt"
        ).to(device)
        output = model(**tokens)
        states, mask = output.last_hidden_state, tokens["attention_mask"]
        last = mask.sum(1) - 1
        pooled = {
            "first": states[:, 0],
            "last": states[torch.arange(len(last)), last],
            "mean": (states * mask[:, :, None]).sum(1) / mask.sum(1, keepdim=True),
        }
        if getattr(output, "pooler_output", None) is not None:
            pooled["pooler"] = output.pooler_output
        for name, value in pooled.items():
            found.setdefault(name, []).append(value.cpu())
    back = np.argsort(order)
    return {name: torch.cat(values).numpy()[back] for name, values in found.items()}
