"""T25: hostile variants of every table format, by a seeded rule; refused, or what is spoilt left out, by name."""

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.data.charades_csv import read_charades
from pipeline.data.convert.found import Told
from pipeline.data.convert.tables import READERS, convert
from pipeline.data.plain_csv import read_plain
from pipeline.errors import PipelineError

CHARADES = "id,subject,scene,quality,relevance,verified,script,objects,descriptions,actions,length"
EPIC = "video_id,start_timestamp,stop_timestamp,verb,verb_class,noun,noun_class"
# «kind:value»: i an id, s a split, t a time in text, l a label of a list, n free text, c the number of a class;
# J a number and S a text of JSON; p the path of a video
GOOD = {
    "plain": "video_id,split,start,end,label\n«i:a»,«s:train»,«t:0.5»,«t:2»,«l:wave»\n«i:b»,test,1,«t:3»,«l:sit»\n",
    "charades": f'{CHARADES}\n«i:A»,,,,,,,,,"c00«c:0» «t:0.5» 2;c001 1 «t:2»",«t:9»\n«i:B»,,,,,,,,,,8\n',
    "activitynet": '{"database": {"«i:a»": {"subset": «S:"training"», "annotations": [{"label": "«n:wave»", "segment"'
    ': [«J:0.5», «J:2»]}, {"label": «S:"sit"», "segment": [1, «J:3»]}]}, "«i:b»": {"subset": "validation"'
    ', "annotations": [{"label": "«n:wave»", "segment": [0, 1]}]}}}',
    "charades-json": '{"«i:a»": {"subset": «S:"training"», "duration": 9, "actions": [[«C:0», «J:0.5», '
    '«J:2»], [1, 1, «J:3»]]}, "«i:b»": {"subset": "«n:testing»", "actions": [[«C:1», 0, «J:1»]]}}',
    "path-label": "x/«p:a.mp4» «c:0»\n«p:y/b c.mp4» «c:1»\nz/«p:d.mkv» «c:1»\n",
    "folders": "«n:wave»/«p:a.mp4»\n«n:sit»/«p:b.mp4»\nsit/«p:c.mkv»\n",
    "epic": f"{EPIC}\n«i:P01_01»,«t:00:00:01.5»,«t:00:00:02»,«n:open»,«c:3»,door,«c:1»\n"
    "«i:P01_02»,«t:00:00:03»,00:00:04,take,«c:0»,«n:cup»,2\n",
    "ava": "«i:abc»,«t:0902»,0.1,0.2,0.3,0.4,«c:1»,0\n«i:abd»,«t:0903»,0.1,0.2,0.3,0.4,«c:0»,1\n",
    "assembly101": "video,start_frame,end_frame,action_cls\nx/a.mp4,«t:30»,«t:60»,«n:lift»\n"
    "y/b.mp4,«t:1»,«t:9»,«n:drop»\n",
    "kinetics": "label,youtube_id,time_start,time_end,split\n«n:wave»,«i:abc»,«t:1»,«t:11»,train\n"
    "«n:sit»,«i:abd»,«t:2»,«t:12»,«n:validate»\n",
    "wlasl": '[{"gloss": "«n:book»", "instances": [{"video_id": "«i:01»", "split": «S:"train"», "frame_start": «C:1», '
    '"frame_end": «C:9», "fps": «J:25»}, {"video_id": "«i:02»", "split": "val", "frame_start": «C:2», '
    '"frame_end": 8}]}]',
}  # fmt: skip
MARK = re.compile("«(.):(.+?)»")
SPOILT = ["\u202e", "\u200b", "\x7f", "\x01", "\ue000"]  # not printable


def hostile_value(kind: str, chance: random.Random) -> str:
    """A value that no field of a kind may have."""
    number, word = chance.randrange(1, 10**6), "".join(chance.choices("abcdefgh", k=6))
    if kind == "i":
        return chance.choice([f"../{word}", f"{word}/x", f"{word}\u200b{word}", f"{word}..x", f"{word}?", word * 30])
    if kind in "ns":
        bad = word[:3] + chance.choice(SPOILT) + word[3:]
        return chance.choice([bad, "Train", "TEST", "", f" {word}"]) if kind == "s" else bad
    if kind == "l":
        return chance.choice([word, f" {word}", "Wave", "", word + chance.choice(SPOILT)])
    if kind == "p":
        return chance.choice([word, f"{word}.txt", f"{word}.mp4.part", f"{word}.mp4x", f"{word}."])
    if kind == "c":
        return chance.choice(
            [f"-{number}", f"{number}.5", f"{word}?", f"0x{number:x}", "٣", str(10**8 + number), f"={word}"]
        )
    if kind == "t":
        forms = [
            f"-{number}",
            f"{number}s",
            f"{number % 60}:{number % 59}",
            f"{number}e9",
            f"0x{number:x}",
            f"={number}",
        ]
        return chance.choice(
            [*forms, "nan", "inf", word, "٣", "9" * (9 + number % 99), f"1_{number}", f"00:{60 + number}:00"]
        )
    texts = [
        f"[{number}]",
        f'{{"{word}": 1}}',
        "null",
        "true",
        "[" * 3000,
        f"{number}.",
        f"0{number}",
        "NaN",
        "-Infinity",
    ]
    if kind == "S":
        return chance.choice([*texts, str(number)])
    more = [f"{number}e400", str(10**9 + number), str(-(10**8) - number), "9" * 5000, f'"{word}"']
    return chance.choice([*texts, *more, *([f"{number}.5", f'"{number}"'] if kind == "C" else [])])


def hostile(marked: str, chance: random.Random) -> bytes:
    """The file with one field, or the whole, spoilt."""
    good = MARK.sub(r"\2", marked)
    rule, place = chance.randrange(10), chance.randrange(1, len(good) - 3)
    if rule == 0:
        return good[:place].encode() + b"\0" + good[place:].encode()
    if rule == 1:
        return good[:place].encode() + b"\xff\x81" + good[place:].encode()
    if rule == 2:
        return (good[:place] + chance.choice(SPOILT) * 200_000).encode("utf-16-le")
    if rule == 3:  # JSON that ends too early; a quote that never ends
        return good[:place].encode() if good[0] in "{[" else f'{good}"{place}\n'.encode()
    mark = chance.choice(list(MARK.finditer(marked)))
    spoilt = marked[: mark.start()] + hostile_value(mark[1], chance) + marked[mark.end() :]
    return MARK.sub(r"\2", spoilt).encode()


def read_by(kind: str, folder: Path) -> Callable[[Path], list[str]]:
    """The reader of a format; it returns what was left out."""
    (folder / "names.txt").write_text("c000 wave\nc001 sit\n")
    (folder / "classes.txt").write_text("wave\nsit\n")
    (folder / "none.csv").write_text(f"{CHARADES}\n")
    if kind == "plain":
        return lambda path: read_plain(path, folder / "classes.txt") and []
    if kind == "charades":
        return lambda path: read_charades(path, folder / "none.csv", folder / "names.txt") and []
    names = folder / "names.txt" if kind in ("path-label", "ava", "charades-json") else None
    split = "train=" if kind in ("path-label", "folders", "epic", "ava", "assembly101") else ""
    return lambda path: convert(kind, [f"{split}{path}"], Told(unit="seconds"), names).notes


@pytest.mark.parametrize("kind", GOOD)
def test_hostile_variants(kind, tmp_path, trials, count):
    read, path, chance, number = read_by(kind, tmp_path), tmp_path / "table", random.Random(kind), trials(200, 6)
    path.write_text(MARK.sub(r"\2", GOOD[kind]))
    assert read(path) == []  # the good one
    tried, named = set(), 0
    while len(tried) < number:
        content = hostile(GOOD[kind], chance)
        if content in tried:
            continue
        tried.add(content)
        path.write_bytes(content)
        try:
            said = "; ".join(read(path))
        except PipelineError as error:
            said = str(error)
        assert str(path) in said, (content[:300], said[:300])
        named += "\n" not in said
    count("T25", f"{kind}: hostile variants end in one line that names the place", named, number)


def test_every_format_is_tried():
    assert GOOD.keys() == {"plain", "charades", *READERS}
