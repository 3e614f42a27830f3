#!/usr/bin/env python3
"""Checks the diagnostics of the language: check_language.py [FILE…], with $BUILD/m6_check.

Every tests/frontend/errors/*.m6 carries, in its last lines, what m6_check must print about it:
    # error: LINE:COL: text      (notes and warnings likewise)
    # elsewhere: FILE:LINE:COL: error: text      (in another file, or at no place)
and optionally "# set: name=value" for --set. All messages must agree, in order. M6C_BLESS=1
rewrites the expectations. Inputs that are large, or not text, are made here at run time. Then every
.m6 file of the tree must print canonically and idempotently."""
import os, re, subprocess, sys, tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
MESSAGE = re.compile(r'^(?:(.*?):(\d+):(\d+): )?(error|warning|note): (.*)$')


def run(args, **kw):
    return subprocess.run(args, capture_output=True, timeout=120, **kw)


def messages(stderr, path):
    out = []
    for line in stderr.decode('utf-8', 'replace').splitlines():
        m = MESSAGE.match(line)
        if not m:
            continue
        file, row, col, kind, text = m.groups()
        if file == os.path.basename(path):
            out.append(f'# {kind}: {row}:{col}: {text}')
        else:
            place = '' if row is None else f'{file}:{row}:{col}: '
            out.append(f'# elsewhere: {place}{kind}: {text}')
    return out


def check_file(tool, path):
    with open(path, encoding='utf-8') as f:
        lines = f.read().split('\n')
    wanted = [l for l in lines if re.match(r'# (error|warning|note|elsewhere): ', l)]
    sets = [a for l in lines if l.startswith('# set: ') for a in ('--set', l[7:])]
    p = run([tool, 'elaborate', os.path.basename(path)] + sets, cwd=os.path.dirname(path))
    got = messages(p.stderr, path)
    if os.environ.get('M6C_BLESS') and got != wanted:
        kept = [l for l in lines if l not in wanted]
        with open(path, 'w', encoding='utf-8') as f:
            f.write('\n'.join(kept).rstrip('\n') + '\n' + '\n'.join(got) + '\n')
        wanted = got
    if p.returncode != 1:
        return f'exit status {p.returncode} instead of 1: {p.stderr[-400:]!r}'
    if not wanted:
        return 'says nothing about what it expects'
    if got != wanted:
        return 'wanted\n  ' + '\n  '.join(wanted) + '\ngot\n  ' + '\n  '.join(got)
    return None


def model(body):
    return b'model m(x: f32[2]) {\n    return sum(' + body + b')\n}\n'


# name, bytes, the first message (None: must be accepted)
GENERATED = [
    ('empty file', b'', "1:1: error: this file has no model"),
    ('only spaces', b' \n\n  ', '1:1: error: this file has no model'),
    ('not UTF-8', b'config a = 1\nconfig b\xff = 2\n',
     '2:9: error: byte 0xff is not valid UTF-8; save the file as UTF-8'),
    ('overlong UTF-8', b'# \xc0\xaf\n',
     '1:3: error: byte 0xc0 is not valid UTF-8; save the file as UTF-8'),
    ('surrogate', b'# \xed\xa0\x80\n',
     '1:3: error: byte 0xed is not valid UTF-8; save the file as UTF-8'),
    ('cut off UTF-8', b'# \xe4\xbd',
     '1:3: error: byte 0xe4 is not valid UTF-8; save the file as UTF-8'),
    ('NUL byte', b'config a\0 = 1\n', '1:9: error: a NUL byte: this is not a text file'),
    ('byte order mark and CRLF', b'\xef\xbb\xbf' + model(b'x').replace(b'\n', b'\r\n'), None),
    ('comment of 10 MB', b'#' + b'x' * 10_000_000 + b'\n' + model(b'x'), None),
    ('list of 10 MB', b'config a = 1' + b', b = 2' * 1_500_000,
     "1:22: error: config 'b' is defined twice"),
    ('sum of 10 MB', model(b'1 + ' * 2_500_000 + b'x'),
     '2:4014: error: this expression has more than 1000 operations inside each other; give parts '
     'of it names of their own'),
    ('name of 10 MB', model(b'x' * 10_000_000),
     '2:16: error: this name is longer than 200 characters'),
    ('number of 10 MB', model(b'9' * 10_000_000),
     '2:16: error: this whole number does not fit in 64 bits'),
    ('text of 10 MB', b'use "' + b'x' * 10_000_000, "1:5: error: this text is not closed"),
    ('deep parentheses', model(b'(' * 100_000 + b'x' + b')' * 100_000),
     '2:214: error: brackets are nested more than 200 deep here'),
    ('deep blocks', b'layer f(x) {\n' + b'keep {\n' * 100_000 + b'}\n' * 100_001,
     '201:6: error: brackets are nested more than 200 deep here'),
    ('deep minus', model(b'-' * 100_000 + b'x'), '2:5003: error: this is nested too deeply'),
    ('deep else if', b'layer f(x) {\n' + b'if x { } else ' * 100_000 + b'{ }\n}',
     '2:17464: error: this is nested too deeply'),
    ('many errors', b'layer ) {\n' * 100_000, "1:7: error: expected a name, but found ')'"),
]


def check_generated(tool, folder, text, wanted):
    path = os.path.join(folder, 'generated.m6')
    with open(path, 'wb') as f:
        f.write(text)
    p = run([tool, 'elaborate', path])
    if wanted is None:
        return None if p.returncode == 0 else f'refused: {p.stderr[:400]!r}'
    first = p.stderr.decode('utf-8', 'replace').split('\n')[0].replace(path + ':', '')
    if p.returncode != 1 or not first.startswith(wanted):
        return f'wanted {wanted!r}, got {p.returncode} {first[:300]!r}'
    return None if len(p.stderr) < 20_000 else f'{len(p.stderr)} bytes of diagnostics'


def check_format(tool, folder, path):
    once = run([tool, 'fmt', path])
    if once.returncode:
        return f'exit status {once.returncode}: {once.stderr[:300]!r}'
    copy = os.path.join(folder, 'once.m6')
    with open(copy, 'wb') as f:
        f.write(once.stdout)
    twice = run([tool, 'fmt', copy])
    if twice.stdout != once.stdout:
        return 'printing twice gives something else'
    with open(path, 'rb') as f:
        source = f.read()
    comments = lambda t: sorted(c.rstrip() for c in re.findall(rb'#.*', t))
    if comments(source) != comments(once.stdout):
        return 'comments were lost'
    canonical = '/examples/' in path or path.endswith('m6.m6')
    return 'is not in canonical form' if canonical and source != once.stdout else None


def m6_files():
    for top, dirs, files in os.walk(ROOT):
        dirs[:] = [d for d in dirs if not d.startswith('.') and not d.startswith('build')]
        yield from (os.path.join(top, f) for f in files if f.endswith('.m6') and '/errors' not in top)


def main():
    tool = os.path.join(os.environ.get('BUILD', os.path.join(ROOT, 'build')), 'm6_check')
    errors = os.path.join(HERE, 'errors')
    paths = sys.argv[1:] or sorted(os.path.join(errors, f) for f in os.listdir(errors)
                                   if f.endswith('.m6'))
    results = [(os.path.basename(p), check_file(tool, p)) for p in paths]
    with tempfile.TemporaryDirectory() as folder:
        if not sys.argv[1:]:
            results += [(n, check_generated(tool, folder, t, w)) for n, t, w in GENERATED]
            results += [(f'fmt {os.path.relpath(p, ROOT)}', check_format(tool, folder, p))
                        for p in sorted(m6_files())]
    failed = [r for r in results if r[1]]
    for name, why in failed:
        print(f'{name}: FAILED: {why}')
    print(f'{len(results) - len(failed)} passed, {len(failed)} failed, 0 skipped')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
