"""Folders of class folders, ImageNet's tars, and pictures that are not as they should be."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from hpcbench.errors import InputError
from hpcbench.tasks import image_layouts, picture_decoding
from hpcbench.tasks.batches import Shard, ShardLoader
from hpcbench.tasks.data_check import check_data, find_data_problem
from hpcbench.tasks.image_augmentation import AugmentationSeed
from hpcbench.tasks.image_index import ImageIndex
from tests.data.conftest import Load, images_of

SMALL: dict[str, Any] = {"image_size": 32}
REPLACE: dict[str, Any] = {**SMALL, "corrupt": "replace"}


@pytest.fixture
def folder(generated: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil; its folders look as if they had not changed for a while."""
    copy = Path(shutil.copytree(generated / "imagenet", tmp_path / "imagenet"))
    _age(copy)
    return copy


def _age(folder: Path) -> None:
    past = time.time() - 60
    for each in (folder, *folder.rglob("*")):
        os.utime(each, (past, past))


def _first(folder: Path, part: str = "train") -> Path:
    return min(folder.glob(f"{part}/*/*.JPEG"))


def _open(folder: Path, part: str = "train", *, skip: bool = False) -> ImageIndex:
    return image_layouts.open_image_part("imagenet", folder, part, skip_non_images=skip)


def test_index_has_every_image_with_its_class(folder: Path) -> None:
    """Images are listed class by class, in the order of their names."""
    index = _open(folder)
    paths = [index.path(sample) for sample in range(len(index))]
    assert paths == sorted(folder.glob("train/*/*"))
    assert [index.classes[label] for label in index.labels] == [path.parent.name for path in paths]


def test_index_is_kept_and_made_anew_when_a_folder_changes(folder: Path, monkeypatch: Any) -> None:
    """The second time no folder is listed; a new image is seen all the same."""
    count = len(_open(folder))
    listed: list[str] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or scandir(path))
    assert len(_open(folder)) == count
    assert listed == []
    shutil.copy(_first(folder), _first(folder).with_name("a_new_one.JPEG"))
    assert len(_open(folder)) == count + 1
    assert listed != []


def test_index_of_a_folder_that_has_just_changed_is_not_trusted(folder: Path) -> None:
    """A change within the clock's grain after the listing would leave no trace: such an index is not used."""
    new = _first(folder).with_name("first.JPEG")
    shutil.copy(_first(folder), new)
    count = len(_open(folder))
    changed = new.parent.stat()
    shutil.copy(new, new.with_name("second.JPEG"))
    os.utime(new.parent, ns=(changed.st_atime_ns, changed.st_mtime_ns))  # as a coarse clock would have it
    assert len(_open(folder)) == count + 1


def test_broken_index_is_made_anew(folder: Path, cache_folder: Path) -> None:
    """A cache file that is cut off costs time, nothing else."""
    count = len(_open(folder))
    (path,) = cache_folder.glob("index/*.arrow")
    path.write_bytes(path.read_bytes()[:100])
    assert len(_open(folder)) == count


def test_cache_folder_that_cannot_be_written_is_no_obstacle(folder: Path, monkeypatch: Any) -> None:
    """Without a place for the index the folders are read each time."""
    monkeypatch.setenv("HPCBENCH_CACHE", "/proc/nowhere")
    assert len(_open(folder)) == len(list(folder.glob("train/*/*")))


def _tars(folder: Path, target: Path) -> None:
    """Pack a folder the way ImageNet is distributed."""
    target.mkdir()
    classes = sorted(path.name for path in (folder / "train").iterdir())
    with tarfile.open(target / image_layouts.TARS["train"], "w") as outer:
        for name in classes:
            inner = target / f"{name}.tar"
            with tarfile.open(inner, "w") as tar:
                for image in sorted((folder / "train" / name).iterdir()):
                    tar.add(image, image.name)
            outer.add(inner, inner.name)
            inner.unlink()
    validation = sorted(folder.glob("val/*/*"), key=lambda path: path.name)
    with tarfile.open(target / image_layouts.TARS["val"], "w") as tar:
        for image in validation:
            tar.add(image, image.name)
    # The kit numbers classes in an order of its own and knows groups of classes as well.
    numbers = {name: 1 + (5 * place) % len(classes) for place, name in enumerate(classes)}
    kind = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("num_children", "O")]
    rows = [(number, name, "words", 0) for name, number in numbers.items()] + [(99, "n99", "a group", 3)]
    meta = io.BytesIO()
    savemat(meta, {"synsets": np.array(rows, dtype=kind)})
    truth = "\n".join(str(numbers[path.parent.name]) for path in validation).encode()
    with tarfile.open(target / image_layouts.DEVKIT, "w:gz") as kit:
        for name, content in (
            (image_layouts.DEVKIT_META, meta.getvalue()),
            (image_layouts.DEVKIT_TRUTH, truth),
        ):
            member = tarfile.TarInfo(f"ILSVRC2012_devkit_t12/{name}")
            member.size = len(content)
            kit.addfile(member, io.BytesIO(content))


def test_tars_are_read_as_they_are_distributed(folder: Path, tmp_path: Path) -> None:
    """The same images with the same classes come out of tars of tars, without unpacking anything."""
    _tars(folder, tmp_path / "tars")
    before = set((tmp_path / "tars").iterdir())
    for part in ("train", "val"):
        plain, packed = _open(folder, part), _open(tmp_path / "tars", part)
        assert packed.classes == plain.classes

        def contents(index: ImageIndex) -> list[tuple[int, bytes]]:
            return sorted((int(index.labels[i]), index.read(i)) for i in range(len(index)))

        assert contents(packed) == contents(plain)
    assert set((tmp_path / "tars").iterdir()) == before


def test_validation_tar_needs_the_development_kit(folder: Path, tmp_path: Path) -> None:
    """Without the kit nobody knows the classes of the validation images: the message names the file."""
    _tars(folder, tmp_path / "tars")
    (tmp_path / "tars" / image_layouts.DEVKIT).unlink()
    with pytest.raises(
        InputError, match=rf"{image_layouts.DEVKIT}: the classes of the validation images are missing"
    ):
        _open(tmp_path / "tars", "val")


def test_cut_off_tar_is_named(folder: Path, tmp_path: Path) -> None:
    """Half a download of the training tar is found when it is listed."""
    _tars(folder, tmp_path / "tars")
    path = tmp_path / "tars" / image_layouts.TARS["train"]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=rf"{image_layouts.TARS['train']}: broken or cut off"):
        _open(tmp_path / "tars")


def test_text_file_among_images_is_named(folder: Path) -> None:
    """What is no image is refused with its path, or left out if corrupt images are to be replaced."""
    count = len(_open(folder))
    note = _first(folder).with_name("notes.txt")
    note.write_text("do not forget")
    with pytest.raises(InputError, match=r"notes\.txt: not an image.*Move it away"):
        _open(folder)
    assert len(_open(folder, skip=True)) == count
    assert "notes.txt" in (find_data_problem("imagenet", str(folder), {}) or "")
    assert find_data_problem("imagenet", str(folder), {"corrupt": "replace"}) is None


def test_empty_class_folder_is_named(folder: Path) -> None:
    """A class without images is refused with its path; left alone, the other classes keep their numbers."""
    (folder / "train" / "n00000000a").mkdir()
    with pytest.raises(InputError, match=r"n00000000a: this class folder is empty"):
        _open(folder)
    index = _open(folder, skip=True)
    assert "n00000000a" in index.classes
    assert index.classes[index.labels[-1]] == "n00000007"


def test_class_of_validation_alone_is_named(folder: Path, load: Load) -> None:
    """A class that was never trained can't be evaluated."""
    (folder / "val" / "n00000003").rename(folder / "val" / "unheard")
    with pytest.raises(InputError, match=r"val/unheard: this class of the validation images has no training"):
        load("imagenet", folder, options=SMALL)


def test_classes_of_validation_are_matched_by_name(folder: Path, load: Load) -> None:
    """Where validation lacks a class, the others keep the numbers of training."""
    shutil.rmtree(folder / "val" / "n00000002")
    dataset = load("imagenet", folder, options=SMALL)
    labels = dataset.evaluation_batch(torch.arange(dataset.evaluation_samples)).labels
    assert sorted(set(labels.tolist())) == [0, 1, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_cmyk_pictures_become_rgb(folder: Path, load: Load, mode: str) -> None:
    """ImageNet has both kinds; they look as they did before, up to compression."""
    path = _first(folder)
    colourful = Image.open(path).convert("RGB")
    dataset = load("imagenet", folder, options=SMALL)
    before = dataset.train_batch(torch.tensor([0]), 0).images
    grey = colourful.convert("L")
    (grey if mode == "L" else colourful.convert("CMYK")).save(path, "JPEG", quality=95)
    image = dataset.train_batch(torch.tensor([0]), 0).images
    assert image.shape == (1, 3, 32, 32)
    if mode == "CMYK":
        assert (image - before).abs().mean() < 0.3
    else:
        spread = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        centre = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        red, green, blue = (image[0] * spread + centre).unbind(0)
        assert torch.allclose(red, green, atol=1e-5)
        assert torch.allclose(red, blue, atol=1e-5)


def _spoil(folder: Path, kind: str) -> Path:
    path = _first(folder)
    if kind == "cut off":
        path.write_bytes(path.read_bytes()[:700])
    elif kind == "text":
        path.write_text("this is no picture")
    else:
        path.write_bytes(b"")
    return path


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["cut off", "text", "empty"])
def test_corrupt_picture_stops_the_run_and_is_named(
    folder: Path, load: Load, kind: str, workers: int
) -> None:
    """The message has the file and both ways out, also where a worker process met it."""
    path = _spoil(folder, kind)
    dataset = load("imagenet", folder, options=SMALL, workers=workers)
    with pytest.raises(InputError, match=rf"{path.name}: this image can't be decoded.*corrupt: replace"):
        images_of(dataset, 0)


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("fields", [{}, {"workers": 2}, {"cache": "memory"}, {"disk_cache": True}])
def test_corrupt_picture_is_replaced_alike(
    folder: Path, load: Load, fields: dict[str, Any], shards: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """The next image stands in, with its own label, whatever the cache and the ranks; it is counted."""
    options = {**REPLACE, "decoded_size": 40}
    whole = load("imagenet", folder, options=options)
    replacement = whole.train_batch(torch.tensor([1]), 0)
    path = _spoil(folder, "cut off")
    datasets = [load("imagenet", folder, options=options, rank=rank, **fields) for rank in range(shards)]
    batch = datasets[0].train_batch(torch.tensor([0, 1]), 0)
    assert batch.labels.tolist() == [replacement.labels.item()] * 2
    assert not torch.equal(batch.images[0], batch.images[1])  # each keeps the crop of its own number
    batches = [
        labels
        for shard, dataset in enumerate(datasets)
        for (part,) in ShardLoader(dataset, Shard(shard, shards), 24 // shards, 1, seed=3).train(0, range(5))
        for labels in [part.labels]
    ]
    assert {len(labels) for labels in batches} == {24 // shards}
    assert sum(dataset.pop_replaced_count() for dataset in datasets) == 1
    assert datasets[0].pop_replaced_count() == 0
    assert path.name in capfd.readouterr().err


def test_check_decodes_every_picture_when_asked(folder: Path) -> None:
    """A deep check names what can't be decoded; the quick one only counts."""
    path = _spoil(folder, "text")
    assert not any("decoded" in each for each in check_data("imagenet", str(folder)).problems)
    problems = check_data("imagenet", str(folder), decode=True).problems
    assert [path.name in each for each in problems] == [True]


def test_imagenet_with_images_missing_is_not_whole(folder: Path) -> None:
    """A real folder is held against the 1,281,167 and 50,000 images that there are."""
    (folder / "hpcbench-generated.json").unlink()
    report = check_data("imagenet", str(folder))
    assert not report.is_complete
    assert "train: 120 images instead of 1,281,167" in report.problems
    assert find_data_problem("imagenet", str(folder), {}) is None  # but it can be trained on


def test_draft_reads_large_pictures_at_a_fraction() -> None:
    """Draft gives nearly the same image where the part is twice as large, and exactly it elsewhere."""
    from hpcbench.tasks.smoke_data import photographs

    buffer = io.BytesIO()
    Image.fromarray(photographs()[1]).save(buffer, "JPEG", quality=95)

    def decoded(part: int, *, draft: bool) -> np.ndarray[Any, Any]:
        return picture_decoding.decode_picture(
            buffer.getvalue(), lambda height, width: (9, 11, part, part), 64, draft=draft
        ).astype(int)

    small, large = ([decoded(part, draft=draft) for draft in (False, True)] for part in (120, 400))
    assert np.array_equal(small[0], small[1])
    assert not np.array_equal(large[0], large[1])
    assert abs(large[0] - large[1]).mean() < 3


def test_training_crops_change_with_the_epoch_and_evaluation_does_not(folder: Path, load: Load) -> None:
    """A picture is cut differently in each epoch while it is decoded; for evaluation always in the middle."""
    dataset = load("imagenet", folder, options=SMALL)
    rows = torch.arange(6)
    crops = [dataset.train_batch(rows, epoch).images for epoch in (0, 1)]
    assert not torch.equal(crops[0], crops[1])
    assert torch.equal(dataset.evaluation_batch(rows).images, dataset.evaluation_batch(rows).images)
    picture = Image.open(min(folder.glob("val/*/*"))).convert("RGB")
    side = round(min(picture.size) * 7 / 8)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    expected = picture.resize((32, 32), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    pixels = dataset._decoders["evaluation"].decode(torch.tensor([0]), AugmentationSeed(0, None)).pixels[0]
    assert np.array_equal(pixels.numpy(), np.asarray(expected))
