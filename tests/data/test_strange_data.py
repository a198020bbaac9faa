"""Files that are not the program's, in folders of data, stay."""

import small_sets
from benchmarks import strangers
from sgdat_jax import cli
from sgdat_jax.data.prepared_sets import prepared


def test_folders_of_data(tmp_path):
    outside = strangers.outside(tmp_path)
    arrays, sets = tmp_path / "arrays", tmp_path / "sets"
    arrays.mkdir()
    sets.mkdir()
    small_sets.arrays(arrays)
    root = small_sets.tiny_imagenet(tmp_path / "published")
    for folder in (arrays, sets):
        strangers.put(folder, outside)
    sheet = tmp_path / "sheet.png"
    before = strangers.contents(tmp_path)
    sheet.symlink_to(outside / "learning.png")
    cli.main(["data", "info", f"{arrays}/"])
    cli.main(["data", "show", f"{arrays}/", "--out", str(sheet)])
    assert not sheet.is_symlink()
    words = ["tiny_imagenet", "--data-dir", str(sets)]
    cli.main(["data", "prepare", *words, "--from", str(root)])
    strangers.put(sets / "tiny_imagenet", outside)
    before = strangers.contents(tmp_path) | before
    cli.main(["data", "prepare", *words])
    cli.main(["data", "info", *words])
    assert before.items() <= strangers.contents(tmp_path).items()
    assert prepared.load("tiny_imagenet", sets).num_classes == 3
