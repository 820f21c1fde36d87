"""Names of folders and files that replace one another."""

from itertools import product

import pytest

from alltrades.system.files import replacing, slug, unslug


def test_different_names_have_different_folders():
    names = ["".join(x) for n in range(1, 7) for x in product("a/_.", repeat=n)]
    names += ["a b", "a:b", "a-b", "a%20b", "é1", "\u0e91", "ø", "o", "A", "日本", "\ud800"]
    names = sorted(set(names))
    slugs = [slug(n) for n in names]
    assert len(set(slugs)) == len(names) and [unslug(s) for s in slugs] == names
    assert not any("/" in s or s in (".", "..") or s.startswith((".", "__")) for s in slugs)
    assert slug("planar/reach") == "planar__reach" and slug("labeled_only") == "labeled_only"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, error):
    path = tmp_path / "new" / "a.bin"
    with replacing(path) as partial:
        partial.write_bytes(b"one")
        assert not path.exists() and partial.parent == path.parent
    with pytest.raises(error), replacing(path) as partial:
        partial.write_bytes(b"tw")
        raise error
    assert path.read_bytes() == b"one" and list(path.parent.iterdir()) == [path]
    with replacing(path) as partial:
        partial.write_bytes(b"three")
    assert path.read_bytes() == b"three"
