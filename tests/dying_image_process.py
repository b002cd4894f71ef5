"""A stand-in for the process that reads images: it takes the first one and dies of it."""

from __future__ import annotations

import os
import sys

from lib.asked_process import Questions

if __name__ == "__main__":
    questions = Questions(sys.argv[1])
    questions.answer({"ready": True})
    questions.next()
    os._exit(3)
