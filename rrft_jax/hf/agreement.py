"""Checks that the files of a folder agree with each other, before a model is built.

If two files contradict each other, the model that is trained or sampled isn't the folder's, and
nothing later shows it. For example, with a wrong id of the picture token the model sees nothing.
"""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from rrft_jax.errors import UserError
from rrft_jax.hf.pretrained import read_json
from rrft_jax.hf.storage import Path
from rrft_jax.models.config import VLMConfig
from rrft_jax.models.families import FAMILIES
from rrft_jax.rewards.format import TAGS

CONFIG, GENERATION = "config.json", "generation_config.json"
TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
VOCABULARY, ADDED = "vocab.json", "added_tokens.json"
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"

# Token of the template -> its field in config.json, its field in VLMConfig.
_PICTURES = {
    "<|image_pad|>": ("image_token_id", "image_token"),
    "<|video_pad|>": ("video_token_id", "video_token"),
    "<|vision_start|>": ("vision_start_token_id", "vision_start_token"),
    "<|vision_end|>": ("vision_end_token_id", "vision_end_token"),
    "<|vision_pad|>": ("vision_token_id", "vision_pad_token"),
}
_TURN = "<|im_start|>"
_ENDS = ("<|im_end|>", "<|endoftext|>")
# Field of the image processor -> its field in vision_config, its field in VLMConfig, its default.
_PATCHES = {
    "patch_size": ("patch_size", "patch_size", 14),
    "temporal_patch_size": ("temporal_patch_size", "temporal_patch_size", 2),
    "merge_size": ("spatial_merge_size", "merge_size", 2),
}
_LIMITS = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}
_COLOURS = ("image_mean", "image_std")


def check_tokens(
    path: Path, folder: pathlib.Path, config: VLMConfig | None, tokenizer: Any
) -> None:
    """Check that the files of a folder give the same ids to the same tokens.

    Args:
      path: the folder as the user gave it.
      folder: the folder on the disk that holds its small files.
      config: the model's config; None compares only the tokenizer's own files.
      tokenizer: the folder's tokenizer, as transformers loads it.

    Raises:
      UserError: a token has two ids, an id has two tokens, an id in a config belongs to no token
        or to another one, or an id has no row in the embedding.
    """
    try:
        first, *others = _vocabularies(folder)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: a file of the tokenizer is broken ({reason})") from None
    loaded = ("the tokenizer as it is loaded", tokenizer.get_vocab())
    if config is not None:
        for one in (first, *others, loaded):
            _check_rows(path, *one, config.text.vocab_size)
    for one in (*others, loaded):
        _check_vocabulary(path, first, one)
    for one in others:
        _check_vocabulary(path, loaded, one)
        if unknown := one[1].keys() - loaded[1].keys():
            said = f"{one[0]} has {min(unknown)!r} as token {one[1][min(unknown)]}"
            raise _contradiction(path, said, f"{first[0]} has no such token")
    if config is None:
        return
    file, ids = first[0], loaded[1]
    names = {index: token for token, index in ids.items()}
    raw = read_json(folder / CONFIG)
    for token, (key, field) in _PICTURES.items():
        for where, value in _stated(raw, key, getattr(config, field)):
            said = f"{CONFIG} has {where} {value}"
            if token in ids and value != ids[token]:
                raise _contradiction(path, said, f"{file} has {token} as token {ids[token]}")
            if token not in ids and value in names:
                raise _contradiction(path, said, f"that is {names[value]!r} in {file}")
    _check_ends(path, folder, raw, tokenizer, names, file)


def _check_vocabulary(
    path: Path, first: tuple[str, Mapping[str, int]], second: tuple[str, Mapping[str, int]]
) -> None:
    """Raise UserError unless two files, each given as (name, ids by token), agree."""
    (one, ids), (other, others) = first, second
    names = {index: token for token, index in ids.items()}
    for token, index in others.items():
        said = f"{other} has {token!r} as token {index}"
        if ids.get(token, index) != index:
            raise _contradiction(path, said, f"{one} as {ids[token]}")
        if names.get(index, token) != token:
            raise _contradiction(path, said, f"{one} has {names[index]!r} there")


def _check_rows(path: Path, file: str, ids: Mapping[str, int], rows: int) -> None:
    last = max(ids, key=ids.get, default=None)
    if last is not None and ids[last] >= rows:
        raise UserError(
            f"{path}: {file} has {last!r} as token {ids[last]}, but {CONFIG} gives the embedding "
            f"{rows} rows (vocab_size), for tokens 0 to {rows - 1}; give the tokenizer of these "
            "weights, or enlarge the embedding first (resize_token_embeddings of transformers)"
        )


def _check_ends(
    path: Path,
    folder: pathlib.Path,
    raw: Mapping[str, Any],
    tokenizer: Any,
    names: Mapping[int, str],
    file: str,
) -> None:
    """Check that end, padding and begin tokens are control tokens without another purpose.

    A token of pictures, of turns or of tags has another purpose. Released folders name several end
    tokens, and different ones in different files: any of them is right.
    """
    ends = _added(folder, tokenizer) - {*_PICTURES, _TURN, *TAGS}
    own = {"eos": ends, "pad": ends | {"<|vision_pad|>"}}  # some folders pad with <|vision_pad|>
    for kind, tokens in own.items():
        token = getattr(tokenizer, f"{kind}_token")
        if token is not None and token not in tokens:
            raise _contradiction(
                path,
                f"{TOKENIZER_CONFIG} has {kind}_token {token!r}",
                f"in {file} that has another purpose (expected {' or '.join(_ENDS)})",
            )
    known = {
        "eos": ends,
        "pad": {tokenizer.pad_token, tokenizer.eos_token, *_ENDS},
        "bos": set(names.values()),
    }
    for source, content in ((CONFIG, raw), (GENERATION, read_json(folder / GENERATION))):
        for kind, tokens in known.items():
            for where, value in _stated(content, f"{kind}_token_id"):
                for one in value if isinstance(value, list) else [value]:
                    said = f"{source} has {where} {one}"
                    if one not in names:
                        raise _contradiction(path, said, f"{file} has no such token")
                    if names[one] not in tokens:
                        found = f"that is {names[one]!r} in {file}, which has another purpose"
                        raise _contradiction(path, said, found)


def check_pictures(path: Path, folder: pathlib.Path, config: VLMConfig | None) -> None:
    """Check that the image processor's settings agree with each other and with config.json.

    Args:
      path: the folder as the user gave it.
      folder: the folder on the disk that holds its small files.
      config: the model's config; None compares only the image processor's settings.

    Raises:
      UserError: a patch size, a number of channels or a pixel limit has two values.
    """
    files = {
        PROCESSOR: read_json(folder / PROCESSOR).get("image_processor"),
        PREPROCESSOR: read_json(folder / PREPROCESSOR),
    }
    files = {file: settings for file, settings in files.items() if settings}
    raw = {} if config is None else read_json(folder / CONFIG)
    must_state = config is not None and not FAMILIES[raw["model_type"]].image_defaults
    for key in (*_LIMITS, *_COLOURS):
        values = {file: _setting(settings, key) for file, settings in files.items()}
        values = {file: value for file, value in values.items() if value}
        if must_state and not values:
            raise UserError(
                f"{path}: {' and '.join(files) or PREPROCESSOR} has no {_LIMITS.get(key, key)}, "
                "and this family has no default for it; download the folder again"
            )
        _same(path, {f"{file} has {key} {value}": value for file, value in values.items()})
    for key, (field, own, default) in _PATCHES.items():
        stated = {f"{file} has {key} {s[key]}": s[key] for file, s in files.items() if key in s}
        if config is not None and files:
            value = getattr(config.vision, own)
            stated |= {} if stated else {f"{next(iter(files))} has no {key}, so {default}": default}
            stated[f"{CONFIG} has vision_config.{field} {value}"] = value
            other = raw["vision_config"].get(f"spatial_{key}") if key == "patch_size" else None
            stated |= {f"{CONFIG} has vision_config.spatial_{key} {other}": other} if other else {}
        _same(path, stated)
    channels = 3 if config is None else config.vision.in_channels
    if channels != 3:
        said = f"{CONFIG} has vision_config.in_channels {channels}"
        raise _contradiction(path, said, "pictures are read in 3 colours")
    for file, settings in files.items():
        for key in _COLOURS:
            value = settings.get(key)
            if isinstance(value, list) and len(value) != channels:
                raise _contradiction(
                    path,
                    f"{file} has {len(value)} numbers in {key}",
                    f"{CONFIG} has {channels} channels (vision_config.in_channels)",
                )


def _setting(settings: Mapping[str, Any], key: str) -> Any:
    """Return a setting of the image processor; None if the file doesn't state it."""
    size = settings.get("size")
    size = size if isinstance(size, dict) else {}
    # If one file has both names, every release of transformers takes the older one.
    return settings.get(key) or size.get(_LIMITS.get(key)) or size.get(key)


def _same(path: Path, stated: Mapping[str, Any]) -> None:
    """Raise UserError unless all these statements have one value."""
    (said, value), *others = stated.items() or [("", None)]
    for other, another in others:
        if another != value:
            raise _contradiction(path, said, other)


def _stated(raw: Mapping[str, Any], key: str, default: Any = None) -> Iterator[tuple[str, Any]]:
    """Yield (where, value) for a key at the top and in text_config, or else for the default."""
    text = raw.get("text_config")
    found = {key: raw.get(key)}
    found[f"text_config.{key}"] = text.get(key) if isinstance(text, dict) else None
    found = {where: value for where, value in found.items() if value is not None}
    if not found and default is not None:
        found = {f"no {key}, which then is": default}
    yield from found.items()


def _vocabularies(folder: pathlib.Path) -> Iterator[tuple[str, dict[str, int]]]:
    """Yield (file, ids by token) for the files that define token ids, in their precedence."""
    if (folder / TOKENIZER).is_file():
        written = read_json(folder / TOKENIZER)
        vocabulary = written["model"]["vocab"]
        added = {token["content"]: token["id"] for token in written.get("added_tokens", ())}
        yield TOKENIZER, added | (vocabulary if isinstance(vocabulary, dict) else {})
    for name in (VOCABULARY, ADDED):
        if (folder / name).is_file():
            yield name, read_json(folder / name)
    decoder = read_json(folder / TOKENIZER_CONFIG).get("added_tokens_decoder", {})
    yield TOKENIZER_CONFIG, {token["content"]: int(index) for index, token in decoder.items()}


def _added(folder: pathlib.Path, tokenizer: Any) -> set[str]:
    """Return the tokens that the folder adds to its vocabulary.

    With a tokenizer.json they are read from the files, because loading may add tokens.
    """
    if not (folder / TOKENIZER).is_file():
        return {token.content for token in tokenizer.added_tokens_decoder.values()}
    files = [
        (file, ids) for file, ids in _vocabularies(folder) if file in (ADDED, TOKENIZER_CONFIG)
    ]
    written = read_json(folder / TOKENIZER).get("added_tokens", ())
    return {token["content"] for token in written}.union(*(ids for _, ids in files))


def _contradiction(path: Path, one: str, other: str) -> UserError:
    return UserError(
        f"{path}: {one}, but {other}; correct the one that is wrong, or download the folder again"
    )
