"The check of a folder, where memory is scarce"
from genderres.check import check_images

def test_large_photos_take_turns(large_photos, monkeypatch):
    "No more pixels are in work than the budget says, over all threads; every photo has its facts"
    folder, most, held = large_photos
    monkeypatch.setattr('genderres.files.usable_cores', lambda: 8)
    table = check_images(folder, verbose=False)
    assert table.usable.all() and len(table) == 24
    assert most < max(held) < 2**26   # several small ones at once, and two large ones never
