"""The pairs to translate: alignment, rules, splits and the whole builder, on samples made here (no network)."""

import gzip
import json
from dataclasses import replace

import pytest

pytest.importorskip("datasets")

from datasets import load_from_disk  # noqa: E402
from fblt.training.data import folder  # noqa: E402
from fblt.training.data.packages import Package  # noqa: E402
from fblt.training.data.restore.catalogs import messages  # noqa: E402
from fblt.training.data.restore.languages import BY_NAME  # noqa: E402
from fblt.training.data.restore.lines import near_key  # noqa: E402
from fblt.training.data.restore.sources import LineSource, read_catalog, read_manual, read_page  # noqa: E402
from fblt.training.data.restore.splits import SPLITS, assign  # noqa: E402
from fblt.training.data.translate import build  # noqa: E402
from fblt.training.data.translate.pairs import (  # noqa: E402
    Pair,
    agree,
    is_usable_pair,
    lines_of_pair,
    message_pairs,
    page_pairs,
    same_key,
    shared_key,
)
from fblt.training.data.translate.sources import SOURCES, PairSource, page_key  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from tests.cli import refusal  # noqa: E402
from tests.training.data.catalogs import make_catalog  # noqa: E402

FRENCH = BY_NAME["fr"]

# --- alignment ---


def test_messages_are_paired_by_their_ids():
    data = make_catalog(
        {
            "": "Content-Type: text/plain; charset=UTF-8\n",
            "menu\x04Open the file": "Ouvrir le fichier",
            "one file\0many files": "un fichier\0des fichiers",
            "First part.\n\nSecond part.": "Première partie.\n\nSeconde partie.",
            "One\n\ntwo": "Un deux",
        }
    )
    assert sorted(message_pairs(messages(data))) == [
        ("Ouvrir le fichier", "Open the file"),
        ("Première partie.", "First part."),
        ("Seconde partie.", "Second part."),
        ("des fichiers", "many files"),
        ("un fichier", "one file"),
    ]


def test_a_plural_without_forms_goes_with_the_singular():
    assert list(message_pairs([(["a day", "days"], ["ngày"])])) == [("ngày", "a day")]


def test_pages_are_paired_by_position_if_they_are_the_same_page():
    foreign = ["Le  dossier 3 est vide.", "OK", "Une autre ligne est ici."]
    english = ["Folder 3 is empty.", "OK", "Another line is here."]
    assert page_pairs(foreign, english) == [
        ("Le dossier 3 est vide.", "Folder 3 is empty."),
        ("Une autre ligne est ici.", "Another line is here."),
    ]
    assert page_pairs([*foreign, "Traduit par", "nous", "pour vous"], english) == page_pairs(foreign, english)
    assert page_pairs(foreign, english[:2]) == []
    assert page_pairs(foreign, ["Short.", "OK", "Chapter 7 is about something else, and at much greater length."]) == []


@pytest.mark.parametrize(
    ("path", "names", "original"),
    [
        ("usr/share/man/fr/man1/ls.1.gz", FRENCH.names, "usr/share/man/man1/ls.1.gz"),
        ("usr/share/doc/maint-guide-fr/html/a.fr.html", FRENCH.names, "usr/share/doc/maint-guide/html/a.en.html"),
        ("usr/share/doc/debian/FAQ/fr/a.fr.html", FRENCH.names, "usr/share/doc/debian/FAQ/a.en.html"),
        ("usr/share/help/fr/x/a.page", FRENCH.names, "usr/share/help/C/x/a.page"),
        ("usr/share/libreoffice/help/fr/text/a.html", FRENCH.names, "usr/share/libreoffice/help/en-US/text/a.html"),
    ],
)
def test_a_page_and_its_original_have_one_key(path, names, original):
    assert page_key(path, names) == page_key(original, ("en", "en-US", "en_US", "C"))
    assert page_key(path, names) != page_key(original.replace("a.", "b.").replace("ls", "cp"), ("en", "C"))


# --- pairs ---


@pytest.mark.parametrize(
    ("foreign", "english"),
    [
        ("Les fichiers de la page 3 sont lus", "The files of page 4 are read"),
        ("Les fichiers de la liste sont lus", "Files"),
        ("The files of the list are read", "The files of the list are read"),
        ("Les fichiers de la liste sont lus", "Les fichiers de la page sont lus"),
        ("Les fichiers %s de la liste", "The files %s of the list"),
        ("Le rocher Gallia Omnia Divisa Partes", "The rock Gallia Omnia Divisa Partes"),
    ],
)
def test_pairs_that_say_different_things_are_left_out(foreign, english):
    assert not is_usable_pair(foreign, english, FRENCH)


def test_long_pairs_are_cut_into_sentences_where_both_have_as_many():
    words = "un deux trois quatre".split()
    ours = [f"Les fichiers sont dans la liste du dossier numéro {word} de cette page." for word in words]
    theirs = [f"The files are in the list of the folder number {word} of this page." for word in words]
    pairs = list(zip(ours, theirs, strict=True))
    assert list(lines_of_pair(" ".join(ours), " ".join(theirs), FRENCH)) == pairs
    assert list(lines_of_pair(" ".join(ours), " ".join(theirs[:3]), FRENCH)) == []
    assert list(lines_of_pair(ours[0], theirs[0], FRENCH)) == pairs[:1]


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_agreement_knows_numbers_and_lengths(one, other):
    assert agree(one, one)
    assert not agree(one + " 7", one)
    assert not agree(one, one + other + "x" * (len(one) + 40))


# --- splits ---


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.sampled_from(["docs", "tales"]),
            st.sampled_from(["fr", "de"]),
            st.text("abé", max_size=2),
            st.text("xy", max_size=2),
        )
    )
)
def test_no_split_knows_a_side_of_another_split(drawn):
    pairs = [Pair(source, name, code, "GPL", f"Ligne {a}", f"Line {b}") for name, source, code, a, b in drawn]
    limits = replace(build.LIMITS, held_out=0.3)
    splits = assign(pairs, frozenset({"tales"}), limits, 0, same_key, shared_key)
    assert list(splits) == list(SPLITS)
    sides = {
        split: {near_key(text) for pair in own for text in (pair.text, pair.english)} for split, own in splits.items()
    }
    for split, own in sides.items():
        assert all(split == other or not own & others for other, others in sides.items())
        for side in ("text", "english"):
            keys = [(pair.language, near_key(getattr(pair, side))) for pair in splits[split]]
            assert len(keys) == len(set(keys))


# --- the builder ---

WORDS = "un deux trois quatre cinq six sept huit neuf dix onze douze treize quatorze quinze seize vingt trente".split()


def make_package(unpacked, name: str) -> None:
    """What unpacking a package leaves: a page of help in two languages and a catalogue; manuals by language."""
    files = {f"usr/share/doc/{name}/copyright": b"notice"}
    if name == "tales":
        fairy = {"I am a fairy of the woods": "Je suis une fée de la forêt"}
        files["usr/share/locale/fr/LC_MESSAGES/p.mo"] = make_catalog(fairy)
    elif name == "help":
        files["usr/share/help/fr/a.page"] = b"<page><p>Le dossier est dans la liste des dossiers.</p></page>"
        files["usr/share/help/C/a.page"] = b"<page><p>The folder is in the list of folders.</p></page>"
    for word in WORDS if name.startswith("man") else ():
        if name == "man-pages":
            path, text = f"man1/{word}.1.gz", f"The files of the list {word} in this folder."
        elif name == "man-fr":
            path, text = f"fr/man1/{word}.1.gz", f"Les fichiers de la liste {word} du dossier."
        else:
            path, text = f"de/man1/{word}.1.gz", f"Die Dateien der Liste {word} im Ordner."
        files[f"usr/share/man/{path}"] = gzip.compress(f".SH NOM\n{text}".encode())
    for path, data in files.items():
        (unpacked / path).parent.mkdir(parents=True, exist_ok=True)
        (unpacked / path).write_bytes(data)


@pytest.fixture
def sources(monkeypatch):
    """A builder with three sources, whose packages need no files."""
    manuals = LineSource("manpages", ("man-{}",), "GPL", "pages", r"man/.*\.gz$", read_manual, tags="fr de")
    found = (
        PairSource(manuals, ("man-pages",)),
        PairSource(LineSource("help", ("help",), "GPL", "help", r"\.page$", read_page), ("help",)),
        PairSource(LineSource("tales", ("tales",), "GPL", "tales", r"\.mo$", read_catalog, prose=True)),
    )
    monkeypatch.setattr(build, "SOURCES", found)
    monkeypatch.setattr(build, "unpack", lambda package, unpacked: make_package(unpacked, package.name))
    monkeypatch.setattr(build, "read_package", lambda name, place: Package(name, "1", "0" * 64, place / name))
    monkeypatch.setattr(folder, "missing_packages", lambda names, place: [])
    monkeypatch.setattr(folder, "check_tools", lambda download: None)


def test_the_builder_writes_pairs_manifest_and_notices(tmp_path, sources):
    output = tmp_path / "translate"
    limits = replace(build.LIMITS, held_out=0.3)
    build.prepare(output, tmp_path, False, limits, seed=0, overwrite=False)
    data = load_from_disk(str(output))
    assert set(data) == set(SPLITS)
    rows = [row for split in data.values() for row in split]
    assert {(row["prompt"], row["completion"]) for row in rows} == {
        *((f"Les fichiers de la liste {w} du dossier.\n", f"The files of the list {w} in this folder.") for w in WORDS),
        *((f"Die Dateien der Liste {w} im Ordner.\n", f"The files of the list {w} in this folder.") for w in WORDS),
        ("Je suis une fée de la forêt\n", "I am a fairy of the woods"),
        ("Le dossier est dans la liste des dossiers.\n", "The folder is in the list of folders."),
    }
    assert [row["completion"] for row in data["test_prose"]] == ["I am a fairy of the woods"]
    documents = [{row["group"] for row in split} for split in data.values()]
    assert len(set.union(*documents)) == sum(map(len, documents))  # in one split each, in both languages
    columns = {"source", "group", "language", "license", "split", "prompt", "completion"}
    assert set(data["train"].column_names) == columns
    manifest = json.loads((output / "manifest.json").read_text())
    names = ["man-pages", "man-fr", "man-de", "help", "tales"]
    assert [p["name"] for source in manifest["sources"] for p in source["packages"]] == names
    assert sorted(file.stem for file in (output / "licenses").iterdir()) == sorted(names)


@pytest.mark.parametrize(
    ("name", "path", "original"),
    [
        ("libreoffice-help", "libreoffice/help/fr/text/a.html", "libreoffice/help/en-US/text/a.html"),
        ("manpages", "man/fr/man1/ls.1.gz", "man/man1/ls.1.gz"),
        ("debian-docs", "doc/debian-handbook/html/fr-FR/apt.html", "doc/debian-handbook/html/en-US/apt.html"),
        ("debian-docs", "debian-reference/ch01.fr.html", "debian-reference/ch01.en.html"),
        ("debian-docs", "developers-reference/fr/scope.html", "developers-reference/scope.html"),
        ("gimp-help", "gimp/2.0/help/fr/a.html", "gimp/2.0/help/en/a.html"),
        ("gnome-help", "help/fr/gnome-help/a.page", "help/C/gnome-help/a.page"),
    ],
)
def test_sources_find_pages_and_their_originals(tmp_path, name, path, original):
    source = next(source for source in SOURCES if source.lines.name == name)
    foreign, english = "Un dossier est ici.", "A folder is here."
    for place, text in ((path, foreign), (original, english)):
        file = tmp_path / "usr/share" / place
        file.parent.mkdir(parents=True, exist_ok=True)
        page = gzip.compress(f".SH X\n{text}".encode()) if place.endswith(".gz") else f"<p>{text}</p>".encode()
        file.write_bytes(page)
    found = list(source.pairs(tmp_path, source.originals(tmp_path)))
    assert [(language.code, blocks) for _, language, blocks in found] == [("fr", [(foreign, english)])]


def test_all_sources_bring_originals_or_messages():
    for source in SOURCES:
        assert bool(source.english) != (source.lines.read is read_catalog), source.lines.name
        assert len(set(source.package_names())) == len(source.package_names())


def test_bad_arguments_are_named(tmp_path):
    message = refusal(build.main, "--output", tmp_path / "out", "--packages", "nowhere")
    assert "--packages nowhere: no such folder" in message
