#!/usr/bin/env python3
"""Checks what emoji-prepare writes, without using any of our code to read it: the splits keep apart
what they should, the vocabulary covers train, and the unigram loss is worked out again."""
import base64, json, math, os, pathlib, re, subprocess, sys, tempfile, unicodedata

PROGRAM = pathlib.Path(os.environ.get("BUILD", "build")) / "emoji-prepare"
SPLITS = ["train", "valid", "test", "unseen"]
failures = 0


def check(ok, what):
    global failures
    if not ok:
        failures += 1
        print("failed:", what)


def run(*args):
    return subprocess.run([PROGRAM, *args], capture_output=True, text=True)


def read(folder, split):
    """[(id, caption, png)]"""
    tsv = dict(line.split("\t") for line in open(f"{folder}/IC_{split}.tsv"))
    items = [json.loads(line) for line in open(f"{folder}/IC_{split}.jsonl")]
    check(sorted(tsv) == sorted(e["image_id"] for e in items), f"{split}: ids of both files")
    return [(e["image_id"], e["text"][0], base64.urlsafe_b64decode(tsv[e["image_id"]]))
            for e in items]


def base(image_id):
    """A coarser base symbol than the program's: the first one, without skin, hair and gender."""
    c = [int(x, 16) for x in image_id.split("-")]
    if 0x1f1e6 <= c[0] <= 0x1f1ff or len(c) > 1 and c[1] > 0xe0000:
        return image_id
    c = [x for x in c if not (0x1f3fb <= x <= 0x1f3ff and len(c) > 1)]
    return f"{c[0]:x}" if c[0] not in (0x1f468, 0x1f469, 0x1f9d1) else image_id


def pieces(text, vocabulary):
    out = []
    for word in re.findall(r"[A-Za-z0-9À-ÿ]+|\S", unicodedata.normalize("NFC", text)):
        at, cut = 0, []
        while at < len(word):
            ends = (e for e in range(len(word), at, -1)
                    if ("##" if at else "") + word[at:e] in vocabulary)
            end = next(ends, None)
            if end is None:
                cut = ["[UNK]"]
                break
            cut.append(("##" if at else "") + word[at:end])
            at = end
        out += cut
    return out + ["[SEP]"]


def main():
    with tempfile.TemporaryDirectory(prefix="m6c-emoji-") as folder:
        first = run(folder + "/a")
        if first.returncode:
            print(first.stderr)
            return 77 if "cannot read the font" in first.stderr else 1
        files = sorted(os.listdir(folder + "/a"))
        again = run(folder + "/a")
        check(again.stdout == first.stdout and "up to date" in again.stderr, "a second run")
        os.unlink(folder + "/a/IC_test.tsv")
        check("up to date" not in run(folder + "/a").stderr, "a lost file is made again")
        run(folder + "/b")
        for f in files:
            same = open(f"{folder}/a/{f}", "rb").read() == open(f"{folder}/b/{f}", "rb").read()
            check(same, f"{f} is the same each time")
        check(run(folder + "/c", "--font", "/dev/null").returncode == 1, "a bad font is refused")
        check(run(folder + "/c", "--lang", "xx").returncode == 2, "a bad option is refused")
        check(not os.path.exists(folder + "/c"), "nothing is written then")

        data = {s: read(folder + "/a", s) for s in SPLITS}
        stats = json.load(open(folder + "/a/stats.json"))
        vocabulary = open(folder + "/a/vocab.txt").read().split("\n")[:-1]
        for split, items in data.items():
            check(stats["splits"][split]["pictures"] == len(items) > 100, f"{split}: count")
            check(all(p[:8] == b"\x89PNG\r\n\x1a\n" for _, _, p in items), f"{split}: PNG files")
        seen = {split: {base(i) for i, _, _ in data[split]} for split in SPLITS}
        check(not seen["unseen"] & seen["train"], "unseen bases are not in train")
        images = {s: {p for _, _, p in data[s]} for s in SPLITS}
        for a in SPLITS:
            for b in SPLITS:
                check(a == b or not images[a] & images[b], f"{a} and {b} share no picture")

        vocab = set(vocabulary)
        train = [t for _, text, _ in data["train"] for t in pieces(text, vocab)]
        check("[UNK]" not in train, "the vocabulary covers train")
        count = {t: train.count(t) for t in set(train)}
        for split in SPLITS:
            tokens = [t for _, text, _ in data[split] for t in pieces(text, vocab)]
            total = len(train) + len(vocabulary)
            loss = -sum(math.log((count.get(t, 0) + 1) / total) for t in tokens) / len(tokens)
            told = stats["splits"][split]["unigram_loss"]
            check(abs(loss - told) < 1e-4, f"{split}: unigram loss {told}, worked out {loss}")
    return failures != 0


sys.exit(main())
