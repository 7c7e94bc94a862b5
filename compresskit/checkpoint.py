"""Reads and writes model folders: originals as they come, compressed ones with a `compression.json` beside the rest.

Nothing here unpickles anything or runs code that came with a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import CONFIG_NAME, cached_file, logging

from compresskit.anatomy import Alias, Anatomy
from compresskit.catalogue import load_catalogue
from compresskit.columns import Columns
from compresskit.config import CompressedConfig
from compresskit.cost import Dims, dims_of, longest, original_shape
from compresskit.edits import Shape
from compresskit.errors import CheckpointError, DataError
from compresskit.model import CompressedForSequenceClassification, wrap
from compresskit.writing import whole

RECORD = "compression.json"
"""Written last: a folder that has it is complete."""

FORMAT = 1
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model")
"""A tokenizer has at least one of these files."""


@dataclass(frozen=True)
class Original:
    """What a model's config alone tells.

    Args:
        name: the folder or Hub id as the user gave it.
        config: the config of the family (`BertConfig` ...), also for a compressed folder.
        anatomy: where its parts are.
        shape: its shape as it is given.
        policy: by which a compressed model leaves early, in the form of its config.
        alias: by which the checkpoint is read, where its config has another `model_type` than the family.
    """

    name: str
    config: PreTrainedConfig
    anatomy: Anatomy
    shape: Shape
    policy: Mapping[str, Any] | None = None
    alias: Alias | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longest text that there are positions for."""
        return longest(self.anatomy, self.config)

    @property
    def dims(self) -> Dims:
        """Its sizes before any edit."""
        return dims_of(self.anatomy, self.config)

    @property
    def hidden_size(self) -> int:
        """Of its hidden states as they are."""
        return self.shape.hidden or self.dims.hidden


@dataclass
class Checkpoint:
    """A model ready to work on.

    Args:
        original: what its config tells.
        model: wrapped; in eval mode, fp32.
        tokenizer: its tokenizer.
        record: `compression.json`, for a folder that compresskit wrote.
    """

    original: Original
    model: CompressedForSequenceClassification
    tokenizer: PreTrainedTokenizerBase
    record: dict[str, Any] | None

    def check_length(self, tokens: int) -> None:
        """Refuse to cut texts to more tokens than the model has positions for.

        Raises:
            DataError: `tokens` is more.
        """
        longest = min(self.tokenizer.model_max_length, self.original.longest)
        if tokens > longest:
            raise DataError(f"--max-tokens {tokens} is more than {self.original.name} can read; give at most {longest}")

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in the order of the logits."""
        names = self.model.config.id2label
        return tuple(str(names[index]) for index in sorted(names))

    @property
    def head_trained(self) -> bool:
        """Whether what answers at the last layer has been trained."""
        return self.model.depth not in self.model.untrained

    @property
    def columns(self) -> Columns | None:
        """The columns of the data that it was compressed with; None where nobody wrote them down."""
        data = self.model.config.data or {}
        texts, label = data.get("text_columns"), data.get("label_column")
        return Columns(tuple(texts), label) if texts and label else None


def read_original(name: str, labels: int | None = None) -> Original:
    """Read a folder's or Hub model's config; no weights.

    Args:
        name: folder or Hub id.
        labels: number of classes to plan for, where the model has no trained head yet.

    Raises:
        CheckpointError: there is no such model, or its config can't be read.
        ArchitectureError: its `model_type` has no anatomy.
    """
    config, alias = _read_config(name)
    if isinstance(config, CompressedConfig):
        anatomy = load_catalogue().anatomy(str(config.original.get("model_type")))
        own = AutoConfig.for_model(**config.original)
        shape = Shape.from_json(config.shape) if config.shape else original_shape(anatomy, own)
        return Original(name, own, anatomy, shape, config.exit_policy)
    anatomy = load_catalogue().anatomy(config.model_type)
    if labels is not None:
        config.num_labels = labels
    return Original(name, config, anatomy, original_shape(anatomy, config), alias=alias)


def load(name: str, labels: Sequence[str] | None = None, regression: bool = False) -> Checkpoint:
    """Load an original or a compressed model with its tokenizer.

    Args:
        name: folder or Hub id.
        labels: names of the classes for a new, untrained head; None takes the head that is there.
        regression: whether the new head predicts one number.

    Raises:
        CheckpointError: missing, unreadable, pickled, or broken weights; the message says what to do.
        ArchitectureError: its `model_type` has no anatomy.
    """
    original = read_original(name)
    _refuse_multi_label(name, original.config)
    _refuse_pickles(name)
    _refuse_missing_tokenizer(name)
    config, alias = _read_config(name)
    compressed = isinstance(config, CompressedConfig)
    if labels is not None or regression:
        outputs = config.num_labels
        _set_labels(config, labels or (), regression)
        if compressed and config.num_labels != outputs:
            raise CheckpointError(
                f"{name} has {outputs} outputs that nobody trained, and the data ask for {config.num_labels}; "
                "compress its original anew with these data"
            )
        original = original if compressed else replace(original, config=config)
    with _readable(name, "its config.json"):
        renames = None if alias is None else alias.renames(config, original.dims.layers)
    with quiet(), _readable(name):
        loaded, info = AutoModelForSequenceClassification.from_pretrained(
            name,
            config=config,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
            trust_remote_code=False,
            key_mapping=renames,
        )
    with quiet(), _readable(name, "its tokenizer"):
        # Of a `model_type` that transformers does not know it could not tell the tokenizer either.
        family = {} if alias is None else {"config": config}
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **family)
    model = loaded if compressed else wrap(loaded, original.anatomy)
    missing = [f"network.{key}" for key in sorted(info["missing_keys"])]
    head = tuple(f"network.{part}." for part in original.anatomy.read_out if not part.startswith(":"))
    stray = [key for key in missing if not key.startswith(head)]
    _refuse_lost_last(name, alias, [key for key in missing if key not in stray], info["unexpected_keys"])
    if stray and not compressed:
        raise CheckpointError(
            f"{name}: {len(stray)} weights are missing (first: {stray[0].removeprefix('network.')}); "
            "use the whole checkpoint, or another one"
        )
    _refuse_nan(name, model)
    _refuse_other_vocabulary(name, model, tokenizer)
    _refuse_other_padding(name, model, tokenizer)
    if missing:
        model.read_out_trained = False
    return Checkpoint(original, model.eval(), tokenizer, read_record(name))


def _refuse_lost_last(name: str, alias: Alias | None, missing: Sequence[str], unexpected: Iterable[str]) -> None:
    """What would be taken from the last layer begins anew where no layer has it, and not where another has."""
    if alias is None:
        return
    taken = tuple(f"network.{theirs}" for pattern, theirs in alias.names if "{last}" in pattern)
    lost = [key.removeprefix("network.") for key in missing if key.startswith(taken)]
    if lost and (other := alias.of_another_layer(unexpected)):
        wrong = "num_hidden_layers" if alias.without is None else f"num_hidden_layers or {alias.without}"
        raise CheckpointError(
            f"{name}: {len(lost)} weights are missing (first: {lost[0]}), and there is {other}; "
            f"correct {wrong} in config.json, or use the whole checkpoint"
        )


def _refuse_other_vocabulary(
    name: str, model: CompressedForSequenceClassification, tokenizer: PreTrainedTokenizerBase
) -> None:
    rows, largest = int(model.network.config.vocab_size), max(tokenizer.get_vocab().values(), default=0)
    if largest >= rows:
        raise CheckpointError(
            f"{name}: its tokenizer has a token {largest}, and its word embedding {rows} rows, from 0; "
            "the folder mixes two models, copy it again"
        )


def _refuse_other_padding(
    name: str, model: CompressedForSequenceClassification, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Where embeddings look ahead, an answer depends on which token pads."""
    own, pads = model.network.config.pad_token_id or 0, tokenizer.pad_token_id
    if pads is None:
        raise CheckpointError(f"{name}: its tokenizer has no pad_token; name one in tokenizer_config.json")
    if model.anatomy.lookahead and own != pads:
        raise CheckpointError(
            f"{name}: its tokenizer pads with token {pads}, and config.json has pad_token_id {own}; "
            "correct the one that the model was not trained with"
        )


def read_record(folder: str | Path) -> dict[str, Any] | None:
    """`compression.json` of a folder that compresskit wrote, or None.

    Raises:
        CheckpointError: it is damaged or of a later format.
    """
    path = Path(folder) / RECORD
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged ({error}); copy the folder again") from error
    if not isinstance(record, dict):
        raise CheckpointError(f"{path} is damaged (it holds no JSON object); copy the folder again")
    if record.get("format", 0) > FORMAT:
        raise CheckpointError(f"{path} has format {record['format']}, this version reads {FORMAT}; update compresskit")
    return record


def usual_tokens(name: str) -> int:
    """How many tokens texts are cut to where nobody says: as when the model was compressed, else 128.

    Args:
        name: folder or Hub id; one that can't be read is complained about by whoever reads it in earnest.
    """
    try:
        path = Path(name) / CONFIG_NAME if is_folder(name) else cached_file(name, CONFIG_NAME)
        data = json.loads(Path(path).read_text(encoding="utf-8")).get("data") or {}
        return int(data.get("max_tokens", 128))
    except (OSError, ValueError, AttributeError, TypeError):
        return 128


def save(
    model: CompressedForSequenceClassification,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    files: Mapping[str, str],
) -> None:
    """Write a model folder: weights, config, tokenizer and `files` (name to text), all or nothing.

    Raises:
        CheckpointError: the disk is full or the folder can't be written; what was there before is untouched.
    """
    with whole(folder, last=RECORD) as beside:
        model.sync_config()
        with quiet():
            model.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
        for name, text in files.items():
            (beside / name).write_text(text, encoding="utf-8")
        # safetensors writes for the owner alone; a model is as readable as the papers beside it.
        for weights in beside.glob("*.safetensors"):
            weights.chmod((beside / "config.json").stat().st_mode)


def is_folder(name: str) -> bool:
    """Whether a model name means a folder here rather than a Hub id."""
    return Path(name).is_dir() or name.startswith((".", "/", "~")) or name.count("/") > 1


def _read_config(name: str) -> tuple[PreTrainedConfig, Alias | None]:
    """The config, of the family where the checkpoint has another `model_type`, and what it is then read by."""
    if is_folder(name):
        if Path(name).is_file():
            raise CheckpointError(f"model {name} is a file; give the folder that it is in")
        if not Path(name).is_dir():
            raise CheckpointError(
                f"model folder {name} does not exist; give a folder with config.json and model.safetensors, or a Hub id"
            )
        if not (Path(name) / "config.json").is_file():
            raise CheckpointError(f"model folder {name} has no config.json; give the folder that save_pretrained wrote")
        try:
            model_type = json.loads((Path(name) / "config.json").read_text(encoding="utf-8")).get("model_type")
        except (ValueError, AttributeError) as error:
            raise CheckpointError(f"{name}/config.json is not a JSON object; copy the model again") from error
        if model_type is None:
            raise CheckpointError(f"{name}/config.json has no model_type; give the folder that save_pretrained wrote")
        if model_type != CompressedConfig.model_type and load_catalogue().alias(str(model_type)) is None:
            load_catalogue().anatomy(str(model_type))
    with quiet(), _readable(name, "its config.json"):
        fields, _ = PreTrainedConfig.get_config_dict(name)
        alias = load_catalogue().alias(str(fields.get("model_type")))
        if alias is not None:
            return AutoConfig.for_model(**fields | {"model_type": alias.family}), alias
        return AutoConfig.from_pretrained(name, trust_remote_code=False), None


def _set_labels(config: PreTrainedConfig, labels: Sequence[str], regression: bool) -> None:
    names = ["score"] if regression else list(labels)
    config.num_labels = len(names)
    config.id2label = dict(enumerate(names))
    config.label2id = {label: index for index, label in enumerate(names)}
    config.problem_type = "regression" if regression else "single_label_classification"


def _refuse_multi_label(name: str, config: PreTrainedConfig) -> None:
    if getattr(config, "problem_type", None) == "multi_label_classification":
        raise CheckpointError(
            f"model {name} gives each text any number of labels (problem_type multi_label_classification); "
            "use a model that gives one label, or one number"
        )


def _refuse_pickles(name: str) -> None:
    folder = Path(name)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for path in folder.glob(pattern))
    if pickled:
        raise CheckpointError(
            f"model folder {name} has its weights only as a pickle ({pickled[0]}), which can run code when opened; "
            "convert it to model.safetensors where you trust it"
        )
    raise CheckpointError(f"model folder {name} has no model.safetensors; give the folder that save_pretrained wrote")


def _refuse_nan(name: str, model: torch.nn.Module) -> None:
    for path, weight in model.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise CheckpointError(
                f"{name}: weight {path.removeprefix('network.')} holds NaN or infinity; "
                "its training went wrong, use an earlier checkpoint"
            )


def _refuse_missing_tokenizer(name: str) -> None:
    """Without its files, transformers would make a tokenizer that knows no word."""
    folder = Path(name)
    if folder.is_dir() and not any((folder / file).is_file() for file in TOKENIZERS):
        raise CheckpointError(f"model folder {name} has no tokenizer.json; copy the tokenizer's files into it")


@contextmanager
def _readable(name: str, part: str = "its weights") -> Iterator[None]:
    """Turn what transformers raises for an unreadable model into one sentence.

    Args:
        name: folder or Hub id.
        part: what of it is being read.
    """
    try:
        yield
    except SafetensorError as error:
        raise CheckpointError(f"{name}: model.safetensors is damaged ({error}); copy the model again") from error
    except (OSError, ValueError, StrictDataclassError, RuntimeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[-1 if isinstance(error, StrictDataclassError) else 0].strip().rstrip(".:")
        if isinstance(error, RuntimeError):
            if "ignore_mismatched_sizes" not in reason:
                raise
            reason = "they do not fit the sizes in config.json"
        if is_folder(name):
            raise CheckpointError(f"model {name}: {part} can't be read ({reason}); copy the model again") from error
        raise CheckpointError(
            f"model {name} is not a folder here, and the Hub did not give it ({reason}); "
            "check the name and the connection"
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """No load report and no bars from transformers: what matters of them becomes an error or a field."""
    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
