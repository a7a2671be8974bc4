"""List inputs that do not fit: how each is made, the command, and the answer of ``covtoken``, word for word.

``test_bad_inputs.py`` runs them all, and ``python tests/bad_inputs.py`` writes book/typical_problems.md from them.
"""

from __future__ import annotations

import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from covtoken.paths import project_root, write_then_rename

PAGE = project_root() / "book" / "typical_problems.md"
BEGIN = "<!-- problems:begin (written by `python tests/bad_inputs.py`) -->"
END = "<!-- problems:end -->"
Make = Callable[[Path], None]
TINY = "--backbone random:vit_tiny_patch16_224 --size 96"  # small and untrained: the answer hangs on no weights


@dataclass(frozen=True)
class Bad:
    """An input that a command refuses.

    Attributes:
        wrong: what is wrong, for the heading of the page.
        command: what is typed after ``covtoken``, in a folder that ``make`` filled.
        says: the line on standard error, without ``covtoken: ``; ``…`` stands for any text.
        exit: 1 where other cases go on, or where the answer is a list of faults on standard output; 2 otherwise.
        environment: variables that are set.
    """

    wrong: str
    command: str
    says: str
    make: Make
    exit: int = 2
    environment: tuple[tuple[str, str], ...] = ()


def noise(name: str, shape=(40, 50)) -> np.ndarray:
    return np.random.default_rng(list(name.encode())).integers(0, 255, shape).astype(np.uint8)


def mark() -> np.ndarray:
    marked = np.zeros((40, 50), np.uint8)
    marked[5:20, 5:20] = 255
    return marked


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, values) if path.suffix == ".npy" else Image.fromarray(values).save(path)


def own(*edits: Make, n: int = 12) -> Make:
    """Make ``own``: pictures p0.png … of n patients in i, masks of the same names in m, and the list; then edit it."""

    def make(here: Path) -> None:
        for i in range(n):
            save(here / f"own/i/p{i}.png", noise(f"p{i}"))
            save(here / f"own/m/p{i}.png", mark())
        rows = "".join(f"i/p{i}.png,m/p{i}.png,a{i}\n" for i in range(n))
        (here / "own/index.csv").write_text("image,mask,patient\n" + rows)
        for edit in edits:
            edit(here)

    return make


def plain(*edits: Make, n: int = 2) -> Make:
    """Make ``own`` without a list: pictures p0.png … alone."""

    def make(here: Path) -> None:
        (here / "own").mkdir()
        for i in range(n):
            save(here / f"own/p{i}.png", noise(f"p{i}"))
        for edit in edits:
            edit(here)

    return make


def nothing(here: Path) -> None:
    """Make nothing."""


def empty(here: Path) -> None:
    (here / "empty").mkdir()


def file(name: str, content: bytes | str | np.ndarray) -> Make:
    """Write a file of bytes, text or an array."""

    def make(here: Path) -> None:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, np.ndarray):
            save(here / name, content)
        else:
            (here / name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return make


def cut(name: str, length: int) -> Make:
    """Keep the first bytes of a file."""
    return lambda here: (here / name).write_bytes((here / name).read_bytes()[:length])


def listed(old: str, new: str) -> Make:
    """Replace text in the list."""

    def make(here: Path) -> None:
        index = here / "own/index.csv"
        text = index.read_text()
        assert old in text
        index.write_text(text.replace(old, new, 1))

    return make


def all_of(*edits: Make) -> Make:
    def make(here: Path) -> None:
        for edit in edits:
            edit(here)

    return make


def png_of(side: int) -> bytes:
    """Make the start of a PNG that claims to be a square of ``side`` pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"0" * 999))


def npy_of(text: str) -> bytes:
    """Make a .npy file of a header and ten bytes."""
    head = text.encode() + b" " * (117 - len(text)) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + b"0" * 10


def pages(here: Path) -> None:
    first, *more = (Image.fromarray(noise(str(i))) for i in range(3))
    first.save(here / "own/p0.tif", save_all=True, append_images=more)


def nifti(name: str, shape: tuple[int, ...]) -> Make:
    def make(here: Path) -> None:
        import nibabel

        (here / name).parent.mkdir(parents=True, exist_ok=True)
        nibabel.save(nibabel.Nifti1Image(np.random.default_rng(0).random(shape, np.float32), np.eye(4)), here / name)

    return make


def zipped(name: str, **members: bytes) -> Make:
    def make(here: Path) -> None:
        with zipfile.ZipFile(here / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member, content in members.items():
                archive.writestr(member, content)

    return make


def zeros_zip(here: Path) -> None:
    """Make a zip whose 100 kB would fill 100 MB."""
    with zipfile.ZipFile(here / "series.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.dcm", bytes(100_000_000))


def loop(here: Path) -> None:
    os.symlink("loop.png", here / "own/i/loop.png")


def bank(here: Path) -> None:
    import torch

    from covtoken.bank.tensor_file import content_digest
    from covtoken.bank.token_bank import TokenBank

    tokens, units, header = torch.arange(12.0).reshape(4, 3), np.arange(4), {"units": ["a"], "block": 6, "pooled": True}
    digest = content_digest(tokens, units, header)
    TokenBank(tokens, units, header | {"content_sha256": digest}).save(here / "bank.safetensors")


def direction(here: Path) -> None:
    import torch

    from covtoken.subspace.direction import Direction

    made = Direction(torch.ones(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), {"units": [], "block": 6})
    made.replaced(made.weight).save(here / "mine.safetensors")


def certificate(here: Path) -> None:
    from covtoken.economy.certificate import Certificate, MadeBy

    made_by = MadeBy("score", "vit", "ab", "squash", "fp32", 6, "cd")
    Certificate(0.1, 30, "rank", 256, 60, None, (), made_by, "ef").save(here / "certificate.json")


def evil(here: Path) -> None:
    """Pickle a call, as a checkpoint may hold one; whoever unpickles it writes a file ``ran``."""
    import pickle

    class Call:
        def __reduce__(self):
            return (Path.touch, (here / "ran",))

    (here / "evil.pth").write_bytes(pickle.dumps(Call()))


def flipped(name: str, place: int) -> Make:
    def make(here: Path) -> None:
        content = bytearray((here / name).read_bytes())
        content[place] ^= 1
        (here / name).write_bytes(content)

    return make


def gz(here: Path) -> None:
    nifti("own/v.nii.gz", (30, 30, 4))(here)
    cut("own/v.nii.gz", 900)(here)


M = "map -i own -o out"
G = "gate 1 --cohort own --split crossfit"
C = "certify own --direction ultrasound"
TABLE: dict[str, tuple[Bad, ...]] = {
    "Paths and options": (
        Bad(
            "The input does not exist",
            "map -i nowhere -o out",
            (
                "nowhere does not exist: give PNG, JPEG, TIFF, BMP, .npy, .nii, .nii.gz, DICOM, a folder "
                "of these or a .zip of a DICOM series"
            ),
            nothing,
        ),
        Bad(
            "A file that is no picture",
            "map -i notes.txt -o out",
            (
                "notes.txt is of no known format: expected PNG, JPEG, TIFF, BMP, .npy, .nii, .nii.gz, "
                "DICOM, a folder of these or a .zip of a DICOM series; convert it"
            ),
            file("notes.txt", "words"),
        ),
        Bad(
            "An empty folder",
            "map -i empty -o out",
            (
                "empty holds nothing to map: expected PNG, JPEG, TIFF, BMP, .npy, .nii, .nii.gz, DICOM, "
                "a folder of these or a .zip of a DICOM series"
            ),
            empty,
        ),
        Bad(
            "The output is the input",
            "map -i own -o own",
            "-o own is the input folder itself: give another, such as own-maps",
            plain(),
        ),
        Bad("The output is a file", "map -i own -o own/p0.png", "-o own/p0.png is a file: give a folder", plain()),
        Bad(
            "No output is named",
            "map -i own",
            "Try 'covtoken map --help' for help. Missing option '--out' / '-o'.",
            plain(),
        ),
        Bad(
            "Nobody may write there",
            "map -i own -o /proc/out --modality ultrasound " + TINY,
            "/proc/out: No such file or directory; check the path and its permissions",
            plain(),
        ),
        Bad(
            "An option that does not exist",
            M + " --gpu 0",
            "Try 'covtoken map --help' for help. No such option: --gpu",
            plain(),
        ),
        Bad(
            "A window that is too small",
            M + " --tile 4",
            "tile 4: expected the side of a window, a whole number of 8 pixels or more (the smallest picture); such as "
            "128, or leave it out",
            plain(),
        ),
        Bad(
            "A window of fewer pixels than tokens",
            "map -i own -o out --tile 12 --modality ultrasound",
            "tile 12: expected the side of a window, a whole number of 16 pixels or more (the model's grid has 16 "
            "tokens a side); such as 128, or leave it out",
            plain(),
        ),
        Bad(
            "A command that does not exist",
            "maps own",
            "Try 'covtoken --help' for help. No such command 'maps'. Did you mean 'map'?",
            nothing,
        ),
        Bad(
            "A number that is a word",
            M + " --size large",
            "Try 'covtoken map --help' for help. Invalid value for '--size': …",
            plain(),
        ),
        Bad("An unknown modality", M + " --modality mri", "unknown modality 'mri'. Known: ultrasound, ct", plain()),
        Bad(
            "An unknown organ",
            M + " --organ spleen",
            "unknown organ (it names the HU window) 'spleen'. Known: lung, lung-crops, abdomen, …",
            plain(),
        ),
        Bad(
            "A window upside down",
            M + " --window 240 -160",
            "window 240 -160: expected two numbers, black below white, such as -160 240",
            plain(),
        ),
        Bad(
            "A quantile that is none",
            M + " --quantile 99",
            "quantile 99: expected 0.5 or more and below 1; 0.99 flags a hundredth",
            plain(),
        ),
        Bad(
            "A shard that is not there",
            M + " --shard 5/4",
            "shard '5/4': expected i/N with 1 ≤ i ≤ N, such as 1/4",
            plain(),
        ),
        Bad(
            "A shard in words", M + " --shard first", "shard 'first': expected i/N with 1 ≤ i ≤ N, such as 1/4", plain()
        ),
        Bad("No case at all", M + " --limit 0", "limit 0: expected 1 case or more", plain()),
        Bad(
            "A device that is not here",
            M + " --modality ultrasound --device tpu",
            "device 'tpu' is not to be had here: expected auto, cpu or cuda",
            plain(),
        ),
        Bad(
            "A backbone misspelt",
            M + " --backbone dinov2-bas",
            (
                "unknown backbone 'dinov2-bas': did you mean dinov2-base or dinov3-base or dinov2-small? "
                "Known: embedded, dinov2-small, dinov2-base, …"
            ),
            plain(),
        ),
        Bad(
            "A size that patches do not divide",
            M + " --modality ultrasound --backbone random:vit_tiny_patch16_224 --size 100",
            (
                "picture size 100 does not fit random:vit_tiny_patch16_224: it must be a multiple of its "
                "patch, 16 px; 96 is the nearest"
            ),
            plain(),
        ),
        Bad(
            "A name that is too long",
            f"map -i {'x' * 300} -o out",
            "xxx…: File name too long; check the path and its permissions",
            nothing,
        ),
        Bad(
            "A home that does not exist",
            "index ~nosuchuser/i own/m",
            "~nosuchuser/i: no such home folder is known; write the path in full",
            own(),
        ),
    ),
    "What scores a map": (
        Bad(
            "Too few pictures, and no modality",
            M,
            (
                "the input has 2 units, fewer than 12 that make a bank, and nothing says which shipped "
                "direction is near: add --modality ultrasound or --modality ct, or a bank of your own "
                "with --bank FOLDER"
            ),
            plain(),
        ),
        Bad(
            "Two sources at once",
            M + " --bank own --direction ct",
            "--bank and --direction are given, and one of them scores: leave one out",
            plain(),
        ),
        Bad(
            "A direction that does not exist",
            M + " --direction mri",
            "direction 'mri': expected ultrasound, ct or a file of `covtoken fit`; none such",
            plain(),
        ),
        Bad(
            "A direction's file that does not exist",
            M + " --direction ./mine.safetensors",
            "mine.safetensors: no such direction; `covtoken fit PICTURES -o FILE` makes one",
            plain(),
        ),
        Bad(
            "A bank in place of a direction",
            M + " --direction bank.safetensors",
            "bank.safetensors: a safetensors file, but not a direction of covtoken",
            all_of(plain(), bank),
        ),
        Bad(
            "A direction cut short",
            M + " --direction mine.safetensors",
            "mine.safetensors: truncated or damaged: expected 288 bytes, came 90; build it again",
            all_of(plain(), direction, cut("mine.safetensors", 90)),
        ),
        Bad(
            "A shipped direction with another backbone",
            M + " --direction ct " + TINY,
            (
                "shipped direction 'ct': this direction does not fit (backbone: expected "
                "'random:vit_tiny_patch16_224', the direction has 'embedded'; weights_sha256: expected "
                "'…', the direction has '…'; preprocessing: expected "
                "'squash-bicubic;size=96;mean=0.5,0.5,0.5;std=0.5,0.5,0.5', the direction has "
                "'squash-bicubic;size=224;mean=0.485,0.456,0.406;std=0.229,0.224,0.225'): build a "
                "direction for these features"
            ),
            plain(),
        ),
        Bad(
            "A bank of three pictures",
            M + " --bank few " + TINY,
            (
                "the bank has 3 units that can be used, and 12 are the fewest: add pictures, or take a "
                "shipped direction (--direction ultrasound, --direction ct)"
            ),
            all_of(plain(), *(file(f"few/q{i}.png", noise(f"q{i}")) for i in range(3))),
        ),
        Bad(
            "A bank that does not exist",
            M + " --bank nowhere",
            (
                "nowhere does not exist: give PNG, JPEG, TIFF, BMP, .npy, .nii, .nii.gz, DICOM, a folder "
                "of these or a .zip of a DICOM series"
            ),
            plain(),
        ),
        Bad(
            "A list of two modalities",
            M,
            ("the input mixes ct and no modality and ultrasound: map them in runs of their own, or say --modality"),
            own(listed("patient\n", "patient,modality\n"), listed(",a0", ",a0,ct"), listed(",a1", ",a1,ultrasound")),
        ),
        Bad(
            "Every picture is black",
            M + " " + TINY,
            (
                "the input has 3 units, fewer than 12 that make a bank, and nothing says which shipped "
                "direction is near: add --modality ultrasound or --modality ct, or a bank of your own "
                "with --bank FOLDER"
            ),
            all_of(*(file(f"own/z{i}.png", np.zeros((40, 50), np.uint8)) for i in range(3))),
        ),
        Bad(
            "A direction from three patients",
            "fit own -o mine.safetensors " + TINY,
            (
                "the bank has 3 units that can be used, and 12 are the fewest: add pictures, or take a "
                "shipped direction (--direction ultrasound, --direction ct)"
            ),
            plain(n=3),
        ),
        Bad(
            "A direction into a folder",
            "fit own -o own",
            "-o own is a folder: give a file, such as own/direction.safetensors",
            plain(),
        ),
    ),
    "Pictures": (
        Bad(
            "A picture cut short", M + " --modality ultrasound", "", all_of(plain(n=1), cut("own/p0.png", 300)), exit=1
        ),
        Bad(
            "A file of zero bytes",
            M + " --modality ultrasound",
            "picture own/p0.png is empty (0 bytes): fetch it again",
            plain(file("own/p0.png", b""), n=1),
        ),
        Bad(
            "Text by the name of a picture",
            M,
            (
                "picture own/p0.png is of no known format, and pictures and masks are PNG, JPEG, TIFF, "
                "BMP, .npy or 2-D NIfTI: convert it"
            ),
            plain(file("own/p0.png", "words"), n=1),
        ),
        Bad(
            "A GIF by the name of a PNG",
            M,
            (
                "picture own/p0.png looks like GIF, and pictures and masks are PNG, JPEG, TIFF, BMP, "
                ".npy or 2-D NIfTI: convert it"
            ),
            plain(file("own/p0.png", b"GIF89a" + bytes(99)), n=1),
        ),
        Bad(
            "A TIFF of three pages",
            M,
            (
                "picture own/p0.tif holds 3 pages or frames, and one picture is expected: save the one "
                "that is meant as a file of its own"
            ),
            plain(pages, n=0),
        ),
        Bad(
            "A picture that would fill the memory",
            M,
            (
                "picture own/p0.png is 60000×60000 pixels, and 169000000 are the most that is read: "
                "scale it down, picture and mask alike"
            ),
            plain(file("own/p0.png", png_of(60_000)), n=1),
        ),
        Bad(
            "An array that would fill the memory",
            M,
            "picture own/p0.npy cannot be read (…): it is truncated or damaged; fetch it again",
            plain(
                file("own/p0.npy", npy_of("{'descr': '<f8', 'fortran_order': False, 'shape': (2000000, 1000000), }")),
                n=0,
            ),
        ),
        Bad(
            "An array of Python objects",
            M,
            "picture own/p0.npy holds Python objects, which are never loaded: save plain numbers",
            plain(file("own/p0.npy", npy_of("{'descr': '|O', 'fortran_order': False, 'shape': (4, 4), }")), n=0),
        ),
        Bad(
            "An array of words",
            M,
            "picture own/p0.npy cannot be read as numbers: it holds <U1; save it anew",
            plain(file("own/p0.npy", np.array([["a", "b"]])), n=0),
        ),
        Bad(
            "An array with NaN",
            M,
            "own/p0.npy: the picture holds NaN or infinite values; repair it first",
            plain(file("own/p0.npy", np.full((40, 40), np.nan)), n=0),
        ),
        Bad(
            "A header of nonsense",
            M,
            "picture own/p0.npy cannot be read (…): it is truncated or damaged; fetch it again",
            plain(file("own/p0.npy", npy_of("{'descr': ")), n=0),
        ),
        Bad(
            "A NIfTI of four dimensions",
            M,
            (
                "own/v.nii.gz has 4 axes, 20×20×3×2: expected a picture or a volume; save one phase or "
                "channel as a file of its own (for example `fslroi`)"
            ),
            plain(nifti("own/v.nii.gz", (20, 20, 3, 2)), n=0),
        ),
        Bad("A NIfTI cut short", M + " --modality ct --organ lung", "", plain(gz, n=0), exit=1),
        Bad(
            "Values that no modality has",
            M,
            (
                "float pictures hold -1e+06 … 1e+06: give --window LOW HIGH with the values of black and "
                "white, or --modality ct --organ … for HU"
            ),
            plain(file("own/p0.npy", np.linspace(-1e6, 1e6, 1600).reshape(40, 40)), n=0),
        ),
        Bad(
            "DICOM cut short",
            M,
            "picture own/a.dcm is DICOM without a picture in it: leave it out",
            plain(file("own/a.dcm", bytes(128) + b"DICM" + b"rubbish"), n=0),
        ),
        Bad(
            "A zip that is none",
            "map -i series.zip -o out",
            "series.zip is no zip archive, or is cut short: fetch it again, or give its folder",
            file("series.zip", "words"),
        ),
        Bad(
            "A zip that leads out",
            "map -i series.zip -o out",
            "series.zip: its member '../a.dcm' leads out of the archive: make it anew",
            zipped("series.zip", **{"../a.dcm": b"a"}),
        ),
        Bad(
            "A zip that would fill the disk",
            "map -i series.zip -o out",
            (
                "series.zip would unpack to 1 files of 100000000 bytes from 97203: at most 20000 files, "
                "8589934592 bytes and 200 times its size; unpack it yourself if you trust it"
            ),
            zeros_zip,
        ),
        Bad(
            "A zip without a picture",
            "map -i series.zip -o out",
            (
                "series.zip holds nothing to map (1 files left out, such as notes: of no known format by "
                "its name): expected PNG, JPEG, TIFF, BMP, .npy, .nii, .nii.gz, DICOM, a folder of these "
                "or a .zip of a DICOM series"
            ),
            zipped("series.zip", notes=b"words"),
        ),
        Bad(
            "One broken picture among good ones",
            M + " --modality ultrasound --direction ultrasound",
            "p0: picture own/p0.png cannot be read (…): it is truncated or damaged; fetch it again",
            plain(cut("own/p0.png", 300)),
            exit=1,
        ),
    ),
    "The list, index.csv": (
        Bad(
            "No list where masks are needed",
            G,
            (
                "own/index.csv is missing (…): a cohort folder needs one, with at least the columns "
                "image and mask; `covtoken index PICTURES MASKS` writes it"
            ),
            plain(),
        ),
        Bad(
            "No column of pictures",
            G,
            (
                "own/index.csv lacks the column 'image'; it has: picture, mask, patient. Name the "
                "columns in the first line, separated by commas"
            ),
            own(listed("image", "picture")),
        ),
        Bad(
            "A column that occurs twice",
            G,
            "own/index.csv has the column 'mask' twice: keep one",
            own(listed("patient", "mask")),
        ),
        Bad(
            "Saved as UTF-16",
            G,
            "own/index.csv cannot be read as UTF-8 (…): save it as comma-separated UTF-8",
            own(file("own/index.csv", "image,mask\n".encode("utf-16"))),
        ),
        Bad(
            "A header and no line",
            G,
            "cohort 'own' holds no case: check the folder and its layout (data_cards/)",
            own(file("own/index.csv", "image,mask\n")),
        ),
        Bad(
            "A quotation mark left open",
            G,
            "own/index.csv, line 14: no comma-separated text (…); is a quotation mark left open?",
            own(
                listed("i/p0.png", '"i/p0.png'),
                file("own/long", "x"),
                lambda here: (here / "own/index.csv").write_text((here / "own/index.csv").read_text() + "x" * 200_000),
            ),
        ),
        Bad(
            "A line without a picture",
            G,
            "own/index.csv, line 2: no image; take the line out",
            own(listed("i/p0.png", "")),
        ),
        Bad(
            "A picture that does not exist",
            G,
            ("own/index.csv, line 2: image file own/i/q.png does not exist; restore it or take the line out"),
            own(listed("i/p0.png", "i/q.png")),
        ),
        Bad(
            "A mask that does not exist",
            G,
            ("own/index.csv, line 2: mask file own/m/q.png does not exist; restore it or take the line out"),
            own(listed("m/p0.png", "m/q.png")),
        ),
        Bad(
            "An absolute path",
            G,
            "own/index.csv, line 2: /etc/passwd is an absolute path; paths are relative to the folder",
            own(listed("i/p0.png", "/etc/passwd")),
        ),
        Bad(
            "An absolute path of Windows",
            G,
            "own/index.csv, line 2: C:/p0.png is an absolute path; paths are relative to the folder",
            own(listed("i/p0.png", "C:\\p0.png")),
        ),
        Bad(
            "A path that leads out",
            G,
            ("own/index.csv, line 2: ../../m.png leads out of the folder; paths are relative to the folder"),
            own(listed("m/p0.png", "../../m.png")),
        ),
        Bad(
            "A link that leads to itself",
            G,
            ("own/index.csv, line 2: image file own/i/loop.png does not exist; restore it or take the line out"),
            own(loop, listed("i/p0.png", "i/loop.png")),
        ),
        Bad(
            "A control character in a path",
            G,
            "own/index.csv, line 2: image 'i/\\x00p0.png' holds a control character; mend it",
            own(listed("i/p0.png", "i/\0p0.png")),
        ),
        Bad(
            "A picture that is its own mask",
            G,
            "own/index.csv, line 2: image and mask are one file, i/p0.png: name the mask",
            own(listed("m/p0.png", "i/p0.png")),
        ),
        Bad(
            "A picture listed twice",
            G,
            ("own/index.csv lists the image i/p0 twice: keep one row an image (a mask may hold many lesions)"),
            own(listed("i/p1.png", "i/p0.png")),
        ),
        Bad(
            "Two files of one stem",
            G,
            (
                "own/index.csv lists i/p0.png and i/p0.bmp, two files of one stem, and a case goes by "
                "its stem: rename one"
            ),
            own(file("own/i/p0.bmp", noise("b")), listed("i/p1.png", "i/p0.bmp")),
        ),
        Bad(
            "An unknown diagnosis",
            G,
            "own/index.csv, line 2: diagnosis 'a0': expected benign, malignant, normal or nothing",
            own(listed("patient", "diagnosis")),
        ),
        Bad(
            "Spacing in words",
            G,
            "own/index.csv: spacing 'a0' is not one or two positive numbers in mm",
            own(listed("patient", "spacing")),
        ),
        Bad(
            "A lesion value below zero",
            G,
            (
                "own/index.csv: lesion_value a0, a1, a10, a11, a2, a3, a4, a5, a6, a7, a8, a9: expected "
                "a pixel value, 0 or more"
            ),
            own(listed("patient", "lesion_value")),
        ),
        Bad(
            "An unknown modality in one line",
            G,
            "own/index.csv: case 'p0' has the modality 'mri'. Known: ultrasound, ct, ct8",
            own(listed("patient\n", "patient,modality\n"), listed(",a0", ",a0,mri")),
        ),
        Bad(
            "Without a picture, for a map",
            M,
            (
                "own/index.csv lacks the column 'image'; it has: picture, mask, patient. Name the "
                "columns in the first line, or take the list away to map every picture of the folder"
            ),
            own(listed("image", "picture")),
        ),
        Bad(
            "An absolute path, for a map",
            M,
            ("own/index.csv, line 2: /etc/passwd leads out of the folder; paths are relative to it and stay inside"),
            own(listed("i/p0.png", "/etc/passwd")),
        ),
        Bad(
            "A link to itself, for a map",
            M,
            "own/index.csv: image own/i/loop.png does not exist; restore it or take its line out",
            own(loop, listed("i/p0.png", "i/loop.png")),
        ),
        Bad(
            "A picture listed twice, for a map",
            M,
            "own/index.csv lists the image i/p0.png twice: keep one row an image",
            own(listed("i/p1.png", "i/p0.png")),
        ),
        Bad(
            "A control character, for a map",
            M,
            "own/index.csv, line 2: image 'i/\\x00p0.png' holds a control character; mend it",
            own(listed("i/p0.png", "i/\0p0.png")),
        ),
        Bad(
            "The name of a committed cohort",
            "gate 1 --cohort ./busi",
            (
                "the folder busi bears the name of the committed cohort 'busi': open it as 'busi' with "
                "`folder` (--data), rename it, or give it a `name` of its own"
            ),
            lambda here: (own()(here), (here / "own").rename(here / "busi")),
        ),
        Bad(
            "A list that is there already",
            "index own/i own/m",
            ("…/own/index.csv is there already: add --overwrite to write over it, or give another by -o"),
            own(),
        ),
        Bad(
            "Names that do not match",
            "index own/i other",
            (
                "no mask matches a picture (mask z.png: no picture of its name in own/i; picture p0.png: "
                "no mask of its name in other; picture p1.png: no mask of its name in other): names must "
                "agree, but for _mask, _seg and the like"
            ),
            own(file("other/z.png", mark())),
        ),
        Bad(
            "A pattern that finds no patient",
            "index own/i own/m -o own/new.csv --patient (q)",
            (
                "--patient '(q)' names no patient in p0.png: give an expression with a group, such as "
                "'^([^_]+)_' for what stands before the first underscore"
            ),
            own(),
        ),
        Bad(
            "A pattern that is none",
            "index own/i own/m -o own/new.csv --patient (",
            (
                "--patient '(' is no regular expression (…), unterminated subpattern at position 0): "
                "give one such as '^([^_]+)_'"
            ),
            own(),
        ),
    ),
    "Masks": (
        Bad(
            "A mask cut short",
            G,
            "mask file own/m/p0.png cannot be read (…): it is truncated or damaged; fetch it again",
            own(cut("own/m/p0.png", 60)),
        ),
        Bad(
            "A mask of zero bytes",
            G,
            "mask file own/m/p0.png is empty (0 bytes): fetch it again",
            own(file("own/m/p0.png", b"")),
        ),
        Bad(
            "A mask of another size",
            G,
            (
                "mask own/m/p0.png is 20×20 pixels, its picture own/i/p0.png is 40×50: they must be the "
                "same size; export the mask again from the picture"
            ),
            own(file("own/m/p0.png", np.zeros((20, 20), np.uint8))),
        ),
        Bad(
            "A mask of several values",
            G,
            (
                "mask file own/m/p0.png holds the values 0, 1, 2, 3, …, 254 (255 in all): a mask is "
                "black (0) with one other value where the lesion is. Say which value is lesion, "
                "`lesion_value=2`, or from which on, `mask_at_least=128` (an organ mask: "
                "`organ_at_least=1`): options of open_cohort for a folder, or columns of index.csv"
            ),
            own(file("own/m/p0.png", noise("m"))),
        ),
        Bad(
            "A mask of probabilities",
            G,
            (
                "mask file own/m/p0.npy holds the values 0, 0.00050025, 0.0010005, 0.00150075, …, 1 "
                "(2000 in all): a mask is black (0) with one other value where the lesion is. Say which "
                "value is lesion, `lesion_value=2`, or from which on, `mask_at_least=128` (an organ "
                "mask: `organ_at_least=1`): options of open_cohort for a folder, or columns of index.csv"
            ),
            own(file("own/m/p0.npy", np.linspace(0, 1, 2000).reshape(40, 50)), listed("m/p0.png", "m/p0.npy")),
        ),
        Bad(
            "A mask with NaN",
            G,
            ("mask file own/m/p0.npy holds NaN or infinite values: a mask holds real numbers; save it anew"),
            own(file("own/m/p0.npy", np.full((40, 50), np.nan)), listed("m/p0.png", "m/p0.npy")),
        ),
        Bad(
            "A mask that would fill the memory",
            G,
            (
                "mask file own/m/p0.png is 60000×60000 pixels, and 169000000 are the most that is read: "
                "scale it down, picture and mask alike"
            ),
            own(file("own/m/p0.png", png_of(60_000))),
        ),
    ),
    "Banks and other files of covtoken": (
        Bad(
            "A file that does not exist",
            "bank info bank.safetensors",
            "bank.safetensors: no such bank; `covtoken bank build PICTURES -o FILE` makes one",
            nothing,
        ),
        Bad(
            "A picture in place of a bank",
            "bank info own/p0.png",
            "own/p0.png is no safetensors file: expected a token bank of covtoken; give another file",
            plain(),
        ),
        Bad(
            "A bank cut short",
            "bank info bank.safetensors",
            "bank.safetensors: truncated or damaged: expected 312 bytes, came 200; build it again",
            all_of(bank, cut("bank.safetensors", 200)),
        ),
        Bad(
            "One bit flipped",
            "bank info bank.safetensors",
            (
                "bank.safetensors: edited or damaged: content is 72aaa3c969a0, its header says "
                "360702180986; build it again"
            ),
            all_of(bank, flipped("bank.safetensors", -10)),
        ),
        Bad(
            "A header that claims too much",
            "bank info bank.safetensors",
            ("bank.safetensors is no safetensors file: expected a token bank of covtoken; give another file"),
            file("bank.safetensors", struct.pack("<Q", 2**62) + b"{}"),
        ),
        Bad(
            "A header nested too deep",
            "bank info bank.safetensors",
            "bank.safetensors: damaged: expected a safetensors file, came …; build it again",
            file("bank.safetensors", struct.pack("<Q", 200_000) + b"[" * 200_000),
        ),
        Bad(
            "A pickle in place of a bank",
            "bank info evil.pth",
            "evil.pth is no safetensors file: expected a token bank of covtoken; give another file",
            evil,
        ),
        Bad(
            "A bank into a folder",
            "bank build own -o own",
            "-o own is a folder: give a file, such as own/bank.safetensors",
            plain(),
        ),
        Bad(
            "A bank of no tokens",
            "bank build own -o b.safetensors --tokens 0",
            "Try 'covtoken bank build --help' for help. Invalid value for '--tokens': …",
            plain(),
        ),
        Bad(
            "A block that the backbone has not",
            "bank build own -o b.safetensors --block 99 " + TINY,
            "block 99 is out of range: random:vit_tiny_patch16_224 has blocks 1…12 or 'norm'",
            plain(),
        ),
        Bad(
            "A bank of nothing",
            "bank build empty -o b.safetensors",
            (
                "empty holds nothing to map: expected PNG, JPEG, TIFF, BMP, .npy, .nii, .nii.gz, DICOM, "
                "a folder of these or a .zip of a DICOM series"
            ),
            empty,
        ),
    ),
    "Certificates, kept tokens, routes": (
        Bad(
            "An alpha that is none",
            C + " --alpha 2",
            "alpha = 2.0: expected a number in (0, 1), the share of units that may be lost",
            own(),
        ),
        Bad(
            "A form that is none",
            C + " --form best",
            ("unknown form of certificate 'best'. Known: rank, threshold, expected risk, learn-then-test"),
            own(),
        ),
        Bad(
            "A certificate that is there already",
            C,
            ("certificate.json is there already: add --overwrite to write over it, or give another by -o"),
            all_of(own(), certificate),
        ),
        Bad(
            "A cohort that is opened once alone",
            "certify busbra-external --direction ultrasound",
            (
                "cohort 'busbra-external' is external, kept for one confirmation: nothing is chosen, "
                "tried or drawn on it, and only `covtoken confirm --cohort busbra-external` opens it"
            ),
            nothing,
        ),
        Bad(
            "Neither a share nor a certificate",
            "prune own -o out",
            "say how many tokens stay: either --keep, such as .25, or --certificate FILE",
            plain(),
        ),
        Bad(
            "Both a share and a certificate",
            "prune own -o out --keep .5 --certificate certificate.json",
            "say how many tokens stay: either --keep, such as .25, or --certificate FILE",
            all_of(plain(), certificate),
        ),
        Bad(
            "A share above one",
            "prune own -o out --keep 25",
            "keep ratio 25.0: it is the share of patch tokens kept, a number in (0, 1]",
            plain(),
        ),
        Bad(
            "A share of nothing",
            "route own --keep 0",
            "keep ratio 0.0: it is the share of patch tokens kept, a number in (0, 1]",
            plain(),
        ),
        Bad(
            "A certificate that does not exist",
            "prune own -o out --certificate certificate.json",
            "certificate.json: no such certificate; `covtoken certify FOLDER` makes one",
            plain(),
        ),
        Bad(
            "A certificate edited",
            "prune own -o out --certificate certificate.json",
            (
                "certificate.json: edited or damaged: content is b3466d0bec02, its digest says "
                "f9dde8a88ae6; restore it or calibrate it again"
            ),
            all_of(
                plain(),
                certificate,
                lambda here: (here / "certificate.json").write_text(
                    (here / "certificate.json").read_text().replace("0.1", "0.2", 1)
                ),
            ),
        ),
        Bad(
            "A certificate cut short",
            "prune own -o out --certificate certificate.json",
            "certificate.json: not a certificate (…); calibrate it again",
            all_of(plain(), certificate, cut("certificate.json", 100)),
        ),
        Bad(
            "A route by certificate, but no direction",
            "route own --certificate certificate.json --modality ct",
            (
                "a certificate holds for the direction that it was calibrated with: add --direction, "
                "with the one that covtoken certify was given"
            ),
            all_of(own(), certificate),
        ),
        Bad(
            "A batch of none",
            "route own --keep .5 --batch 0",
            "Try 'covtoken route --help' for help. Invalid value for '--batch': …",
            plain(),
        ),
    ),
    "Gates and records": (
        Bad("A gate that does not exist", "gate 9", "unknown gate '9'. Known: 0, 1, 2, …", nothing),
        Bad(
            "A cohort misspelt",
            "gate 1 --cohort bussi",
            "unknown cohort 'bussi': did you mean busi? Known: phantom, busi, lits, …",
            nothing,
        ),
        Bad(
            "A cohort that is opened once alone, at a gate",
            "gate 1 --cohort busbra-external",
            (
                "cohort 'busbra-external' is external, kept for one confirmation: nothing is chosen, "
                "tried or drawn on it, and only `covtoken confirm --cohort busbra-external` opens it"
            ),
            nothing,
        ),
        Bad(
            "A split that does not exist",
            "gate 1 --split train",
            "split 'train': expected selection, test, crossfit or carried",
            nothing,
        ),
        Bad(
            "A precision that does not exist",
            "gate 1 --precision int8",
            "precision 'int8': expected one of fp32, bf16",
            nothing,
        ),
        Bad("A word that is no decision", "gate 1 --fail-on maybe", "--fail-on maybe: expected no-go", nothing),
        Bad(
            "Data for a cohort that is drawn",
            "gate 1 --data own",
            "cohort 'phantom' is drawn, not read: leave the data folder (own) out",
            own(),
        ),
        Bad(
            "Weights that do not exist",
            "gate 1 --cohort own --split crossfit --weights nowhere.pth",
            "weights file nowhere.pth does not exist: check the path or leave weights_file out",
            own(),
        ),
        Bad(
            "Weights that would run code",
            "gate 1 --cohort own --split crossfit --backbone vit_tiny_patch16_224 --weights evil.pth",
            (
                "evil.pth is truncated or damaged (…): get it again; expected safetensors or a PyTorch "
                "state dict of vit_tiny_patch16_224"
            ),
            all_of(own(), evil),
        ),
        Bad(
            "Nothing to lock",
            "lock everything",
            "lock 'everything': expected thresholds, headline or confirmation",
            nothing,
        ),
        Bad(
            "A threshold that gates do not have",
            "lock thresholds --gate 9",
            "gate 9: gates 1, 2, 3 and 6 have thresholds to lock, others were fixed before",
            nothing,
        ),
        Bad(
            "A confirmation of no external cohort",
            "confirm --cohort busi",
            "unknown external cohort 'busi'. Known: busbra-external, lidc-external",
            nothing,
        ),
        Bad(
            "No locked number",
            "verify nowhere",
            (
                "nowhere, gate 1: no headline is locked; cohorts with locked headlines: busi, kits19, "
                "lidc-crops, lits, phantom"
            ),
            nothing,
        ),
        Bad(
            "A report that does not exist",
            "diff a.json b.json",
            "no report at a.json: write it with `covtoken gate N --cohort NAME`",
            nothing,
        ),
        Bad(
            "A report of another content",
            "diff a.json a.json",
            "a.json: schema None, expected 'covtoken-gate-report/1'; run the gate again",
            file("a.json", "[]"),
        ),
        Bad(
            "A report cut short",
            "diff a.json a.json",
            "a.json: not readable as JSON (…); run the gate again",
            file("a.json", '{"gate": 1,'),
        ),
        Bad(
            "A number that no report holds",
            "number 'busi/gate1 auroc.nothing'",
            (
                "busi/gate1 auroc.nothing: not recorded yet; did you mean auroc.in_organ or auroc.random "
                "or auroc.density?"
            ),
            nothing,
        ),
        Bad(
            "A figure that does not exist",
            "figure nothing",
            (
                "unknown figure 'nothing'. Known: explorer, "
                "busbra-external-confirmation-gain_forest-gains_crossfit, "
                "busbra-external-confirmation-gain_forest-gains_carried, …"
            ),
            nothing,
        ),
        Bad(
            "A change that is no JSON",
            "history --add change.json",
            "change.json: not readable as a JSON file (…): give an object with the fields of a change",
            file("change.json", "words"),
        ),
        Bad(
            "A signature under no report",
            "signoff 1 --cohort nowhere --name A",
            ("no report at …/gate_reports/nowhere/gate1.json: write it with `covtoken gate N --cohort NAME`"),
            nothing,
        ),
        Bad(
            "A signature that leads out",
            "signoff 1 --cohort ../../x --name A",
            "no report at …/gate_reports/x/gate1.json: write it with `covtoken gate N --cohort NAME`",
            nothing,
        ),
        Bad(
            "A cohort without volumes",
            "volumes --cohort busi",
            "unknown cohort of volumes 'busi'. Known: phantom, msd-task06, lidc-idri",
            nothing,
        ),
        Bad(
            "Two studies at once",
            "ablate --controls --choose",
            "--controls chooses nothing and has banks of its own: leave --choose and --banks out",
            nothing,
        ),
        Bad(
            "Times of a gate that was not run",
            "clock --cohort phantom2",
            ("no report at …/gate_reports/phantom2/gate6.json: write it with `covtoken gate N --cohort NAME`"),
            nothing,
        ),
        Bad(
            "A transfer from nowhere",
            "transfer-backbones --cohort nowhere",
            "unknown cohort 'nowhere'. Known: phantom, busi, lits, …",
            nothing,
        ),
        Bad(
            "An alarm for nowhere",
            "alarm --cohort nowhere",
            "unknown cohort 'nowhere'. Known: phantom, busi, lits, kits19, lidc-crops",
            nothing,
        ),
        Bad(
            "A choice that names a cohort",
            "in-organ --choose --cohort busi",
            ("--choose runs nothing and reads the committed tables of the recipe cohorts: leave --cohort out"),
            nothing,
        ),
    ),
    "Data, weights and folders": (
        Bad(
            "A data set that is not known",
            "data fetch nothing",
            "unknown data set 'nothing'. Known: phantom, busi, lits, …",
            nothing,
        ),
        Bad(
            "A folder that is not there, to be checked",
            "check nowhere",
            "unknown cohort 'nowhere'. Known: phantom, busi, lits, …, or a folder that holds index.csv",
            nothing,
        ),
        Bad(
            "A folder that is no cohort",
            "data check nowhere",
            "unknown cohort 'nowhere'. Known: phantom, busi, lits, …",
            nothing,
        ),
        Bad(
            "Weights of no backbone",
            "weights fetch dinov9",
            (
                "unknown backbone 'dinov9': did you mean meddinov3 or dinov3-base or dinov2-base? Known: "
                "embedded, dinov2-small, dinov2-base, …"
            ),
            nothing,
        ),
        Bad(
            "A cache in nobody's home",
            "gate 0",
            "COVTOKEN_CACHE: no home folder is known for ~nosuchuser/x; write the path in full",
            nothing,
            environment=(("COVTOKEN_CACHE", "~nosuchuser/x"),),
        ),
        Bad(
            "A cache that is a file",
            "bank build own -o b.safetensors " + TINY,
            (
                "cannot write …/cache/features/…/….safetensors: Not a directory; give its folder write "
                "permission and free space (COVTOKEN_CACHE moves the cache)"
            ),
            plain(file("cache", "x"), n=3),
            environment=(("COVTOKEN_CACHE", "{here}/cache"),),
        ),
        Bad(
            "Data that are not there",
            "gate 1 --cohort busi",
            (
                "BUSI not found: …/nowhere/Dataset_BUSI_with_GT is not a folder. Download 'Breast "
                "Ultrasound Images Dataset' (Kaggle, aryashah2k/breast-ultrasound-images-dataset), "
                "unpack it, and set COVTOKEN_DATA to the folder that holds Dataset_BUSI_with_GT"
            ),
            nothing,
            environment=(("COVTOKEN_DATA", "{here}/nowhere"),),
        ),
    ),
}


def every() -> list[Bad]:
    """List all bad inputs of the table."""
    return [bad for rows in TABLE.values() for bad in rows]


def block() -> str:
    """Write the table as the page shows it: what is wrong, the command, its answer."""
    lines = []
    for group, rows in TABLE.items():
        lines += [f"## {group}", ""]
        for bad in rows:
            set_to = "".join(f"{name}={value.replace('{here}/', '')} " for name, value in bad.environment)
            typed = bad.command if len(bad.command) < 200 else f"{bad.command[:40]}…"
            lines += [f"- **{bad.wrong}.** {_code(f'{set_to}covtoken {typed}')}, exit code {bad.exit}:"]
            lines += [f"  {_code(bad.says)}", ""]
    return "\n".join(lines).rstrip()


def _code(text: str) -> str:
    """Make a code span, with two backticks where the text holds one."""
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def write_page(page: Path = PAGE) -> None:
    """Write the block into the page, between its marks."""
    head, _, rest = page.read_text().partition(BEGIN)
    tail = rest.partition(END)[2]
    with write_then_rename(page) as temporary:
        temporary.write_text(f"{head}{BEGIN}\n\n{block()}\n\n{END}{tail}")


if __name__ == "__main__":
    write_page()
