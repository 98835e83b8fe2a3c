"""What tests of hostile data share: names that lead elsewhere, and what a folder holds."""

import os

CLIMBING = (
    "..",
    "../victim",
    "../../../victim",
    "/tmp/victim",
    "a/../../victim",
    ".hidden",
    "",
    "a\0b",
    "a\nb",
    "a" * 300,
)


def content(root):
    """{path below root: its bytes, or where its link leads}."""
    return {
        path.relative_to(root).as_posix(): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
