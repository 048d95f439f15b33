"""The files of CIFAR-10 and CIFAR-100 as distributed: Python pickles (read by a restricted unpickler) or
Hugging Face's parquet files. Imports no torch.
"""

from __future__ import annotations

import _codecs
import io
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.errors import InputError, SourcePlace, input_error
from hpcbench.tasks.shared_folders import generated_samples, mark_generated
from hpcbench.tasks.smoke_data import SMOKE_SEED, crop_photograph, photographs
from hpcbench.tasks.task_registry import EVALUATION, TRAIN

_reconstruct: Any = np.zeros(0).__reduce__()[0]  # numpy's own, wherever this version of it keeps it

ALLOWED_NAMES: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): _codecs.encode,  # how Python 3 writes bytes in the protocol of Python 2
}
MAX_PICKLE_BYTES = 1 << 30
_BROKEN_PICKLE_ERRORS = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    MemoryError, OverflowError, UnicodeDecodeError,
)  # fmt: skip


class _ForbiddenNameError(Exception):
    """The pickle names something that no array needs."""


class _RestrictedUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        try:
            return ALLOWED_NAMES[module, name]
        except KeyError:
            raise _ForbiddenNameError(f"{module}.{name}") from None


def read_pickle(path: Path) -> dict[bytes, Any]:
    """Return the map in a file, keys as bytes; raises InputError naming the file, or OSError."""
    size = path.stat().st_size
    if size > MAX_PICKLE_BYTES:
        raise _pickle_error(path, f"far too large for a CIFAR file ({size:,} bytes)")
    try:
        content = _RestrictedUnpickler(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except _ForbiddenNameError as name:
        raise _pickle_error(path, f"this pickle would run {name}: a CIFAR file holds numbers only") from None
    except _BROKEN_PICKLE_ERRORS as error:
        raise _pickle_error(path, f"broken or cut off ({type(error).__name__}: {error})") from error
    if not isinstance(content, dict):
        raise _pickle_error(path, "no map of images and labels", found=type(content).__name__)
    return {key if isinstance(key, bytes) else str(key).encode(): value for key, value in content.items()}


def _pickle_error(path: Path, problem: str, found: object = None) -> InputError:
    return input_error(
        problem, place=SourcePlace(str(path)), found=found, hint="Get it anew: `hpcbench data check` says how"
    )


CIFAR_SIDE = 32
CIFAR_PIXELS = 3 * CIFAR_SIDE * CIFAR_SIDE


@dataclass(frozen=True)
class CifarEdition:
    """What the files of CIFAR-10 or CIFAR-100 are called, and what is in them."""

    classes: int
    folder: str
    train_files: tuple[str, ...]
    test_files: tuple[str, ...]
    label_key: bytes
    label_columns: tuple[str, ...]
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]
    archive: str
    archive_md5: str


CIFAR_EDITIONS = {
    "cifar10": CifarEdition(
        classes=10,
        folder="cifar-10-batches-py",
        train_files=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test_files=("test_batch",),
        label_key=b"labels",
        label_columns=("label",),
        mean=(0.4914, 0.4822, 0.4465),
        deviation=(0.2470, 0.2435, 0.2616),
        archive="cifar-10-python.tar.gz",
        archive_md5="c58f30108f718f92721af3b95e74349a",
    ),
    "cifar100": CifarEdition(
        classes=100,
        folder="cifar-100-python",
        train_files=("train",),
        test_files=("test",),
        label_key=b"fine_labels",
        label_columns=("fine_label",),
        mean=(0.5071, 0.4865, 0.4409),
        deviation=(0.2673, 0.2564, 0.2762),
        archive="cifar-100-python.tar.gz",
        archive_md5="eb9058c3a382ffc7106e4002c42a8d85",
    ),
}
CIFAR_SAMPLES = {"train": 50_000, "test": 10_000}
CIFAR_PARTS = {TRAIN: "train", EVALUATION: "test"}  # as the files call them
CIFAR_SITE = "https://www.cs.toronto.edu/~kriz"


@dataclass(frozen=True)
class CifarPart:
    """The training or the test images, still as they were stored: rows of pixels, or encoded pictures."""

    stored: NDArray[np.uint8] | Sequence[bytes]
    labels: NDArray[np.int64]
    origin: tuple[str, ...]  # the files, for messages

    def decode(self, samples: Sequence[int] | NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return images as uint8 [samples, 32, 32, 3]."""
        if isinstance(self.stored, np.ndarray):
            rows = self.stored[np.asarray(samples)]
            return np.ascontiguousarray(rows.reshape(-1, 3, CIFAR_SIDE, CIFAR_SIDE).transpose(0, 2, 3, 1))
        pixels = np.empty((len(samples), CIFAR_SIDE, CIFAR_SIDE, 3), np.uint8)
        for row, sample in enumerate(samples):
            pixels[row] = _decode_picture(self.stored[int(sample)], int(sample), self.origin)
        return pixels


def read_cifar(name: str, folder: Path, part: str) -> CifarPart:
    """Read the "train" or "test" part of a data set; raises InputError naming the file that is wrong."""
    edition = CIFAR_EDITIONS[name]
    try:
        parquet = find_parquet(folder, part)
        pickles = find_pickles(edition, folder, part)
        if pickles:
            found = _from_pickles(edition, pickles)
        elif parquet:
            found = _from_parquet(edition, parquet)
        else:
            raise missing_cifar_error(name, folder, part)
    except PermissionError as error:
        raise input_error(
            "no permission to read the data",
            place=SourcePlace(str(error.filename or folder)),
            hint="Make it readable for the account that runs the jobs",
        ) from error
    _check_part(edition, found, generated_samples(folder, part) or CIFAR_SAMPLES[part], part)
    return found


def missing_cifar_error(name: str, folder: Path, part: str) -> InputError:
    """Return the message for a folder without the files."""
    edition = CIFAR_EDITIONS[name]
    files = ", ".join(edition.train_files if part == "train" else edition.test_files)
    packed = folder / edition.archive
    unpack = f"Unpack it: tar -xzf {packed} -C {folder}" if packed.exists() else None
    return input_error(
        f"the {part} files of {name} are not here",
        place=SourcePlace(str(folder)),
        allowed=f"{edition.folder}/ with {files}, or {part}-*.parquet",
        hint=unpack or f"`hpcbench data check {name}` says how to get them",
    )


def find_pickles(edition: CifarEdition, folder: Path, part: str) -> list[Path]:
    """Return the pickles of a part, [] where there are none; raises InputError where some are missing."""
    names = edition.train_files if part == "train" else edition.test_files
    for where in (folder / edition.folder, folder):
        paths = [where / name for name in names]
        exists = [path.is_file() for path in paths]
        if all(exists):
            return paths
        if any(exists):
            lost = paths[exists.index(False)]
            raise input_error(
                "this file is missing, though others of the data set are here",
                place=SourcePlace(str(lost)),
                hint=f"Unpack {edition.archive} anew",
            )
    return []


def find_parquet(folder: Path, part: str) -> list[Path]:
    """Return the parquet files of a part in the layout of Hugging Face's hub."""
    for pattern in (f"{part}-*.parquet", f"*/{part}-*.parquet"):
        if found := sorted(folder.glob(pattern)):
            return found
    return []


def _from_pickles(edition: CifarEdition, paths: Sequence[Path]) -> CifarPart:
    images, labels = [], []
    for path in paths:
        content = read_pickle(path)
        lacking = [key.decode() for key in (b"data", edition.label_key) if key not in content]
        if lacking:
            raise _wrong_file_error(path, f"no {' and no '.join(lacking)} in it")
        rows, numbers = content[b"data"], content[edition.label_key]
        if getattr(rows, "dtype", None) != np.uint8 or rows.shape[1:] != (CIFAR_PIXELS,):
            raise _wrong_file_error(
                path, f"its images are not rows of {CIFAR_PIXELS} bytes", getattr(rows, "shape", None)
            )
        if len(rows) != len(numbers):
            raise _wrong_file_error(path, f"{len(rows):,} images and {len(numbers):,} labels")
        images.append(rows)
        labels.append(np.asarray(numbers, np.int64))
    lengths = {len(rows) for rows in images}
    if len(lengths) > 1:
        usual = max(lengths, key=[len(rows) for rows in images].count)
        odd = next(index for index, rows in enumerate(images) if len(rows) != usual)
        raise _wrong_file_error(paths[odd], f"{len(images[odd]):,} images, and {usual:,} in the other files")
    return CifarPart(np.concatenate(images), np.concatenate(labels), tuple(map(str, paths)))


def _from_parquet(edition: CifarEdition, paths: Sequence[Path]) -> CifarPart:
    import pyarrow
    import pyarrow.parquet

    pictures: list[bytes] = []
    labels: list[int] = []
    for path in paths:
        try:
            table = pyarrow.parquet.read_table(path)
        except (pyarrow.ArrowInvalid, OSError) as error:
            raise _wrong_file_error(path, f"not a parquet file that can be read ({error})") from error
        image = next((name for name in ("img", "image") if name in table.column_names), None)
        label = next((name for name in edition.label_columns if name in table.column_names), None)
        if image is None or label is None:
            raise _wrong_file_error(
                path, f"no columns img and {edition.label_columns[0]}", table.column_names
            )
        pictures += [_bytes_of(value, path) for value in table.column(image).to_pylist()]
        labels += table.column(label).to_pylist()
    return CifarPart(pictures, np.asarray(labels, np.int64), tuple(map(str, paths)))


def _bytes_of(value: Any, path: Path) -> bytes:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise _wrong_file_error(path, "its images are not encoded pictures", type(content).__name__)
    return content


def _decode_picture(content: bytes, sample: int, origin: tuple[str, ...]) -> NDArray[np.uint8]:
    from PIL import Image, UnidentifiedImageError

    try:
        pixels = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise _wrong_file_error(Path(origin[0]), f"image {sample} can't be decoded ({error})") from error
    if pixels.shape != (CIFAR_SIDE, CIFAR_SIDE, 3):
        raise _wrong_file_error(Path(origin[0]), f"image {sample} is not 32 x 32", pixels.shape)
    return pixels


def _check_part(edition: CifarEdition, part: CifarPart, samples: int, name: str) -> None:
    origin = Path(part.origin[0] if len(part.origin) == 1 else part.origin[0].rpartition("/")[0])
    if len(part.labels) != samples:
        raise _wrong_file_error(origin, f"{len(part.labels):,} {name} images instead of {samples:,}")
    if len(part.labels) and not 0 <= part.labels.min() <= part.labels.max() < edition.classes:
        raise _wrong_file_error(origin, f"labels outside 0 to {edition.classes - 1}", int(part.labels.max()))


def _wrong_file_error(path: Path, problem: str, found: object = None) -> InputError:
    return input_error(
        problem, place=SourcePlace(str(path)), found=found, hint="Get it anew: `hpcbench data check` says how"
    )


class CifarFiles:
    """The files of CIFAR-10 or CIFAR-100 (a `task_registry.DatasetFiles`)."""

    def __init__(self, name: str) -> None:
        self._name, self._edition = name, CIFAR_EDITIONS[name]

    def inspect(
        self, folder: Path, part: str, *, decode: bool = False, skip_non_images: bool = False
    ) -> tuple[int, list[str]]:
        """Read a part as a run does; all of its images are checked by that."""
        return len(read_cifar(self._name, folder, CIFAR_PARTS[part]).labels), []

    def download_commands(self, target: str) -> list[str]:
        """Return the commands; the first ones run on any machine that has a network."""
        archive = self._edition.archive
        return [
            "# on a machine with a network:",
            f"curl -O {CIFAR_SITE}/{archive}",
            f'echo "{self._edition.archive_md5}  {archive}" | md5sum -c',
            f"# if that is another machine: scp {archive} CLUSTER:",
            f"mkdir -p {target} && tar -xzf {archive} -C {target}",
        ]

    def generate(self, folder: Path, train_samples: int, evaluation_samples: int) -> None:
        """Write parts of photographs as CIFAR's pickles."""
        edition = self._edition
        generator, sources = np.random.default_rng(SMOKE_SEED), photographs()
        per_file = -(-train_samples // len(edition.train_files))
        (folder / edition.folder).mkdir(parents=True)
        lengths = [*(per_file for _ in edition.train_files), evaluation_samples]
        for file, length in zip((*edition.train_files, *edition.test_files), lengths, strict=True):
            labels = [int(label) for label in np.arange(length) % edition.classes]
            size = (CIFAR_SIDE, CIFAR_SIDE)
            pictures = [
                np.asarray(crop_photograph(sources, generator, label, edition.classes, size))
                for label in labels
            ]
            rows = np.stack(pictures).transpose(0, 3, 1, 2).reshape(length, -1)
            write_cifar_file(folder / edition.folder / file, edition, rows, labels)
        mark_generated(folder, {"train": per_file * len(edition.train_files), "test": evaluation_samples})


def write_cifar_file(path: Path, edition: CifarEdition, rows: NDArray[np.uint8], labels: list[int]) -> None:
    """Write rows of 3,072 bytes the way CIFAR is distributed, in the pickle protocol of Python 2."""
    names = [b"generated_%d.png" % row for row in range(len(labels))]
    content = {b"data": rows, edition.label_key: labels, b"filenames": names, b"batch_label": b"generated"}
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=2)
