"""Judging as a stage: which columns, which rows, which figures; what is refused, and what fails alone."""

from __future__ import annotations

import csv
import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from ml_service.common.errors import BadRequest, ServiceError, TooLarge
from ml_service.common.evaluation_options import EvaluationOptions, choose_columns
from ml_service.inference import image
from ml_service.inference.reading import Reading, ReadLine
from ml_service.pipeline.judging import stage
from ml_service.pipeline.judging.question import Question
from ml_service.pipeline.judging.report import Report

SETTINGS = {"slots": 4, "threads": 1, "prefill_chunk": 32, "prefix_cache_mib": 4}
Judge = Callable[..., Report]


@pytest.fixture
def judge(bundle: Path, tmp_path: Path) -> Judge:
    """Judge what lies in a file of this name."""

    def run(name: str, **options: Any) -> Report:
        question = Question(bundle=bundle, file=name, options=EvaluationOptions(**options), settings=SETTINGS)
        return stage.judge(tmp_path, question)

    return run


def table_in(folder: Path) -> list[dict[str, str]]:
    with (folder / "rows.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("names", "has_images", "wanted"),
    [
        (["id", "sentence", "acceptable", "error_type"], False, {"text": "sentence", "label": "acceptable"}),
        (["Text"], False, {"text": "Text"}),
        (["prompt", "completion"], False, {"prompt": "prompt", "target": "completion"}),
        (["image", "text"], True, {"image": "image", "target": "text"}),
        (["file_name", "target"], True, {"image": "file_name", "target": "target"}),
    ],
)
def test_usual_names_are_found(names: list[str], has_images: bool, wanted: dict[str, str]) -> None:
    found = choose_columns(EvaluationOptions(), names, has_images)
    assert found.model_dump(exclude_none=True) == wanted


@pytest.mark.parametrize(
    ("options", "names", "words"),
    [
        ({"text_column": "body"}, ["text"], "no column 'body'; there are 'text'"),
        ({}, ["a", "b"], "text_column: say which column it is"),
        ({"prompt_column": "a"}, ["a", "b"], "target_column: say which"),
        ({"text_column": "a", "prompt_column": "b"}, ["a", "b"], "not both"),
        ({"metrics": ["bleu"]}, ["text"], "'bleu' is none of avg_loss"),
        ({"image_column": "a", "target_column": "b"}, ["a", "b"], "send a .zip"),
    ],
)
def test_what_cannot_be_judged_is_refused_in_words(options: dict[str, Any], names: list[str], words: str) -> None:
    with pytest.raises(BadRequest, match=words):
        choose_columns(EvaluationOptions(**options), names, has_images=False)


def test_every_kind_of_table_gives_the_same_figures(judge: Judge, tmp_path: Path) -> None:
    texts = ["def value(count):\n    return count\n", 'with "quotes", and commas', "naïve 🙂"]
    with (tmp_path / "a.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    (tmp_path / "b.jsonl").write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))
    (tmp_path / "c.jsonl").write_text("".join(f"{json.dumps(text)}\n" for text in texts))
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "d.parquet")
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        archive.write(tmp_path / "a.csv", "inner/a.csv")
    reports = [judge(name) for name in ("a.csv", "b.jsonl", "c.jsonl", "d.parquet", "e.zip")]
    assert all(report.metrics == reports[0].metrics for report in reports)
    assert (reports[0].count, reports[0].failed) == (3, 0)


def test_figures_are_sums_over_the_corpus(judge: Judge, tmp_path: Path) -> None:
    texts = ["def value(count):\n    return count\n", "a  b", "x"]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(text)}\n" for text in texts))
    report, rows = judge("a.jsonl"), table_in(tmp_path)
    nats, tokens = (sum(float(row[name]) for row in rows) for name in ("nats", "tokens"))
    words = sum(len(text.split()) for text in texts) + 1  # "…\n" ends with an empty one, as the harness counts
    found = {name: figure.value for name, figure in report.metrics.items()}
    assert found["avg_loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert found["bits_per_byte"] == pytest.approx(nats / math.log(2) / len("".join(texts).encode()), rel=1e-5)
    assert found["word_perplexity"] == pytest.approx(math.exp(nats / words), rel=1e-5)
    assert report.tokens == tokens
    for figure in report.metrics.values():
        assert figure.low is not None and figure.value is not None and figure.high is not None
        assert figure.low <= figure.value <= figure.high
    worst = [each.found["text_bits_per_byte"] for each in report.worst]
    assert worst == sorted(worst, reverse=True)


def test_a_bad_row_fails_alone_and_is_told(judge: Judge, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(
        b'{"text": "good"}\n{"text": \n{"other": 1}\n7\n{"text": "\\ud800"}\n"\xff"\n"\\ud800"\n"fine"\n'
    )
    report, rows = judge("a.jsonl"), table_in(tmp_path)
    assert (report.count, report.failed) == (2, 6)
    assert [bool(row["error"]) for row in rows] == [False, True, True, True, True, True, True, False]
    assert [each.row for each in report.errors] == [2, 3, 4, 5, 6, 7]


def test_a_document_is_a_row_as_long_as_it_is(judge: Judge, tmp_path: Path) -> None:
    document = "value = total(count)\n" * 20_000
    (tmp_path / "a.jsonl").write_text(f"{json.dumps(document)}\n")
    with (tmp_path / "b.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], [document]])
    reports = [judge(name) for name in ("a.jsonl", "b.csv")]
    assert reports[0].metrics == reports[1].metrics
    assert reports[0].tokens > 10 * 64


def test_prompts_are_continued_and_held_against_their_targets(judge: Judge, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('prompt,target\n"def value_total(","count"\n"if name is ","None"\n')
    report, rows = judge("a.csv", max_new_tokens=4, stop=["\n"]), table_in(tmp_path)
    assert set(report.metrics) == {"exact_match", "chrf", "bleu", "rougeL", "cer", "wer", "bits_per_byte"}
    assert all("\n" not in row["prediction"] for row in rows)
    exact = sum(row["prediction"].strip() == row["target"] for row in rows) / len(rows)
    assert report.metrics["exact_match"].value == exact
    (tmp_path / "b.jsonl").write_text(
        "".join(json.dumps({"prompt": "def value_total(", "target": row["prediction"]}) + "\n" for row in rows[:1])
    )
    again = judge("b.jsonl", max_new_tokens=4, stop=["\n"])
    assert again.metrics["exact_match"].value == 1.0
    assert again.metrics["cer"].value == 0.0


def test_labels_may_stand_for_other_texts(judge: Judge, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sentence,acceptable\nif name is,1\nreturn,0\nif item is,1\n")
    plain = judge("a.csv", metrics=["accuracy", "mcc", "f1"])
    assert set(plain.metrics) == {"accuracy", "mcc", "f1"}
    told = judge("a.csv", labels={"1": "None", "0": "zzzz"}, metrics=["accuracy"])
    assert {row["predicted"] for row in table_in(tmp_path)} == {"1"}  # nobody would say zzzz
    assert told.metrics["accuracy"].value == pytest.approx(2 / 3)
    (tmp_path / "b.csv").write_text("text,label\n" + "".join(f"a,{number}\n" for number in range(60)))
    with pytest.raises(BadRequest, match="more than 50 different values"):
        judge("b.csv")


class FakeReader:
    """Reads what the picture's bytes say."""

    def read(self, picture: bytes, max_pixels: int) -> Reading:
        if picture.startswith(b"<"):
            raise BadRequest("this is no image")
        text = picture.decode()
        corner = (0.0, 0.0)
        return Reading(text, (ReadLine(text, 0.9, (corner, corner, corner, corner)),), 1, 1)


def test_images_are_read_and_held_against_their_targets(
    judge: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert image.TextReader.read
    monkeypatch.setattr(stage, "open_text_reader", lambda threads: FakeReader())
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("set/labels.csv", "image,target\none.png,hello\ntwo.png,wor1d\nthree.png,x\nfour.png,y\n")
        archive.writestr("set/one.png", "hello")
        archive.writestr("two.png", "world")
        archive.writestr("set/four.png", "<svg>")
        archive.writestr("__MACOSX/._labels.csv", "no table of ours")
    report = judge("a.zip")
    assert (report.count, report.failed) == (2, 2)
    assert report.metrics["exact_match"].value == 0.5
    assert report.metrics["cer"].value == pytest.approx(1 / 10)
    assert "no 'three.png' in the archive" in report.errors[0].error
    assert report.errors[1].error == "this is no image"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.txt", b"text", "none of .csv"),
        ("a.csv", b"", "no row in the file"),
        ("a.csv", b"text\n", "no row could be judged"),
        ("a.csv", b"text\n\xff\n", "no row could be judged"),
        ("a.csv", "text\nя\n".encode("utf-16"), "UTF-16"),
        ("a.csv", b"te\0xt\n1\n", "NUL"),
        ("a.csv", b",".join(b"c%d" % n for n in range(20_000)), "columns"),
        ("a.jsonl", b"[1]\n", "no row in the file"),
        ("a.parquet", b"PAR1 no parquet PAR1", "cannot be read"),
        ("a.zip", b"PK no zip", "zip"),
    ],
)
def test_what_is_no_table_is_refused_in_words(
    judge: Judge, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ServiceError, match=words):
        judge(name)
    assert {each.name for each in tmp_path.iterdir()} <= {name, "rows.csv"}


def test_archives_that_mean_harm_are_refused(judge: Judge, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("labels.csv", b"text\n" + b"a" * (8 << 20))
    with pytest.raises(TooLarge, match="times its packed size"):
        judge("bomb.zip")
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        archive.writestr("../a.csv", "text\nx\n")
        archive.writestr("b.csv", "text\nx\n")
    with pytest.raises(BadRequest, match=r"one table .* found: a\.csv, b\.csv"):
        judge("two.zip")


def test_a_table_that_swells_is_refused_before_it_fills_the_memory(judge: Judge, tmp_path: Path) -> None:
    texts = pyarrow.array(["x" * 20_000_000] * 64).dictionary_encode()
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), tmp_path / "a.parquet", compression="zstd")
    with pytest.raises(TooLarge, match="more memory than there is"):
        judge("a.parquet")
    (tmp_path / "b.jsonl").write_text('{"text": "the next one is judged as ever"}\n')
    assert judge("b.jsonl").count == 1
