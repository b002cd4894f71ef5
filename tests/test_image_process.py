"""The process that reads, from outside: it ends with a killed server, takes little memory, and none of it is in us."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from contextlib import suppress

from PIL import Image

from ml_service.common.errors import BadRequest, TooLarge
from ml_service.common.settings import PROJECT, Settings
from tests.broken_images import bombs, encoded
from tests.rendered_images import render
from tests.test_image_reader import in_a_loop, is_alive, peak_bytes, running, until

MEBIBYTE = 1 << 20


def test_it_ends_with_a_server_that_is_killed() -> None:
    server = textwrap.dedent(
        """
        import asyncio, sys
        from ml_service.common.settings import Settings
        from ml_service.inference.image_reader import ImageReader
        from ml_service.utils.telemetry import Telemetry

        async def serve():
            reader = ImageReader(Settings(threads=1, image_reader="at_start"), Telemetry())
            async with reader.running():
                print(reader._process.pid, flush=True)
                await asyncio.sleep(600)

        asyncio.run(serve())
        """
    )
    with subprocess.Popen([sys.executable, "-c", server], cwd=PROJECT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert is_alive(pid)
        process.kill()
    in_a_loop(lambda: until(lambda: not is_alive(pid)))


def test_the_worst_images_take_less_than_500_mb() -> None:
    wide = Image.new("RGB", (4472, 4472), "white")  # as many pixels as there may be
    wide.paste(render("some words", "DejaVuSans", 60), (100, 100))
    worst = [  # each small enough to be taken
        encoded(wide.convert("RGBA"), "PNG", compress_level=1),
        encoded(wide.convert("F"), "TIFF", compression="tiff_adobe_deflate"),
        encoded(wide.crop((0, 0, 4472, 2236)), "WEBP", quality=50, method=0),
        *bombs().values(),
    ]

    async def act() -> None:
        async with running() as world:
            for image in worst:
                assert len(image) <= Settings().max_image_bytes
                with suppress(BadRequest, TooLarge):
                    assert "some words" in (await world.reader.read(image)).text
            assert world.results() == {"read": 3, "refused": len(bombs())}
            assert peak_bytes(world.pid) < 500_000_000

    in_a_loop(act)


def test_memory_comes_back_after_an_image() -> None:
    code = "\n".join(f"def function_{number}(argument, other):" for number in range(20))
    screenshot = encoded(render(code, "DejaVuSansMono", 16, is_code=True), "PNG")

    async def act() -> None:
        async with running() as world:
            for _ in range(3):
                assert len((await world.reader.read(screenshot)).lines) == 20
            assert peak_bytes(world.pid) < 350 * MEBIBYTE

    in_a_loop(act)


def test_a_server_that_can_read_images_has_no_library_for_them() -> None:
    code = "import sys, ml_service.inference.image_reader; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert not set(done.stdout.split()) & {"cv2", "rapidocr", "PIL", "onnxruntime", "numpy"}
