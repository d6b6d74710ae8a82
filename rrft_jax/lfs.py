"""Pointers of git-lfs: small texts in the place of the files of a clone that was not completed."""

import re

POINTER = b"version https://git-lfs"  # the beginning of the pointer that stands for a file


def message(content: bytes) -> str:
    """Return the error text for a file that is a pointer: its problem and the remedy."""
    size = re.search(rb"^size (\d+)$", content, re.MULTILINE)
    return (
        "a pointer of git-lfs in the place of the file"
        + (f" of {int(size[1]):,} bytes" if size else "")
        + "; run git lfs pull in its folder, or download it again"
    )
