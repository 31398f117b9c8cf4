"""From an unpacked package to documents: one reader per source.

A reader takes the folder into which a source's packages were unpacked and yields documents in a fixed order. `group` is
what may be held out as a whole: a file of code, a book, half a novel, a block of glosses.
"""

import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .formats import read_bible_data, read_r_lazy_data
from .text import clean_text, join_paragraphs


@dataclass(frozen=True)
class Document:
    group: str
    text: str


# Tests, tables written by programs and platform dumps: little of it is code that someone wrote to be read.
_NOT_CODE = re.compile(
    r"(^|/)(tests?|idle_test|encodings|pydoc_data|__phello__|Icons)/"
    r"|(^|/)(_sysconfigdata[^/]*|entities|stringprep|has_key|locale|_compat_pickle|makeunicodedata)\.py$"
)
_CODE_ROOTS = ("usr/lib/python3.11", "usr/lib/python3/dist-packages", "usr/share/doc/python3.11/examples")


def read_python(root: Path) -> Iterator[Document]:
    """One document per Python file; group = path below the library folder."""
    files: dict[str, Path] = {}
    for folder in (root / name for name in _CODE_ROOTS):
        for path in folder.rglob("*.py"):
            if path.is_file() and not path.is_symlink():
                files.setdefault(path.relative_to(folder).as_posix(), path)
    for name in sorted(files):
        if _NOT_CODE.search(name):
            continue
        data = files[name].read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = clean_text(data.decode(encoding))
        if text.strip():
            yield Document(name, text)


BIBLE_BOOKS = (
    "Genesis Exodus Leviticus Numbers Deuteronomy Joshua Judges Ruth 1_Samuel 2_Samuel 1_Kings 2_Kings 1_Chronicles "
    "2_Chronicles Ezra Nehemiah Esther Job Psalms Proverbs Ecclesiastes Song_of_Solomon Isaiah Jeremiah Lamentations "
    "Ezekiel Daniel Hosea Joel Amos Obadiah Jonah Micah Nahum Habakkuk Zephaniah Haggai Zechariah Malachi Matthew Mark "
    "Luke John Acts Romans 1_Corinthians 2_Corinthians Galatians Ephesians Philippians Colossians 1_Thessalonians "
    "2_Thessalonians 1_Timothy 2_Timothy Titus Philemon Hebrews James 1_Peter 2_Peter 1_John 2_John 3_John Jude "
    "Revelation"
).split()
_VERSE = re.compile(r"^(\d?[A-Za-z]+)(\d+):(\d+) (.+)$")


def read_bible(root: Path) -> Iterator[Document]:
    """One document per chapter, a heading and one numbered verse per line; group = book."""
    books: dict[str, str] = {}
    heading, verses = ("", 0), []
    for line in read_bible_data(root / "usr/lib/bible.data").split("\n"):
        match = _VERSE.match(line)
        if not match:
            continue  # the title line of the data file
        short, chapter, number, verse = match.groups()
        if short not in books:
            books[short] = BIBLE_BOOKS[len(books)].replace("_", " ")
        if (books[short], int(chapter)) != heading:
            if verses:
                yield _chapter(heading, verses)
            heading, verses = (books[short], int(chapter)), []
        verses.append(f"{number} {verse}")
    yield _chapter(heading, verses)


def _chapter(heading: tuple[str, int], verses: list[str]) -> Document:
    book, chapter = heading
    return Document(book, clean_text(f"{book} {chapter}\n\n" + "\n".join(verses)))


NOVELS = {
    "emma": "Emma",
    "mansfieldpark": "Mansfield Park",
    "northangerabbey": "Northanger Abbey",
    "persuasion": "Persuasion",
    "prideprejudice": "Pride and Prejudice",
    "sensesensibility": "Sense and Sensibility",
}
_CHAPTER = re.compile(r"^chapter (\d+|[ivxlc]+)\.?$", re.IGNORECASE)
_NOT_NOVEL = re.compile(r"^\s*(volume [ivx\d]+$|\[end volume|\*?a note on the text)", re.IGNORECASE)


def read_austen(root: Path) -> Iterator[Document]:
    """One document per chapter with unwrapped paragraphs; group = half a novel."""
    for name, lines in sorted(read_r_lazy_data(root / "usr/lib/R/site-library/janeaustenr/data/Rdata").items()):
        chapters = list(novel_chapters(lines))
        for position, chapter in enumerate(chapters):
            half = "first" if position < len(chapters) // 2 else "second"
            yield Document(f"{NOVELS[name]}, {half} half", clean_text(join_paragraphs(chapter)))


def novel_chapters(lines: list[str]) -> Iterator[list[str]]:
    """Cuts a novel at its chapter headings; what stands before the first one and editors' notes are left out."""
    chapter: list[str] = []
    for line in lines:
        if _NOT_NOVEL.match(line):
            if "note on the text" in line.lower():
                break
            continue
        if _CHAPTER.match(line.strip()):
            if chapter:
                yield chapter
            chapter = []
        elif not chapter:
            continue
        chapter.append(line)
    if chapter:
        yield chapter


LEXICOGRAPHER_FILES = (
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition "
    "noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person "
    "noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state "
    "noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition "
    "verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social "
    "verb.stative verb.weather adj.ppl"
).split()
SYNSETS_PER_DOCUMENT = 100
_ADJECTIVE_MARKER = re.compile(r"\((a|p|ip)\)$")


def read_wordnet(root: Path) -> Iterator[Document]:
    """One document per 100 consecutive synsets of a lexicographer file, a line `word, word: gloss` each; group = block.

    A definition that has stood before is skipped, so that no held-out gloss has a twin in training.
    """
    lines: dict[str, list[str]] = {}
    seen: set[str] = set()
    for part in ("noun", "verb", "adj", "adv"):
        text = (root / f"usr/share/wordnet/data.{part}").read_text(encoding="utf-8")
        for record in text.split("\n"):
            if not record or record.startswith(" "):
                continue  # the licence stands in front, indented
            lexicographer_file, line = parse_synset(record)
            definition = line.split(": ", 1)[1].split('; "', 1)[0].casefold()
            if definition not in seen:
                seen.add(definition)
                lines.setdefault(lexicographer_file, []).append(line)
    for name, entries in sorted(lines.items()):
        for start in range(0, len(entries), SYNSETS_PER_DOCUMENT):
            block = entries[start : start + SYNSETS_PER_DOCUMENT]
            yield Document(f"{name}/{start // SYNSETS_PER_DOCUMENT:03d}", clean_text("\n".join(block)))


def parse_synset(record: str) -> tuple[str, str]:
    """Returns the lexicographer file's name and the line `word, word: gloss` of one WordNet data record."""
    fields, gloss = record.split(" | ", 1)
    parts = fields.split(" ")
    words = [parts[4 + 2 * i] for i in range(int(parts[3], 16))]
    readable = ", ".join(_ADJECTIVE_MARKER.sub("", word).replace("_", " ") for word in words)
    return LEXICOGRAPHER_FILES[int(parts[1])], f"{readable}: {re.sub(' +', ' ', gloss).strip()}"
