"""Put an adapter or a model on the Hugging Face hub. Nothing here happens unless it is asked for."""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from qvtune.errors import ConfigError, QVTuneError, RunError
from qvtune.files import write_json, write_text
from qvtune.network import hub_is_reachable
from qvtune.training.card import adapter_card, is_local
from qvtune.training.config import TrainConfig
from qvtune.training.folder import RunFolder
from qvtune.training.inference import TrainedRun, opened_run

OPTION = "--push-to-hub"
PEFT_CONFIG = "adapter_config.json"


def push_to_hub(
    source: TrainedRun | str | Path, name: str, *, base_model: str | None = None, private: bool = False
) -> str:
    """Put what a run saved, or a merged model, on the hub, with its card, and return the address.

    The login is the one that huggingface_hub knows: `hf auth login`, or the variable HF_TOKEN.

    Args:
        source: what `load_run` or `train` returned, a run folder, or a folder that `merge` wrote.
        name: the name on the hub, as in "me/reviews-minilm". It is created if it is not there.
        base_model: the base model's name on the hub, for an adapter that was trained on a copy in a folder.
        private: create it so that others do not see it.

    Raises:
        ConfigError: for a name that the hub does not allow, without a login, or for an adapter whose base model only
            this machine has.
        RunError: if the folder holds neither, or the hub cannot be reached or refuses.
    """
    check_push(name)
    if not isinstance(source, TrainedRun) and not RunFolder(Path(source)).is_run:
        folder = Path(source)
        if not (folder / "config.json").is_file():
            raise RunError(f"{folder}: holds neither a run nor a model. Give the --out of train or of merge.")
        return _upload(folder, name, private)
    run = opened_run(source)
    if not run.config.saves_adapter:
        return _upload(run.saved, name, private)
    config = run.config.model_copy(update={"model": base_model}) if base_model is not None else run.config
    check_base(config)
    from huggingface_hub import ModelCard

    with tempfile.TemporaryDirectory() as place:
        staging = Path(place) / "adapter"
        shutil.copytree(run.saved, staging)
        _name_base(staging, config.model)
        is_plain = ModelCard.load(staging / "README.md").data.library_name == "peft"
        rates, metrics = run.folder.read_plan()["learning_rates"], run.result["metrics"]
        write_text(staging / "README.md", adapter_card(config, run.task, rates, metrics, is_plain))
        return _upload(staging, name, private)


def check_push(name: str) -> None:
    """Check, before anything is computed, that the hub allows a name, can be reached, and knows who asks.

    Raises:
        ConfigError: for a name that is not allowed, or without a login.
        RunError: if the hub cannot be reached.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ConfigError(f"{OPTION} is '{name}', which is no name for the hub: {error}") from None
    if not hub_is_reachable():
        raise RunError(f"{OPTION}: the hub cannot be reached from here. Check the network, and HF_HUB_OFFLINE.")
    if get_token() is None:
        raise ConfigError(f"{OPTION}: the hub does not know who you are. Run 'hf auth login', or set HF_TOKEN.")


def check_base(config: TrainConfig) -> None:
    """Check that others can find the model that an adapter belongs to.

    Raises:
        ConfigError: if it is a folder or a package of this machine.
    """
    if config.saves_adapter and is_local(config.model):
        raise ConfigError(
            f"{OPTION}: the adapter belongs to {config.model}, which others do not have. Push the merged model: "
            f"qvtune merge {OPTION} NAME. Or give its name on the hub: qvtune.push_to_hub(run, NAME, base_model=...)."
        )


def _name_base(folder: Path, model: str) -> None:
    """Write the base model's name into PEFT's file, in place of a path on this machine."""
    path = folder / PEFT_CONFIG
    if path.is_file():
        config = json.loads(path.read_text(encoding="utf-8"))
        write_json(path, config | {"base_model_name_or_path": model})


def _upload(folder: Path, name: str, private: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(library_name="qvtune")
    try:
        url: Any = api.create_repo(name, private=private or None, exist_ok=True)
        api.upload_folder(repo_id=url.repo_id, folder_path=folder, commit_message="Upload by qvtune")
    except QVTuneError:
        raise
    except HfHubHTTPError as error:
        reason = error.server_message or str(error).splitlines()[0]
        raise RunError(f"{OPTION} {name}: the hub refused: {reason}") from error
    except Exception as error:  # those of the network come from several libraries
        raise RunError(f"{OPTION} {name}: the hub could not be asked: {type(error).__name__}: {error}") from error
    return str(url)
