"""What the evaluate page makes of files and answers: previews and guesses, questions, histograms, scales."""

from __future__ import annotations

import csv
import io

import pytest

from ml_service.common.evaluation_options import Columns
from ml_service.frontend.judging import rows as evaluate_rows
from ml_service.frontend.judging.metrics import main_metric, scale
from ml_service.frontend.judging.preview import preview
from ml_service.frontend.judging.question import Question, kind_of, labels_of, metrics_of
from ml_service.frontend.judging.result import progress_words
from ml_service.frontend.judging.rows import distributions, histogram
from ml_service.frontend.judging.worst import shortened


def test_a_table_is_seen_as_the_service_reads_it() -> None:
    seen = preview("Pairs.CSV", b'\xef\xbb\xbfprompt,target\n"def f(x):\n    return ",x\n', has_more=False)
    assert seen.columns == ["prompt", "target"]
    assert seen.rows == [{"prompt": "def f(x):\n    return ", "target": "x"}]
    assert kind_of(seen.guess) == "prompt"


def test_what_is_cut_off_is_not_shown() -> None:
    seen = preview("a.csv", b'text,label\none,1\n"two\nlines', has_more=True)
    assert seen.rows == [{"text": "one", "label": "1"}]
    assert seen.guess == Columns(text="text", label="label")
    lines = preview("a.jsonl", b'{"text": "one", "n": 1}\n"two"\nnot json\n{"text": "thr', has_more=True)
    assert lines.rows == [{"text": "one", "n": "1"}, {"text": "two"}]


def test_one_column_of_any_name_is_suggested_and_then_has_to_be_said() -> None:
    seen = preview("a.csv", b"words\none\n", has_more=False)
    assert (seen.guess, seen.suggestion) == (Columns(), Columns(text="words"))
    assert Question("text", {"text": "words"}).fields(seen.guess) == {"text_column": "words"}


@pytest.mark.parametrize(
    ("name", "head", "words"),
    [
        ("a.csv", b"", "The file is empty."),
        ("a.csv", "text\nö\n".encode("utf-16"), "It cannot be read: the file is UTF-16: UTF-8 is wanted."),
        ("a.csv", b"caf\xe9\n", "It cannot be read: the file is not UTF-8: invalid continuation byte at byte 3."),
        ("a.csv", b"a,a\n1,2\n", "It cannot be read: the table has two columns 'a'."),
        ("a.jsonl", b"\n\n", "There is no row to be seen at its beginning."),
        ("a.docx", b"PK", "The service judges .csv .jsonl .parquet .zip."),
    ],
)
def test_what_cannot_be_used_is_told_before_it_is_sent(name: str, head: bytes, words: str) -> None:
    seen = preview(name, head, has_more=False)
    assert (seen.words, seen.is_bad) == (words, True)


def test_what_only_the_service_can_read_is_left_to_it() -> None:
    seen = preview("a.zip", b"PK\x03\x04", has_more=True)
    assert not seen.is_bad
    assert "the service" in seen.words


def test_what_the_service_guesses_is_not_sent() -> None:
    guess = Columns(prompt="prompt", target="target")
    assert Question("prompt", {"prompt": "prompt", "target": "target"}).fields(guess) == {}
    assert Question("guess", {"text": "left from before"}).fields(Columns()) == {}
    columns = {"prompt": "id", "target": "target"}
    changed = Question("prompt", columns, metrics=["chrf"], stop="\\n\n\n a", max_new_tokens=8)
    said = {"metrics": ["chrf"], "max_new_tokens": 8, "stop": ["\n", " a"]}
    assert changed.fields(guess) == {"prompt_column": "id", "target_column": "target"} | said


def test_labels_have_texts_of_their_own() -> None:
    columns = {"text": "s", "label": "l"}
    question = Question("text", columns, labels="0 = no\n1 = yes", delimiter="\\n", experiment_id=3)
    said = {"experiment_id": 3, "labels": {"0": "no", "1": "yes"}, "delimiter": "\n"}
    assert question.fields(Columns()) == {"text_column": "s", "label_column": "l"} | said
    with pytest.raises(ValueError, match="'no sign' is no label = text"):
        labels_of("no sign")
    assert "accuracy" in metrics_of("text", has_label=True)
    assert "accuracy" not in metrics_of("text", has_label=False)


def test_a_histogram_has_round_steps_and_one_bar_for_what_lies_far_out() -> None:
    values = [number / 100 for number in range(1000)] + [500.0]
    bars = histogram(values)
    assert list(bars)[:2] == ["0 to 0.5", "0.5 to 1"]
    assert list(bars.items())[-1] == ("10 and more", 1)
    assert sum(bars.values()) == len(values)
    assert histogram([0.0, 1.0, 1.0]) == {"0": 1, "1": 2}
    assert histogram([0.25, 0.25]) == {"0.25": 2}
    assert sum(histogram([-3.5, -1.25, 0.75]).values()) == 3


def a_table(rows: int) -> bytes:
    lines = io.StringIO(newline="")
    table = csv.DictWriter(lines, ["row", "asked", "cer", "finish_reason", "error"])
    table.writeheader()
    for row in range(1, rows + 1):
        table.writerow({"row": row, "asked": 'a "text"\nof two lines', "cer": row / 7, "finish_reason": "stop"})
    table.writerow({"row": rows + 1, "error": "it has no target"})
    return lines.getvalue().encode()


def test_columns_of_a_table_are_counted_without_the_rows_that_failed() -> None:
    found = distributions(a_table(50))
    assert (found.rows, found.is_whole) == (50, True)
    assert found.columns["finish_reason"] == {"stop": 50}
    assert sum(found.columns["cer"].values()) == 50


def test_of_a_large_table_the_beginning_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    table = a_table(50)
    monkeypatch.setattr(evaluate_rows, "MOST_BYTES", 1000)
    found = distributions(table[:1000])
    assert not found.is_whole
    assert 0 < found.rows < 50
    assert sum(found.columns["cer"].values()) == found.rows
    assert distributions(b"row,asked,error\r\n").columns == {}


def test_a_metric_stands_on_the_scale_of_all_that_it_can_be() -> None:
    assert scale("accuracy", 0.4, 0.5) == (0, 1)
    assert scale("mcc", -0.1, 0.0) == (-1, 1)
    assert scale("cer", 0.2, 0.3) == (0, 1)
    assert scale("perplexity", 10, 20)[1] == pytest.approx(23)
    assert scale("avg_loss", 0, None) == (0, 1)


def test_one_metric_stands_for_all() -> None:
    assert main_metric({"avg_loss": 1.5, "accuracy": 0.25}) == "accuracy 0.250"
    assert main_metric({"word_perplexity": 1.2e29}) == "word_perplexity 1.20e+29"
    assert main_metric({}) == "—"


def test_progress_is_told_in_rows_and_in_time_left() -> None:
    assert progress_words({"state": "queued", "progress": {}}) == (0, "It waits for its turn.")
    assert progress_words({"state": "running", "progress": {}}) == (0, "The model is being opened.")
    told = {"state": "running", "progress": {"done": 250, "total": 1000, "eta_s": 42.0}}
    assert progress_words(told) == (0.25, "250 of 1,000 rows, about 42 s left")


def test_long_texts_are_shortened_by_lines_and_by_letters() -> None:
    assert shortened("short\n") == "short\n"
    assert shortened("\n".join("abcdefgh")) == "a\nb\nc\nd\ne\nf"
    assert len(shortened("x" * 1000)) == 240
