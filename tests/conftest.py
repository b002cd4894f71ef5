"""A small world for the tests: a corpus, a data set, a trained run, its bundles."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from fastapi.testclient import TestClient

os.environ["TOKENIZERS_PARALLELISM"] = "true"
os.environ["OMP_NUM_THREADS"] = "1"  # the models are tiny: more threads only wait for each other
for name in [name for name in os.environ if name.startswith("ML_SERVICE_")]:
    del os.environ[name]  # a developer's own settings must not reach the tests

from lib.corpora import folder  # noqa: E402
from lib.dataset_builder import BuildOptions, build_dataset  # noqa: E402
from lib.token_shards import DatasetManifest  # noqa: E402
from ml_service.backend.app import create_app  # noqa: E402
from ml_service.common.settings import Settings  # noqa: E402
from ml_service.data.database import Database  # noqa: E402
from ml_service.data.schema import migrate  # noqa: E402
from tests.databases import Cluster  # noqa: E402

# Machines are noisy: how long an example takes says nothing.
hypothesis.settings.register_profile("noisy", deadline=None)
hypothesis.settings.load_profile("noisy")

VOCABULARY = 512
WINDOW = 64
_WORDS = ("value total count name path item line text index result buffer size head tail node left right").split()


def write_corpus(root: Path, files: int = 80) -> None:
    """Files of code-like text, the same on every machine."""
    root.mkdir(parents=True)
    for number in range(files):
        source = random.Random(number)
        lines = [f'"""Module {number}: {" ".join(source.choices(_WORDS, k=5))}."""', ""]
        for _ in range(12):
            first, second, third = source.choices(_WORDS, k=3)
            lines += [
                f"def {first}_{second}({third}, {second}=None):",
                f'    """Return the {first} of the {third}; naïve, 日本, 🙂."""',
                f"    if {second} is None:",
                f"        {second} = [{first} for {first} in {third} if {first} > {source.randint(0, 99)}]",
                f"    return {second}",
                "",
            ]
        (root / f"module_{number:03d}.py").write_text("\n".join(lines), encoding="utf-8")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus") / "code"
    write_corpus(root)
    return root


@pytest.fixture(scope="session")
def dataset(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("dataset") / "small"
    build(corpus, output)
    return output


def build(corpus: Path, output: Path) -> DatasetManifest:
    return build_dataset(lambda: folder(corpus), output, BuildOptions(VOCABULARY, validation_share=0.2))


@pytest.fixture(scope="session")
def run(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of forty updates: enough for margins that are not noise."""
    from ml_service.training.workflow import build_training_artifacts, train

    directory = tmp_path_factory.mktemp("runs") / "small"
    train(build_training_artifacts(small_plan(dataset, directory, steps=40)))
    return directory


def small_plan(data: Path = Path("data"), run: Path = Path("run"), **changes: object):  # type: ignore[no-untyped-def]
    from ml_service.training.plan import TrainingPlan

    plan = {"experiment": "small", "window": WINDOW, "batch_size": 8, "validation_tokens": 1024, "evaluations": 2}
    return TrainingPlan(data=data, run=run, **(plan | {"checkpoints": 2, "precision": "fp32"} | changes))


@pytest.fixture(scope="session")
def bundle_fp32(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export(run, tmp_path_factory.mktemp("bundles") / "fp32", "fp32")


@pytest.fixture(scope="session")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In 8 bit, as bundles are served."""
    return _export(run, tmp_path_factory.mktemp("bundles") / "int8", "int8")


@pytest.fixture(scope="session")
def bundle_int4(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _export(run, tmp_path_factory.mktemp("bundles") / "int4", "int4")


def _export(run: Path, output: Path, precision: str) -> Path:
    from ml_service.pipeline.stages import export_model

    export_model(run, output, precision)  # type: ignore[arg-type]
    return output


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL server of our own."""
    cluster = Cluster()
    yield cluster
    cluster.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str | None:
    """An empty database; None is SQLite in the store."""
    if request.param == "sqlite":
        return None
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.create()


@pytest.fixture
def database(database_url: str | None, tmp_path: Path) -> Iterator[Database]:
    """A database with its schema, of either kind; its store is `tmp_path / "store"`."""
    database = Database(database_url, tmp_path / "store")
    migrate(database)
    yield database
    database.close()


@pytest.fixture
def settings(bundle: Path, tmp_path: Path) -> Settings:
    return Settings(bundle=bundle, store=tmp_path / "store", slots=4, max_waiting=4, prefill_chunk=16, threads=2)


@pytest.fixture(scope="session")
def client(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The app with the small bundle, as a client sees it."""
    store = tmp_path_factory.mktemp("store")
    settings = Settings(
        bundle=bundle, store=store, slots=4, max_waiting=4, prefill_chunk=16, threads=1, max_body_bytes=20_000
    )
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client
